"""A gripper in a physical tabletop: what a grasp that was planned from a picture really lifts."""
