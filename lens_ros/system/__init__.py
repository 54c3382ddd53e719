"""Know the memory, the C allocator and the machine of this process, without ROS."""
