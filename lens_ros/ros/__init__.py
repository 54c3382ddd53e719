"""Tools on top of rclpy that know nothing of segmentation, and the conversions of messages."""
