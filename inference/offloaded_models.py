"""Models with parts on a disk (`device_map`): the device of their inputs."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def without_disk(model: PreTrainedModel) -> Iterator[None]:
    """In the block, a model's device map is the one device that it computes on: the first that is not the CPU, if there
    is one. transformers' pipelines put inputs on the map's first device, even if that is the disk."""
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
