"""Training programs for the model weights."""
