"""Geometry of cameras. No ROS."""
