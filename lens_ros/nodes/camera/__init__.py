"""The node `camera`: a recording or a folder of pictures as a camera."""
