"""What goes wrong with a model's files."""


class CheckpointError(Exception):
    """Weights or a model folder that cannot be used; the message says what is wrong and what to do."""
