"""The command line: `python -m llava_next_video ask VIDEO QUESTION`, `chat VIDEO` and others, also installed as
`llava-next-video`.

What a command needs is imported when it runs, so that `--help` and usage errors come at once.
"""

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path

from llava_next_video.hub.recipes import RELEASED, SAME_TEMPLATE, STOP_STRINGS
from llava_next_video.modeling.checkpoint_settings import UntrustedCheckpoint
from llava_next_video.registration import DEMO_CHECKPOINT


SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user got wrong is one line on standard error."""
    args = parse_arguments(arguments)
    module, _, function = COMMANDS[args.command][0].partition(":")
    try:
        getattr(import_module(module), function)(args)
    except (ValueError, OSError, ImportError, UntrustedCheckpoint) as error:
        print(f"llava-next-video: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llava-next-video", description="LLaVA-NeXT-Video for transformers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, help, description, add_arguments) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=help, description=description))
    return parser.parse_args(arguments)


def add_ask_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("video", metavar="VIDEO", help="path or URL of a video")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, when the answer is complete")
    add_model_arguments(parser)


def add_chat_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("video", metavar="VIDEO", help="path or URL of a video")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser):
    """Describe what `ask` and `chat` have in common."""
    parser.add_argument(
        "--model",
        default=DEMO_CHECKPOINT,
        help="folder or Hub id of a checkpoint (default: the embedded one, which knows only moving coloured shapes)",
    )
    parser.add_argument("--num-frames", type=int, help="frames to look at (default: the checkpoint's)")
    parser.add_argument("--frames", metavar="PICTURE", help="save a picture of the frames that the model sees (.png)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    add_loading_arguments(parser)


def add_loading_arguments(parser: argparse.ArgumentParser):
    """Describe how a model is loaded."""
    parser.add_argument(
        "--device", type=device, help="cpu, cuda, cuda:1, mps, ... (default: the first accelerator, or cpu)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="number format of the weights (default: the checkpoint's)",
    )
    parser.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2, ... (default: sdpa)")


def add_convert_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `convert`."""
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("destination", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--to-original", action="store_true", help="turn one of our checkpoints into an original one")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done: files, sizes, renamings")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the result (default: as stored)"
    )
    parser.add_argument(
        "--max-shard-size", type=parse_size, default=5 * 10**9, help="largest file of weights (default: 5GB)"
    )
    parser.add_argument("--vision-tower", help="folder or Hub id of the vision tower (default: the one named in SRC)")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="upload the result to this Hub repository")
    recipe = parser.add_argument_group(
        "recipe", "how the checkpoint is used; default: what is known of SRC's name, its config.json, the usual"
    )
    recipe.add_argument("--recipe", choices=RELEASED, help="a released checkpoint whose recipe is meant")
    recipe.add_argument("--chat-template", choices=sorted({*STOP_STRINGS, *SAME_TEMPLATE}))
    recipe.add_argument("--spatial-pool-mode", choices=["average", "max", "bilinear", "conv"])
    recipe.add_argument("--spatial-pool-stride", type=int)
    recipe.add_argument("--spatial-pool-position", choices=["before_projector", "after_projector"])
    recipe.add_argument("--video-newline-position", choices=["no_token", "one_token", "frame", "grid"])
    recipe.add_argument("--num-frames", type=int)
    recipe.add_argument("--frame-sampling", choices=["uniform", "uniform_repeated", "fps_capped", "legacy"])
    recipe.add_argument(
        "--time-instruction",
        action=argparse.BooleanOptionalAction,
        help="whether prompts say when the frames were taken",
    )
    recipe.add_argument(
        "--rope-factor", type=parse_factor, help="stretch of the positions, or 'auto': what frames need"
    )
    recipe.add_argument("--context-length", type=int, help="tokens the language model was trained on")


def add_export_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `export`."""
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("destination", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="upload the result to this Hub repository")
    parser.add_argument("--private", action="store_true", help="that repository has to be private")
    parser.add_argument("--license", help="of the weights, for the model card, as in apache-2.0")
    parser.add_argument("--base-model", nargs="+", metavar="ID", help="what the weights were made from, for the card")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written: files, sizes")


def add_serve_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `serve`."""
    parser.set_defaults(demo_checkpoint=DEMO_CHECKPOINT)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="folder or Hub id of a checkpoint, which clients call so too (default: the embedded one, which knows only "
        "moving coloured shapes, as 'demo')",
    )
    parser.add_argument("--host", default="localhost", help="address to listen at (default: localhost, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    parser.add_argument("--num-frames", type=int, help="frames to look at in each video (default: the checkpoint's)")
    add_loading_arguments(parser)
    strangers = parser.add_argument_group("what clients may do")
    strangers.add_argument(
        "--allowed-media-folder",
        metavar="DIR",
        type=Path,
        help="folder whose files clients may name (default: none, and clients send videos or URLs)",
    )
    strangers.add_argument(
        "--max-body-size", type=parse_size, default=128 * 10**6, help="largest request (default: 128MB)"
    )
    add_reading_arguments(strangers)


def add_reading_arguments(strangers):
    """Describe what videos of strangers may cost, and where they may come from."""
    strangers.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let URLs lead to this machine and the local network (default: to public addresses only)",
    )
    strangers.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        type=parse_limit,
        help="one of ReadingLimits, as in max_decode_seconds=20 or max_fetched_bytes=50MB; may be repeated",
    )


