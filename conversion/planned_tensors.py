"""The tensors of a conversion's result, and the source of each. Planning reads names, dtypes and shapes; values only of
weights that are stored under two names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from llava_next_video.conversion.weight_names import (
    DROPPED,
    RENAMED,
    SECOND_NAMES,
    TOWER_DROPPED,
    TOWER_RENAMED,
    rename,
)
from llava_next_video.hub.stored_tensors import StoredTensor
from llava_next_video.modeling.checkpoint_settings import CheckpointError
from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig
from llava_next_video.modeling.modeling_llava_next_video import LlavaNextVideoForConditionalGeneration


VOCABULARY = ("model.language_model.embed_tokens.weight", "lm_head.weight")
TOWER_PREFIX = "model.vision_tower."


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the result: its source, and its own dtype and shape."""

    name: str
    source: StoredTensor
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def pieces(self) -> Iterator[torch.Tensor]:
        """The values in order, in flat pieces. Rows that the source lacks are the mean of those it has; rows that the
        result lacks are left out."""
        wanted = torch.Size(self.shape).numel()
        grows = wanted > self.source.num_elements
        total = torch.zeros(self.shape[1] if grows else 0, dtype=torch.float64)
        for piece in self.source.pieces():
            if grows:
                total += piece.view(-1, self.shape[1]).sum(0, dtype=torch.float64)
            yield piece[:wanted].to(self.dtype)
            wanted -= min(wanted, len(piece))
            if wanted == 0:
                return
        if grows:
            mean = (total / self.source.shape[0]).to(self.dtype)
            yield mean.repeat(wanted // len(mean))

    def get_shape(self) -> list[int]:
        """Called by transformers before it reads this process's part."""
        return list(self.shape)

    def __getitem__(self, index) -> torch.Tensor:
        """Read the tensor; called by transformers when it loads weights."""
        return torch.cat(list(self.pieces())).view(self.shape)[index]


def plan_tensor(name: str, source: StoredTensor, dtype: torch.dtype | None, shape: tuple[int, ...]) -> PlannedTensor:
    """Plan a tensor; only floating-point ones get the `dtype`."""
    return PlannedTensor(name, source, dtype if dtype and source.dtype.is_floating_point else source.dtype, shape)


def rename_all(
    stored: dict[str, StoredTensor], config: LlavaNextVideoConfig
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Give the tensors of an original checkpoint their new names, or leave them out with a reason."""
    unused = {}
    if config.slow_frame_stride is None:
        unused["model.faster_token"] = "the checkpoint's videos are not slow-fast"
    if config.tie_word_embeddings:
        unused["lm_head.weight"] = "the same tensor as the embeddings"
    second_names_last = dict(sorted(stored.items(), key=lambda item: "vision_resampler" in item[0]))
    return rename_used(second_names_last, {**RENAMED, **SECOND_NAMES}, DROPPED, unused)


def rename_tower(
    stored: dict[str, StoredTensor], config: LlavaNextVideoConfig
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Give the tensors of a vision tower's own repository their new names."""
    last_layer = f"{TOWER_PREFIX}encoder.layers.{config.vision_config.num_hidden_layers}."
    unused = {last_layer: "the original cuts the last layer off a SigLIP tower"}
    return rename_used(stored, TOWER_RENAMED, TOWER_DROPPED, unused)


def rename_used(
    stored: dict[str, StoredTensor], renamed: dict[str, str], left_out: dict[str, str], unused: dict[str, str]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Give tensors their new names by the tables of `rename`, or leave them out with a reason.

    Args:
        unused: beginnings of new names that are not in the result, and why.

    Returns:
        The tensors by their new names, and the names of those that were left out with the reasons.
    """
    sources, dropped = {}, {}
    for name, tensor in stored.items():
        new_name, reason = rename(name, renamed, left_out)
        if new_name is not None:
            reason = next((why for beginning, why in unused.items() if new_name.startswith(beginning)), "")
        if not reason and new_name in sources:
            check_equal(sources[new_name], tensor)
            reason = f"the same tensor as {sources[new_name].name}"
        if reason:
            dropped[name] = reason
        else:
            sources[new_name] = tensor
    return sources, dropped


def check_equal(first: StoredTensor, second: StoredTensor):
    """Raise a CheckpointError unless two tensors hold the same values."""
    if first.shape != second.shape or not all(map(torch.equal, first.pieces(), second.pieces())):
        raise CheckpointError(
            f"The checkpoint holds {first.name!r} and {second.name!r} with different values, but they are two names of "
            "one weight. Delete the one that is not meant."
        )


def expected_shapes(config: LlavaNextVideoConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of our model's weights, without allocating them.

    Raises:
        ValueError: such weights cannot exist.
    """
    with torch.device("meta"):
        model = LlavaNextVideoForConditionalGeneration(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def match_shapes(
    sources: dict[str, StoredTensor], config: LlavaNextVideoConfig, dtype: torch.dtype | None
) -> list[PlannedTensor]:
    """Pair every weight of the result with its source, in the order of the source's files.

    Raises:
        CheckpointError: one is missing, left over, or does not fit.
    """
    # Before layers are built, which takes memory even without weights.
    for part in (config.text_config, config.vision_config):
        if part.num_hidden_layers > len(sources):
            raise CheckpointError(
                f"The configuration promises a {part.model_type} of {part.num_hidden_layers} layers; the checkpoint "
                f"holds {len(sources)} weights in all. The configuration is damaged, or another checkpoint's."
            )
    shapes = expected_shapes(config)
    missing, left_over = sorted(set(shapes) - set(sources)), sorted(set(sources) - set(shapes))
    if missing or left_over:
        found = [sources[name].name for name in left_over]
        raise CheckpointError(
            f"The checkpoint does not hold what its configuration promises: {len(missing)} weights are missing "
            f"{missing[:3]}, {len(found)} are left over {found[:3]}. The configuration is another checkpoint's, or "
            "the vision tower is not the right one (vision_tower, --vision-tower)."
        )
    for name, shape in shapes.items():
        stored = sources[name].shape
        # The embeddings get rows for tokens that only the tokenizer has, but never twice as many as before.
        grows = name in VOCABULARY and stored[1:] == shape[1:] and stored[0] <= shape[0] < 2 * stored[0]
        if stored != shape and not grows:
            raise CheckpointError(
                f"The weight {sources[name].name!r} has shape {stored}; its configuration asks for {shape}. "
                "The configuration is another checkpoint's, or the vision tower is not the right one "
                "(vision_tower, --vision-tower)."
            )
    tensors = [plan_tensor(name, source, dtype, shapes[name]) for name, source in sources.items()]
    return sorted(tensors, key=lambda tensor: (str(tensor.source.file), -tensor.dtype.itemsize, tensor.source.position))
