"""LLaVA-NeXT-Video for transformers.

Importing this package makes transformers use its classes for every `llava_next_video` checkpoint: `AutoConfig`, the
`AutoModel...` classes, `AutoProcessor` and `AutoVideoProcessor` return the classes below, and
`pipeline("video-text-to-text")` exists. Nothing is imported before it is used: `__init__.pyi` says where this package's
names come from, and `registration.py` which part of transformers each class waits for.
"""

from importlib.metadata import version

import lazy_loader

from llava_next_video.registration import DEMO_CHECKPOINT, register


__getattr__, __dir__, _lazy_names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["DEMO_CHECKPOINT", *_lazy_names]
__version__ = version("llava-next-video")

register()