def add_web_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `web`."""
    parser.set_defaults(demo_checkpoint=DEMO_CHECKPOINT)
    parser.add_argument(
        "--model",
        help="folder or Hub id of a checkpoint (default: the embedded one, which knows only moving coloured shapes)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    add_loading_arguments(parser)
    add_reading_arguments(parser.add_argument_group("what visitors may do"))


def add_evaluate_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `evaluate`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hub id of a checkpoint")
    parser.add_argument(
        "--table",
        choices=["july2024", "current"],
        default="july2024",
        help="prompts and scoring: those of July 2024 (default), or lmms-eval's own",
    )
    parser.add_argument("--tasks", metavar="TASK,TASK", help="only these of the table")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("evaluation"),
        help="folder for table, samples and journal; a run goes on there",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="questions that are answered at once (default: 1)")
    parser.add_argument("--num-frames", type=int, help="frames to look at (default: the checkpoint's)")
    parser.add_argument("--fps", type=float, help="frames for each second of video, instead")
    parser.add_argument("--frame-sampling", choices=["uniform", "uniform_repeated", "fps_capped", "legacy"])
    add_loading_arguments(parser)
    parser.add_argument("--device-map", help="auto: spread the model over several devices")
    parser.add_argument(
        "--on-error",
        choices=["raise", "empty"],
        default="raise",
        help="at a video that cannot be read: stop (default), or count an empty answer",
    )
    parser.add_argument("--limit", type=int, help="ask only so many questions of each task, to try it")
    parser.add_argument("--fetch", action="store_true", help="fetch what is not on this machine from the Hub")


def device(name: str):
    """A `torch.device`; torch is imported when somebody names one.

    Raises:
        argparse.ArgumentTypeError: torch knows none of that name.
    """
    import torch

    try:
        return torch.device(name)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"torch knows no device {name!r}, but cpu, cuda, cuda:1, mps, ...") from None


def parse_size(text: str) -> int:
    """A number of bytes, with or without a unit.

    >>> parse_size("5GB"), parse_size("200 MiB")
    (5000000000, 209715200)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B|)", text.strip().upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it like 5GB or 200MiB")
    return int(float(match[1]) * SIZES[match[2]])


def parse_limit(text: str) -> tuple[str, int]:
    """The name of a limit, and its number.

    >>> parse_limit("max_fetched_bytes=50MB")
    ('max_fetched_bytes', 50000000)
    """
    name, equals, number = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a limit; write it like max_decode_seconds=20")
    return name, parse_size(number)


def parse_factor(text: str) -> float | str:
    """A number of at least 1, or "auto"."""
    if text == "auto":
        return text
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if factor < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a factor; write 'auto' or a number of at least 1")
    return factor


# Of each command: the function that gets its arguments; what `--help` says of it, in short and at length; the function
# that describes its arguments.
COMMANDS = {
    "ask": (
        "llava_next_video.ask_and_chat:ask",
        "ask a question about a video",
        "Answer a question about a video, streaming the answer, or as one line of JSON.",
        add_ask_arguments,
    ),
    "chat": (
        "llava_next_video.ask_and_chat:chat",
        "talk about a video",
        "Talk about a video: one question a line, each answered in the light of those before.",
        add_chat_arguments,
    ),
    "convert": (
        "llava_next_video.conversion.command:run",
        "convert an original checkpoint",
        "Convert a checkpoint of the original LLaVA-NeXT code to this package's format, or back.",
        add_convert_arguments,
    ),
    "evaluate": (
        "llava_next_video.evaluation.command:run",
        "measure a checkpoint with lmms-eval",
        "Measure a checkpoint with lmms-eval, on the benchmarks of the table of July 2024.",
        add_evaluate_arguments,
    ),
    "export": (
        "llava_next_video.hub.export:run",
        "write a checkpoint with its code",
        "Write a checkpoint with the code that loads it, for people who have only transformers.",
        add_export_arguments,
    ),
    "serve": (
        "llava_next_video.serving.transformers_serve:serve",
        "answer requests over HTTP",
        "Answer questions about videos over HTTP, as OpenAI's chat completions and responses do.",
        add_serve_arguments,
    ),
    "web": (
        "llava_next_video.serving.web_page:web",
        "show a page in the browser",
        "Show a page in the browser where videos are looked at, asked about and talked about.",
        add_web_arguments,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
