"""Steps of training on two gloo processes, and of one process on their rows together."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from llava_next_video import LlavaNextVideoCollator, train_only
from tests.tiny import make_model
from tests.training.rows import processor_of, video_row
from tests.training.test_collator import IMAGE_ROW, TEXT_ROW


ROWS = {
    "short video": video_row("Which way?", "Left.", 2),
    "long video": video_row("And this?", "Up and away.", 9, seed=1),  # more than a chunk of the tower
    "image": IMAGE_ROW,
    "text": TEXT_ROW,
}
ALL_PARTS = ("vision_tower", "projector", "newlines", "language_model")
GRID = (("video_newline_position", "grid"),)


def with_parts_as_units(model: nn.Module) -> nn.Module:
    """FSDP2 with the tower, the projector and each layer of the language model as units of their own."""
    for unit in (model.model.vision_tower, model.model.multi_modal_projector, *model.model.language_model.layers):
        fully_shard(unit)
    return fully_shard(model)


def with_layers_as_units(model: nn.Module) -> nn.Module:
    """FSDP2 as accelerate makes it: each layer of both towers, the embeddings and the head are units."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="no",
        is_main_process=distributed.get_rank() == 0,
        device=torch.device("cpu"),
    )
    return fsdp2_prepare_model(accelerator, model)


WRAPPERS = {
    "DDP": DistributedDataParallel,
    "DDP, find_unused_parameters": partial(DistributedDataParallel, find_unused_parameters=True),
    "FSDP2, parts": with_parts_as_units,
    "FSDP2, layers": with_layers_as_units,
}


@dataclass(frozen=True)
class Case:
    """How the model is wrapped, and what the ranks are given.

    Args:
        checkpointing: `use_reentrant` of gradient checkpointing; None: without.
        parts: that are trained, as `train_only` names them.
        recipe: settings of the model, as pairs.
    """

    wrapper: str
    rows: tuple[str, str]
    checkpointing: bool | None = None
    parts: tuple[str, ...] = ALL_PARTS
    dummy_visuals: tuple[str, ...] = ("image", "video")
    recipe: tuple[tuple[str, object], ...] = GRID

    def __str__(self):
        names = [self.wrapper, " and ".join(self.rows)]
        names += [] if self.checkpointing is None else [f"reentrant={self.checkpointing}"]
        names += ["frozen tower"] if "vision_tower" not in self.parts else []
        names += [str(value) for pair in self.recipe for value in pair] if self.recipe != GRID else []
        return ", ".join(names)

    def model(self) -> nn.Module:
        model = make_model(**dict(self.recipe)).train()
        train_only(model, *self.parts)
        return model

    def collator(self, **arguments) -> LlavaNextVideoCollator:
        return LlavaNextVideoCollator(processor_of("qwen_1_5", **dict(self.recipe)), **arguments)


@dataclass
class Result:
    """Of one step: the loss over the tokens of all rows, its gradients, how often the tower was called; and the loss
    again when nothing is trained."""

    loss: float
    gradients: dict[str, torch.Tensor]
    tower_calls: int
    evaluated: float


def step_of_one_process(case: Case) -> Result:
    """What a case should give."""
    model = case.model()
    loss = model(**case.collator()([ROWS[name] for name in case.rows])).loss
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return Result(loss.item(), gradients, 1, loss.item())


def step_of_two_processes(case: Case) -> Result:
    """The second of two steps on the row of this process; what is left out in one step stops the next."""
    model, batch = case.model(), batch_of_process(case)
    if case.checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": case.checkpointing})
    parallel, calls = WRAPPERS[case.wrapper](model), []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        parallel.zero_grad()
        calls.clear()
        loss = parallel(**batch).loss  # the share of this process
        (2 * loss).backward()  # gradients are divided by the number of processes
    num_calls, gradients = len(calls), gradients_of(model)
    with torch.no_grad():
        evaluated = parallel.eval()(**batch).loss
    return Result(sum_of_processes(loss), gradients, num_calls, sum_of_processes(evaluated))


def batch_of_process(case: Case) -> dict:
    """Its row, and the number of tokens that all processes learn."""
    batch = case.collator(dummy_visuals=case.dummy_visuals)([ROWS[case.rows[distributed.get_rank()]]])
    num_tokens = (batch["labels"] != -100).sum()
    distributed.all_reduce(num_tokens)
    return {**batch, "num_items_in_batch": num_tokens}


def sum_of_processes(loss: torch.Tensor) -> float:
    loss = loss.detach().clone()
    distributed.all_reduce(loss)
    return loss.item()


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Whole, also where each process has a piece."""
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {
        name: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        for name, gradient in gradients.items()
    }


def run_cases(cases: list[Case], failing_cases: list[Case]) -> dict[Case, Result | str]:
    """What one of two processes gets; of `failing_cases` the error. After the last of them the processes need not be
    able to talk to each other."""
    results = {}
    for case in [*cases, *failing_cases]:
        try:
            results[case] = step_of_two_processes(case)
        except RuntimeError as error:
            if case not in failing_cases:
                raise
            results[case] = str(error)
    return results
