"""Models with parts on a disk (`device_map`): where their inputs go."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def without_disk(model: PreTrainedModel) -> Iterator[None]:
    """In the block, a model's device map has no disk: transformers' pipelines take its first entry for the device of
    their inputs. Here that is where the model computes: on the first device that is not the CPU, if it has any."""
    device_map = getattr(model, "hf_device_map", None)
    if device_map is None or "disk" not in device_map.values():
        yield
        return
    devices = (device for device in device_map.values() if device not in ("cpu", "disk"))
    model.hf_device_map = {"": next(devices, "cpu")}
    try:
        yield
    finally:
        model.hf_device_map = device_map
