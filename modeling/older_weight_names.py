"""Checkpoints of older versions of transformers, whose weights have other names (`language_model.model.*`, ...).

transformers has a table of renamings that leads to our parameter names, but uses it for classes outside the library
only where they are registered, and in `from_pretrained` alone.
"""

from functools import cache

from transformers import PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    get_model_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming, rename_source_key

from .configuration_llava_next_video import LlavaNextVideoConfig


@cache
def register_older_weight_names():
    """Use the renamings of transformers for our classes too.

    Reading the table compiles a thousand patterns of all its models, so this waits for the first model.
    """
    from .vision_tower import TOWERS  # its base classes import `transformers.models.auto`, which may be importing us

    towers = {tower.__name__: tower.__name__.removeprefix("LlavaNextVideo") for tower in TOWERS.values()}
    for ours, theirs in ({LlavaNextVideoConfig.model_type: LlavaNextVideoConfig.model_type} | towers).items():
        register_checkpoint_conversion_mapping(ours, get_checkpoint_conversion_mapping(theirs), overwrite=True)


def forget_unused_renamings(model: PreTrainedModel):
    """Let `save_pretrained` write the names that `from_pretrained` read.

    It undoes the renamings that the model keeps from loading. With DeepSpeed's ZeRO-3 transformers keeps all of them,
    and undoing one that was not needed makes names such as `language_model.model.model.norm.weight`.
    """
    if renamings := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [renaming for renaming in renamings if renaming.was_used()]


def rename_older_weights(module: PreTrainedModel, state_dict: dict, prefix: str, *_):
    """A hook that renames in `load_state_dict` what `from_pretrained` renames.

    `save_pretrained` writes the older names, and `Trainer` loads its checkpoints with `load_state_dict`, which leaves
    out names that it does not know.
    """
    own_names = {prefix + name for name in module.state_dict(keep_vars=True)}
    if not (unknown := [name for name in state_dict if name.startswith(prefix) and name not in own_names]):
        return
    renamings = [each for each in get_model_conversion_mapping(module) if isinstance(each, WeightRenaming)]
    for name in unknown:
        renamed, _ = rename_source_key(name.removeprefix(prefix), renamings, [])
        for candidate in (prefix + renamed, prefix + renamed.removeprefix(f"{module.base_model_prefix}.")):
            if candidate in own_names:
                state_dict[candidate] = state_dict.pop(name)
                break
