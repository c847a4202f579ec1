"""What is wrong with a checkpoint's files."""


class CheckpointError(ValueError):
    """A checkpoint's files cannot be read, or are not complete."""


class UntrustedCheckpoint(Exception):
    """A checkpoint's folder leads to something outside of it, which was not opened.

    It is no `ValueError` and no `OSError`: transformers' Auto classes and pipelines go on with other classes after
    those, the built-in's among them, which would open it.
    """
