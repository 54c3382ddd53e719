"""Memory, the C allocator and the machine of this process. No ROS."""
