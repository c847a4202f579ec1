"""Which parts of a model are trained, and with which learning rates."""

from torch import nn


# Words in the names of each part's parameters.
PARTS = {
    "vision_tower": {"vision_tower"},
    "projector": {"multi_modal_projector", "vision_resampler"},
    "newlines": {"image_newline", "faster_token"},
    "language_model": {"language_model", "lm_head"},
}


def train_only(model: nn.Module, *parts: str) -> dict[str, int]:
    """Train these parts of a model, and freeze the others.

    Layers of the vision tower that never run stay frozen. Add PEFT's adapters after this call: PEFT freezes everything
    but them and what its `modules_to_save` names.

    Args:
        model: a [`LlavaNextVideoForConditionalGeneration`] or [`LlavaNextVideoModel`].
        parts: `"vision_tower"`, `"projector"` (with the weights of a pooler that has some), `"newlines"` (the learned
            vectors `image_newline` and `faster_token`), `"language_model"` (with its head and embeddings).

    Returns:
        The number of trained weights of each part.

    Raises:
        ValueError: there is no such part, or none was named.

    >>> from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration
    >>> model = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    >>> train_only(model, "projector", "newlines")
    {'vision_tower': 0, 'projector': 33024, 'newlines': 128, 'language_model': 0}
    """
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"train_only got the parts {list(parts)}; name one or more of {list(PARTS)}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)
    model.base_model.freeze_what_never_runs()
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel() * parameter.requires_grad
    return counts


def parameter_groups(model: nn.Module, learning_rates: dict[str, float], weight_decay: float = 0.0) -> list[dict]:
    """Groups of parameters for an optimizer, with a learning rate for each part of the model.

    Args:
        model: may have adapters of PEFT, whose weights belong to the part that they are in.
        learning_rates: for each trained part, named as in [`train_only`].
        weight_decay: for matrices; vectors (biases, norms, newlines) have none.

    Raises:
        ValueError: a trained part has no learning rate, or a part with one is not trained.

    Example:

    ```python
    groups = parameter_groups(model, {"projector": 1e-4, "language_model": 2e-5}, weight_decay=0.01)
    trainer = Trainer(model, ..., optimizers=(torch.optim.AdamW(groups), None))
    ```
    """
    trained = {part: ([], []) for part in PARTS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained[part_of(name)][parameter.ndim < 2].append(parameter)
    trained = {part: parameters for part, parameters in trained.items() if any(parameters)}
    if set(trained) != set(learning_rates):
        raise ValueError(
            f"The model trains {list(trained)}, and there are learning rates for {list(learning_rates)}. Give one to "
            "each part that is trained, and to no other; `train_only` chooses the parts."
        )
    return [
        {"params": parameters, "lr": learning_rates[part], "weight_decay": decay}
        for part, (matrices, vectors) in trained.items()
        for parameters, decay in ((matrices, weight_decay), (vectors, 0.0))
        if parameters
    ]


def part_of(name: str) -> str:
    """The part of a parameter, by its name, which may have prefixes from wrappers around the model."""
    words = set(name.split("."))
    return next(part for part, names in PARTS.items() if words & names)
