"""Two processes that talk to each other through gloo. They are copies of one that has imported torch, transformers and
the package, which takes as long as all that they are asked to do."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed, multiprocessing


IMPORTED = ["transformers", "accelerate.utils.fsdp_utils", "peft", "tests.tiny", "tests.training.rows"]
MINUTES = 15  # not 1, as a machine may be busy
PATIENCE = timedelta(minutes=5)  # with a call that the other process does not make


def run_in_two_processes(function: Callable, *arguments) -> list:
    """What `function(*arguments)` returns in both; it has `torch.distributed`, and has to be importable.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them failed, with its traceback.
        TimeoutError: they take too long.
    """
    with socket.socket() as free, TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        multiprocessing.set_forkserver_preload(IMPORTED)
        context = multiprocessing.start_processes(
            run_rank, (port, Path(folder), function, arguments), nprocs=2, join=False, start_method="forkserver"
        )
        end = time.monotonic() + 60 * MINUTES
        while not context.join(timeout=1):
            if time.monotonic() > end:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"two processes took more than {MINUTES} minutes")
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in (0, 1)]


def run_rank(rank: int, port: int, folder: Path, function: Callable, arguments: tuple):
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2, timeout=PATIENCE)
    torch.save(function(*arguments), folder / str(rank))
    distributed.destroy_process_group()
