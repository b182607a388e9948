class CheckpointError(ValueError):
    """A checkpoint that cannot be exported or converted; the message names what is wrong and where."""
