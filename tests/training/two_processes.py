"""One step of `DistributedDataParallel` on two gloo processes, and of one process on their rows together."""

import os
import socket
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from llava_next_video import LlavaNextVideoCollator
from tests.tiny import make_model
from tests.training.rows import processor_of, video_row
from tests.training.test_collator import IMAGE_ROW, TEXT_ROW


ROWS = {
    "short video": video_row("Which way?", "Left.", 2),
    "long video": video_row("And this?", "Up and away.", 5, seed=1),
    "image": IMAGE_ROW,
    "text": TEXT_ROW,
}


@dataclass
class Case:
    """What the ranks are given."""

    rows: tuple[str, str]
    dummy_visuals: tuple[str, ...] = ("image", "video")
    checkpointing: bool = False
    find_unused_parameters: bool = False
    video_newline_position: str = "grid"


def gradients_of_one_process(case: Case) -> dict[str, torch.Tensor]:
    model = make_model(video_newline_position=case.video_newline_position).train()
    collate = LlavaNextVideoCollator(processor_of("qwen_1_5", video_newline_position=case.video_newline_position))
    model(**collate([ROWS[name] for name in case.rows])).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def run_rank(rank: int, cases: list[Case], port: int, folder: str):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for number, case in enumerate(cases):
        gradients = train(rank, case)
        if rank == 0:
            torch.save(gradients, f"{folder}/{number}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def train(rank: int, case: Case) -> dict[str, torch.Tensor]:
    """The gradients of two steps on a rank's row."""
    model = make_model(video_newline_position=case.video_newline_position).train()
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    processor = processor_of("qwen_1_5", video_newline_position=case.video_newline_position)
    collate = LlavaNextVideoCollator(processor, dummy_visuals=case.dummy_visuals)
    parallel = DistributedDataParallel(model, find_unused_parameters=case.find_unused_parameters)
    batch = collate([ROWS[case.rows[rank]]])
    num_tokens = (batch["labels"] != -100).sum()
    distributed.all_reduce(num_tokens)
    for _ in range(2):  # what is missing in one step stops the next
        parallel.zero_grad()
        loss = parallel(**batch, num_items_in_batch=num_tokens).loss * 2  # DDP divides by the number of ranks
        loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def largest_differences(cases: list[Case]) -> list[float]:
    """Of each case, the largest difference of any gradient; the two processes are started once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        multiprocessing.spawn(run_rank, (cases, port, folder), nprocs=2)
        return [
            largest_difference(gradients_of_one_process(case), torch.load(f"{folder}/{number}.pt"))
            for number, case in enumerate(cases)
        ]


def largest_difference(expected: dict[str, torch.Tensor | None], found: dict[str, torch.Tensor]) -> float:
    """Of gradients; a dummy gives zeros to what one process leaves alone."""
    zero = torch.tensor(0.0)
    return max(
        float((found.get(name, zero) - (zero if gradient is None else gradient)).abs().max())
        for name, gradient in expected.items()
    )
