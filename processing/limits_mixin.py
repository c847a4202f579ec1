"""The limits of image and video processors. They belong to whoever runs a processor, not to the checkpoint."""

from typing import BinaryIO

from ..reading.limits import DEFAULT_LIMITS
from ..reading.video_sources import VideoSource, open_source


class LimitsMixin:
    """Goes in front of an image or video processor: its `limits` are neither saved nor loaded."""

    limits = DEFAULT_LIMITS

    def open_source(self, source: VideoSource) -> BinaryIO:
        """[`open_source`] within the limits of this processor."""
        return open_source(source, self.limits)

    def to_dict(self) -> dict:
        return {name: value for name, value in super().to_dict().items() if name != "limits"}

    @classmethod
    def from_dict(cls, settings: dict, *args, **kwargs):
        return super().from_dict({name: value for name, value in settings.items() if name != "limits"}, *args, **kwargs)
