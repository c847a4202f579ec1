"""The pipeline for a benchmark, and everything that its answers depend on."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline


PACKAGES = ("llava-next-video", "transformers", "torch", "av")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def load_pipeline(
    pretrained: str,
    device: str | torch.device | None = None,
    device_map: str | dict | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
) -> VideoTextToTextPipeline:
    """Load a checkpoint.

    Args:
        pretrained: folder or Hub id of a checkpoint.
        device: as for `pipeline`; by default the first accelerator, and of several processes each takes its own.
        device_map: as for `from_pretrained`, to spread a model over several devices.
        dtype: "auto" (the checkpoint's), "bfloat16", ...

    Raises:
        ValueError: both `device` and `device_map` are given.
    """
    if device is not None and device_map is not None:
        raise ValueError(
            f"The evaluation got device={str(device)!r} and device_map={device_map!r}; pass device_map alone to spread "
            "the model over several devices, or device alone."
        )
    model = AutoModelForImageTextToText.from_pretrained(
        pretrained, dtype=dtype, device_map=device_map, attn_implementation=attn_implementation
    )
    if device is None and device_map is None:
        device = device_of_rank()
    # `device=None` would move a model that device_map has placed.
    placed = {} if device_map is not None else {"device": device}
    processor = AutoProcessor.from_pretrained(pretrained)
    return pipeline("video-text-to-text", model=model, processor=processor, **placed)


def refuse_with_server(**arguments):
    """Raise a ValueError for arguments of loading: a server has loaded its checkpoint."""
    if given := {name: str(value) for name, value in arguments.items() if value not in (None, "auto")}:
        raise ValueError(
            f"The evaluation got {given} and a server, which has loaded the checkpoint already. Start the server with "
            "them instead."
        )


def rank_and_world_size() -> tuple[int, int]:
    """Number of this process, and how many torchrun or accelerate started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def device_of_rank() -> str | None:
    """The accelerator of this process, when there are several processes; `None` for the usual choice."""
    accelerator = torch.accelerator.current_accelerator()
    if rank_and_world_size()[1] == 1 or accelerator is None:
        return None
    return f"{accelerator.type}:{os.environ.get('LOCAL_RANK', '0')}"


def recipe_of(pipe: VideoTextToTextPipeline, pretrained: str, processor_kwargs: dict) -> dict:
    """What a pipeline's answers depend on besides the questions, in types of JSON: the checkpoint and its weights,
    settings, and versions."""
    config, processor = pipe.model.config, pipe.processor
    frames = {name: getattr(processor.video_processor, name) for name in ("num_frames", "frame_sampling", "fps")}
    frames["time_instruction"] = processor.video_processor.time_instruction
    return {
        "checkpoint": str(pretrained),
        "weights": weights_of(pretrained) or getattr(config, "_commit_hash", None),
        "config": hashed(config.to_json_string(use_diff=False)),
        "processor": hashed(json.dumps(processor.to_dict(), sort_keys=True, default=str)),
        "chat_template": hashed(processor.chat_template or ""),
        "generation_config": hashed(pipe.model.generation_config.to_json_string()),
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "attn_implementation": config._attn_implementation,
        "frames": frames | processor_kwargs,
        "versions": {name: version(name) for name in PACKAGES},
    }


def weights_of(pretrained: str) -> str | None:
    """A hash of names, sizes and times of change of the files of weights in a folder; None if there are none."""
    files = [path for pattern in WEIGHTS for path in sorted(Path(pretrained).glob(pattern))]
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashed(repr(facts)) if facts else None


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
