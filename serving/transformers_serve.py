"""The command `serve`: transformers' server, for a checkpoint of this package.

Chat completions and responses are transformers' own handlers; `transformers_serve_handlers.py` says what is added to
them, `transformers_serve_app.py` what a request may cost before it reaches them.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils.import_utils import is_serve_available

from llava_next_video.reading.limits import ReadingLimits


if TYPE_CHECKING:
    import uvicorn


DEMO_NAME = "demo"  # what clients call the embedded checkpoint, whose folder is of no interest to them
# Below the defaults of `ReadingLimits`: many are read at once here, and nobody waits for minutes.
DEFAULT_LIMITS = {
    "max_fetched_bytes": 128 * 10**6,  # as the body of a request
    "max_fetch_seconds": 60,
    "max_result_bytes": 2**30,  # 790 prepared frames of 336 x 336 pixels
    "max_decode_seconds": 60,
}
SECONDS_TO_STOP = 5  # for answers that are under way when the server is told to stop


def serve(args: argparse.Namespace):
    """Load a checkpoint and answer requests until the process is told to stop."""
    server_of(args).run()


def server_of(args: argparse.Namespace) -> "uvicorn.Server":
    """The server of a checkpoint, which is loaded, ready to be run.

    Raises:
        ImportError: what transformers' server needs is not installed.
        ValueError: an argument is wrong, or the checkpoint is of another model.
        OSError: the checkpoint or the allowed folder is missing.
    """
    if not is_serve_available():
        raise ImportError("`serve` needs transformers' server: pip install 'llava-next-video[serve]'")
    import uvicorn

    from llava_next_video.serving.transformers_serve_app import build_app
    from llava_next_video.serving.transformers_serve_handlers import OneModel

    limits, folder = limits_of(args), existing_folder(args.allowed_media_folder)
    manager = OneModel(
        args.model or args.demo_checkpoint,
        args.model or DEMO_NAME,
        limits,
        num_frames=args.num_frames,
        device=args.device,
        device_map=args.device_map,
        dtype=args.dtype,
        quantize=args.quantize,
        attn_implementation=args.attn_implementation,
    )
    embedded = f"the embedded checkpoint, which knows only moving coloured shapes, as {DEMO_NAME!r}"
    print(f"llava-next-video: serving {args.model or embedded}", file=sys.stderr, flush=True)
    return uvicorn.Server(
        uvicorn.Config(
            build_app(manager, folder, args.max_body_size),
            host=args.host,
            port=args.port,
            timeout_graceful_shutdown=SECONDS_TO_STOP,
        )
    )


def limits_of(args: argparse.Namespace) -> ReadingLimits:
    """The limits of reading that arguments of the command set.

    Raises:
        ValueError: there is no limit of that name.
    """
    numbers = [field.name for field in fields(ReadingLimits) if field.name.startswith("max_")]
    for name, _ in args.limit:
        if name not in numbers:
            raise ValueError(f"There is no limit {name!r}; --limit sets one of {', '.join(numbers)}")
    chosen = {**DEFAULT_LIMITS, **dict(args.limit)}
    return ReadingLimits(allow_private_addresses=args.allow_private_addresses, **chosen)


def existing_folder(folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise NotADirectoryError(f"--allowed-media-folder {folder} is not a folder")
    return folder
