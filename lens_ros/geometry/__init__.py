"""Compute the geometry of cameras, without ROS."""
