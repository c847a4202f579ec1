"""Planning a conversion from our format back to the original's: names, configuration, and the original vocabulary."""

from dataclasses import dataclass
from pathlib import Path

import torch

from llava_next_video.conversion.original_config import is_original, original_config
from llava_next_video.conversion.planned_tensors import PlannedTensor, plan_tensor
from llava_next_video.conversion.tokenizer import TOKENIZER_FILES
from llava_next_video.conversion.vision_towers import KNOWN
from llava_next_video.conversion.weight_names import OURS_TO_ORIGINAL, rename
from llava_next_video.hub.checkpoint_folders import ORIGINAL_FOLDER, folder_with_weights, local_folder, read_config
from llava_next_video.hub.stored_tensors import convertible_tensors
from llava_next_video.modeling.checkpoint_settings import CheckpointError, read_json, reading_settings
from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig
from llava_next_video.modeling.error_texts import quoted


ORIGINAL_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass
class PlanToOriginal:
    """A conversion to the original's format that has been checked and not yet carried out; fields as in `Plan`."""

    source: str
    folder: Path
    config: dict
    tensors: list[PlannedTensor]


def plan_conversion_to_original(
    source: str, vision_tower: str | None = None, dtype: torch.dtype | None = None
) -> PlanToOriginal:
    """Plan the conversion of one of our checkpoints to the original's format.

    A checkpoint that was converted from an original one has that one's configuration and tokenizer in its folder
    `original`. Keys that we do not have come from there, and rows that were added to the vocabulary are left out. So
    converting there and back gives the same files. Other checkpoints keep their whole vocabulary.

    Args:
        source: folder or Hub id of our checkpoint.
        vision_tower: value of `mm_vision_tower`; by default the one it came with, or the usual one of its kind.
        dtype: of every floating-point tensor of the result; as stored when not given.

    Raises:
        CheckpointError: the source is not one of our checkpoints, or its files are damaged, or its tower has no name.
    """
    folder = local_folder(source, [*TOKENIZER_FILES, f"{ORIGINAL_FOLDER}/*"])
    settings = read_config(folder)
    if is_original(settings) or settings.get("model_type") != LlavaNextVideoConfig.model_type:
        raise CheckpointError(
            f"{folder} has model_type {quoted(settings.get('model_type'))}; only a llava_next_video checkpoint can be "
            "turned into an original one."
        )
    with reading_settings(source):
        original = original_settings(folder, LlavaNextVideoConfig(**settings), vision_tower, dtype)
    tensors = []
    for name, source_tensor in convertible_tensors(folder_with_weights(source)).items():
        new_name, _ = rename(name, OURS_TO_ORIGINAL, {})
        shape = source_tensor.shape
        if new_name in ORIGINAL_VOCABULARY:
            shape = (original["vocab_size"], *shape[1:])
        tensors.append(plan_tensor(new_name, source_tensor, dtype, shape))
    return PlanToOriginal(source, folder, original, tensors)


def original_settings(
    folder: Path, config: LlavaNextVideoConfig, vision_tower: str | None, dtype: torch.dtype | None
) -> dict:
    """The original's configuration, based on the one in the folder `original` if there is one."""
    if dtype is not None:
        config.dtype = dtype
    kept = folder / ORIGINAL_FOLDER / "config.json"
    base = read_json(kept) if kept.is_file() else {}
    tower = vision_tower or base.get("mm_vision_tower") or known_tower(config)
    return original_config(config, tower, base)


def known_tower(config: LlavaNextVideoConfig) -> str:
    """The name of a configuration's vision tower, if it is one of those of the released checkpoints.

    Raises:
        CheckpointError: it is another one.
    """
    tower = config.vision_config
    for name, known in KNOWN.items():
        if all(getattr(tower, key) == known[key] for key in ("model_type", "hidden_size", "image_size", "patch_size")):
            return name
    raise CheckpointError(
        f"An original checkpoint names its vision tower, but {tower.model_type} with {tower.image_size} x "
        f"{tower.image_size} pixels and hidden size {tower.hidden_size} is none of {', '.join(KNOWN)}. Name the folder "
        "or Hub id of the tower (--vision-tower)."
    )
