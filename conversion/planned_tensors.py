"""The tensors of a conversion's result, and where the values of each come from. Only names, dtypes and shapes are read
to find out, and the values of weights that are stored under two names.
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
    """A tensor of the result: where its values come from, and its dtype and shape afterwards."""

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

    def __getitem__(self, index) -> torch.Tensor:
        """Read the tensor, as transformers does with the tensors that it loads."""
        return torch.cat(list(self.pieces())).view(self.shape)[index]


def rename_all(
    stored: dict[str, StoredTensor], config: LlavaNextVideoConfig
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Give every tensor of an original checkpoint its new name, or leave it out with a reason."""
    sources, dropped = {}, {}
    unused = {
        "model.faster_token": (config.slow_frame_stride is None, "the checkpoint's videos are not slow-fast"),
        "lm_head.weight": (config.tie_word_embeddings, "the same tensor as the embeddings"),
    }
    for name, tensor in sorted(stored.items(), key=lambda item: "vision_resampler" in item[0]):
        new_name, reason = rename(name, {**RENAMED, **SECOND_NAMES}, DROPPED)
        if new_name is not None and unused.get(new_name, (False,))[0]:
            new_name, reason = None, unused[new_name][1]
        elif new_name in sources:
            check_equal(sources[new_name], tensor)
            new_name, reason = None, f"the same tensor as {sources[new_name].name}"
        if new_name is None:
            dropped[name] = reason
        else:
            sources[new_name] = tensor
    return sources, dropped


def rename_tower(
    stored: dict[str, StoredTensor], config: LlavaNextVideoConfig
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Give the tensors of a vision tower's own repository their new names."""
    sources, dropped = {}, {}
    num_layers = config.vision_config.num_hidden_layers
    last_layer = f"{TOWER_PREFIX}encoder.layers.{num_layers}."
    for name, tensor in stored.items():
        new_name, reason = rename(name, TOWER_RENAMED, TOWER_DROPPED)
        if new_name is not None and new_name.startswith(last_layer):
            new_name, reason = None, "the original cuts the last layer off a SigLIP tower"
        if new_name is None:
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
    """Names and shapes of our model's weights; nothing is allocated.

    Raises:
        ValueError: there can be no such weights.
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
    # Before layers are built, which takes memory even without their weights.
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
        # Tokens that the tokenizer has and the embeddings have not get rows; never as many as there are already.
        grows = name in VOCABULARY and stored[1:] == shape[1:] and stored[0] <= shape[0] < 2 * stored[0]
        if stored != shape and not grows:
            raise CheckpointError(
                f"The weight {sources[name].name!r} has shape {stored}; its configuration asks for {shape}. "
                "The configuration is another checkpoint's, or the vision tower is not the right one "
                "(vision_tower, --vision-tower)."
            )
    tensors = [
        PlannedTensor(name, source, dtype if dtype and source.dtype.is_floating_point else source.dtype, shapes[name])
        for name, source in sources.items()
    ]
    return sorted(tensors, key=lambda tensor: (str(tensor.source.file), -tensor.dtype.itemsize, tensor.source.position))
