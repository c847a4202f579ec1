"""Errors of a command as one line, where they are no mistake of this package."""

from llava_next_video.modeling.checkpoint_settings import UntrustedCheckpoint


EXPECTED = (ValueError, OSError, ImportError, UntrustedCheckpoint)
# How torch words what a machine lacks, in errors of types that it uses for everything else, too.
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
DEVICE_TROUBLE = (
    "CUDA error",
    "NVIDIA driver",
    "not compiled with CUDA",
    "no kernel image",
    "CUDA driver",
    "HIP error",
)
LESS_MEMORY = (
    "Less memory is taken by fewer frames (--num-frames), --dtype bfloat16, --quantize 4bit, and --device-map auto "
    "where several devices are there."
)


def line_of(error: Exception) -> str | None:
    """What to tell the user, in one line; `None` for an error that is a bug, and wants its traceback."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or is_about(error, OUT_OF_MEMORY):
        return f"The memory of this machine or device is not enough: {text.rstrip('.')}. {LESS_MEMORY}"
    if isinstance(error, EXPECTED):
        return text
    if is_about(error, DEVICE_TROUBLE):
        return f"The device cannot be used: {text.rstrip('.')}. --device cpu does without it."
    return None


def is_about(error: Exception, signs: tuple[str, ...]) -> bool:
    """Whether an error of torch or of what it is built on has one of these pieces in its text."""
    return isinstance(error, RuntimeError | AssertionError) and any(sign in str(error) for sign in signs)
