"""The ROS 2 side of lens_ros: messages, parameters and nodes. The only place that imports rclpy or
`lens_ros.msg`.
"""
