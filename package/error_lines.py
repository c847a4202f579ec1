"""Errors of a command as one line, unless they are bugs."""

from llava_next_video.modeling.checkpoint_settings import UntrustedCheckpoint


EXPECTED = (ValueError, OSError, ImportError, UntrustedCheckpoint)
# Parts of torch's messages about what a machine lacks; their types are those of any other error.
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
    """The line for the user; `None` for a bug, which needs its traceback."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or is_about(error, OUT_OF_MEMORY):
        return f"The memory of this machine or device is not enough: {text.rstrip('.')}. {LESS_MEMORY}"
    if isinstance(error, EXPECTED):
        return text
    if is_about(error, DEVICE_TROUBLE):
        return f"The device cannot be used: {text.rstrip('.')}. --device cpu does without it."
    return None


def is_about(error: Exception, signs: tuple[str, ...]) -> bool:
    """Whether an error of torch, or of a library below it, has one of these texts in its message."""
    return isinstance(error, RuntimeError | AssertionError) and any(sign in str(error) for sign in signs)
