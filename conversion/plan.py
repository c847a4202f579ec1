"""What a conversion will do, before it does anything: every file, every renaming, the recipe, the sizes.

`convert` streams the plan to files, and direct loading passes its tensors to `from_pretrained`, so both give the same
model.
"""

from dataclasses import dataclass

import torch

from llava_next_video.conversion.planned_tensors import (
    TOWER_PREFIX,
    PlannedTensor,
    match_shapes,
    rename_all,
    rename_tower,
)
from llava_next_video.conversion.settings import Settings, plan_settings
from llava_next_video.hub.checkpoint_folders import folder_with_weights
from llava_next_video.hub.recipes import Recipe
from llava_next_video.hub.stored_tensors import convertible_tensors


@dataclass
class Plan(Settings):
    """A conversion that has been checked and not yet carried out.

    Args:
        source: what the user named.
        tensors: of the result, in the order of the source's files.
        dropped: names in the source that are left out, and why.
    """

    source: str
    tensors: list[PlannedTensor]
    dropped: dict[str, str]


def plan_conversion(
    source: str,
    recipe: Recipe | None = None,
    vision_tower: str | None = None,
    dtype: torch.dtype | None = None,
    **download,
) -> Plan:
    """Plan the conversion of an original checkpoint to ours.

    Args:
        source: folder or Hub id of the original checkpoint.
        recipe: facts that replace what is known or usual.
        vision_tower: folder or Hub id of the vision tower, instead of the one that the checkpoint names.
        dtype: of every floating-point tensor of the result; as stored when not given.
        download: `revision`, `cache_dir`, `token` and the like, for a source on the Hub.

    Raises:
        CheckpointError: files are missing or damaged, or tensors are missing, left over or of other shapes.
        UnknownWeight: a tensor's name is in no table.
        ValueError: the checkpoint asks for something that our model does not have.
        OSError: the source or its tower cannot be found.
    """
    settings = plan_settings(source, recipe, vision_tower, **download)
    stored = convertible_tensors(folder_with_weights(source, **download))
    sources, dropped = rename_all(stored, settings.config)
    if not any(name.startswith(TOWER_PREFIX) for name in sources):
        stored = convertible_tensors(folder_with_weights(settings.tower.name))
        tower_sources, tower_dropped = rename_tower(stored, settings.config)
        sources, dropped = sources | tower_sources, dropped | tower_dropped
    for part in (settings.config, settings.config.text_config, settings.config.vision_config):
        part.dtype = dtype or settings.config.dtype
    tensors = match_shapes(sources, settings.config, dtype)
    return Plan(**vars(settings), source=source, tensors=tensors, dropped=dropped)
