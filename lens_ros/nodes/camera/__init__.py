"""The node `camera`: publishes a recording or a folder of pictures like a camera."""
