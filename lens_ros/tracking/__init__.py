"""Track masks from image to image between two reasoning passes."""
