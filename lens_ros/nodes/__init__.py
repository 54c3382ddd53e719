"""The ROS 2 nodes, one package each."""
