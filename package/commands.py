"""The commands of the command line, and what they take: `parse_arguments` reads them, `docs/command_line.py` makes a
page of them.

Nothing is imported that a command needs when it runs, so that `--help` and mistakes come at once.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from llava_next_video.argument_types import (
    parse_count,
    parse_device,
    parse_factor,
    parse_limit,
    parse_port,
    parse_size,
)
from llava_next_video.hub.recipes import RELEASED, SAME_TEMPLATE, STOP_STRINGS
from llava_next_video.registration import DEMO_CHECKPOINT


DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
SAMPLING = ("uniform", "uniform_repeated", "fps_capped", "legacy")
STANDARD_INPUT = "-"


class VersionAction(argparse.Action):
    """Prints the versions that a report of a problem needs; looked up when they are asked for."""

    def __init__(self, option_strings, dest, help):
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        print(", ".join(f"{name} {version_of(name)}" for name in ("llava-next-video", "transformers", "torch", "av")))
        parser.exit()


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def make_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and those of the commands by name."""
    parser = argparse.ArgumentParser(prog="llava-next-video", description="LLaVA-NeXT-Video for transformers.")
    parser.add_argument(
        "--version", action=VersionAction, help="print the versions of this package and what it runs on"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for name, command in COMMANDS.items():
        parsers[name] = commands.add_parser(name, help=command.help, description=command.description)
        command.add_arguments(parsers[name])
    return parser, parsers


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read a command line, by default that of the process; a mistake ends the process, with status 2."""
    parser, parsers = make_parsers()
    args = parser.parse_args(arguments)
    if (check := COMMANDS[args.command].check) is not None:
        check(parsers[args.command], args)
    return args


def add_ask_arguments(parser: argparse.ArgumentParser):
    parser.usage = (
        "llava-next-video ask [options] VIDEO [VIDEO ...] QUESTION\n"
        "       llava-next-video ask [options] --questions FILE [--answers FILE]"
    )
    parser.add_argument(
        "words",
        metavar="VIDEO ... QUESTION",
        nargs="*",
        help="path or URL of a video, or - for one on standard input; several videos are asked about together. The "
        "question is the last word",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON, when the answer is complete")
    add_model_arguments(parser)
    many = parser.add_argument_group("many questions")
    many.add_argument(
        "--questions",
        metavar="FILE",
        help='questions about videos, one {"video": ..., "question": ...} a line; - for standard input',
    )
    many.add_argument(
        "--answers",
        metavar="FILE",
        type=Path,
        help="where the answers go, a line of JSON each, in order (default: standard output); a file that is there "
        "already is continued",
    )
    many.add_argument("--batch-size", type=parse_count, help="questions that are answered at once (default: 1)")
    many.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let URLs of the file lead to this machine and the local network (default: to public addresses only)",
    )


def check_ask_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace):
    """Split `words` into `video` and `question`; end the process where arguments do not go together."""
    words = args.__dict__.pop("words")
    args.video, args.question = words[:-1], words[-1] if words else None
    if args.questions is not None:
        if words:
            parser.error("--questions brings videos and questions along: leave VIDEO and QUESTION out")
        if args.save_frames is not None:
            parser.error("--save-frames shows the frames of one video, and --questions has many")
        return
    for name in ("answers", "batch_size", "allow_private_addresses"):
        if getattr(args, name) not in (None, False):
            parser.error(f"--{name.replace('_', '-')} belongs to --questions")
    if not args.video:
        parser.error('a video and a question are needed, as in: llava-next-video ask clip.mp4 "What happens?"')
    check_videos(parser, args)


def add_chat_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "video", metavar="VIDEO", nargs="+", help="path or URL of a video; several are talked about together"
    )
    add_model_arguments(parser)


def check_chat_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace):
    if STANDARD_INPUT in args.video:
        parser.error("chat reads questions from standard input, which cannot hold the video too: name a file")
    check_videos(parser, args)


def check_videos(parser: argparse.ArgumentParser, args: argparse.Namespace):
    if args.video.count(STANDARD_INPUT) > 1:
        parser.error("standard input holds one video: - can stand for one only")
    if args.save_frames is not None and len(args.video) > 1:
        parser.error(f"--save-frames shows the frames of one video, and {len(args.video)} are given")


def add_model_arguments(parser: argparse.ArgumentParser):
    """Describe what `ask` and `chat` have in common."""
    parser.add_argument(
        "--model",
        help="folder or Hub id of a checkpoint (default: the embedded one, which knows only moving coloured shapes)",
    )
    parser.add_argument(
        "--num-frames", type=parse_count, help="frames to look at in each video (default: the checkpoint's)"
    )
    parser.add_argument(
        "--save-frames", metavar="PICTURE", help="save a picture of the frames that the model sees (.png)"
    )
    parser.add_argument("--frames", dest="save_frames", metavar="PICTURE", help=argparse.SUPPRESS)  # its earlier name
    parser.add_argument(
        "--max-new-tokens", type=parse_count, default=256, help="longest answer, in tokens (default: 256)"
    )
    place = add_loading_arguments(parser)
    add_size_arguments(parser, place)


def add_loading_arguments(parser: argparse.ArgumentParser):
    """Describe how a model is loaded; returns the group of options of which only one can be given."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--device", type=parse_device, help="cpu, cuda, cuda:1, mps, ... (default: the first accelerator, or cpu)"
    )
    parser.add_argument(
        "--dtype", default="auto", choices=DTYPES, help="number format of the weights (default: the checkpoint's)"
    )
    parser.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2, ... (default: sdpa)")
    return place


def add_size_arguments(parser: argparse.ArgumentParser, place):
    """Describe how a large model is made to fit; `place` is what `add_loading_arguments` returned."""
    place.add_argument(
        "--device-map",
        choices=DEVICE_MAPS,
        help="spread a model that is too large for one device over all of them, and the rest over memory and disk",
    )
    parser.add_argument(
        "--quantize",
        choices=["4bit", "8bit"],
        help="round the language model's weights while they are loaded, with bitsandbytes: a quarter or half of the "
        "memory of bfloat16",
    )


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
    templates = sorted({*STOP_STRINGS, *SAME_TEMPLATE})
    recipe.add_argument("--chat-template", choices=templates, help="how prompts are written")
    modes = ["average", "max", "bilinear", "conv"]
    recipe.add_argument("--spatial-pool-mode", choices=modes, help="how the tokens of a frame become fewer")
    recipe.add_argument("--spatial-pool-stride", type=parse_count, help="by how much, on each side")
    positions = ["before_projector", "after_projector"]
    recipe.add_argument("--spatial-pool-position", choices=positions, help="where that is done")
    newlines = ["no_token", "one_token", "frame", "grid"]
    recipe.add_argument("--video-newline-position", choices=newlines, help="where learned newlines stand in videos")
    recipe.add_argument("--num-frames", type=parse_count, help="frames to look at in each video")
    recipe.add_argument("--frame-sampling", choices=SAMPLING, help="rule by which frames are chosen")
    recipe.add_argument(
        "--time-instruction",
        action=argparse.BooleanOptionalAction,
        help="whether prompts say when the frames were taken",
    )
    recipe.add_argument(
        "--rope-factor", type=parse_factor, help="stretch of the positions, or 'auto': what frames need"
    )
    recipe.add_argument("--context-length", type=parse_count, help="tokens the language model was trained on")


def add_export_arguments(parser: argparse.ArgumentParser):
    """Describe the command line of `export`."""
    parser.add_argument("source", metavar="SRC", help="folder or Hub id of the checkpoint")
    parser.add_argument("destination", metavar="DST", type=Path, help="folder to make")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="upload the result to this Hub repository")
    parser.add_argument("--private", action="store_true", help="that repository has to be private")
    card = parser.add_argument_group(
        "model card", "what the files do not show; default: what SRC's model_card.json says, if there is one"
    )
    card.add_argument("--license", help="of the weights, as in apache-2.0")
    card.add_argument("--language", nargs="+", metavar="CODE", help="of questions and answers, as in en")
    card.add_argument("--limits", nargs="+", metavar="SENTENCE", help="what the checkpoint cannot do")
    card.add_argument("--base-model", nargs="+", metavar="ID", help="what the weights were made from")
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
    parser.add_argument("--port", type=parse_port, default=8000, help="port to listen at (default: 8000)")
    parser.add_argument(
        "--num-frames", type=parse_count, help="frames to look at in each video (default: the checkpoint's)"
    )
    add_size_arguments(parser, add_loading_arguments(parser))
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
    parser.add_argument("--port", type=parse_port, default=7860, help="port to listen at (default: 7860)")
    add_size_arguments(parser, add_loading_arguments(parser))
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
    parser.add_argument(
        "--batch-size", type=parse_count, default=1, help="questions that are answered at once (default: 1)"
    )
    parser.add_argument("--num-frames", type=parse_count, help="frames to look at (default: the checkpoint's)")
    parser.add_argument("--fps", type=float, help="frames for each second of video, instead")
    parser.add_argument(
        "--frame-sampling",
        choices=SAMPLING,
        help="rule by which frames are chosen (default: the table's, or the checkpoint's)",
    )
    add_loading_arguments(parser)
    parser.add_argument("--device-map", choices=DEVICE_MAPS, help="spread the model over several devices")
    parser.add_argument(
        "--on-error",
        choices=["raise", "empty"],
        default="raise",
        help="at a video that cannot be read: stop (default), or count an empty answer",
    )
    parser.add_argument("--limit", type=parse_count, help="ask only so many questions of each task, to try it")
    parser.add_argument(
        "--server",
        metavar="URL",
        help="ask a server (serve, vLLM), as in http://localhost:8000/v1, which calls one of its models CHECKPOINT",
    )
    parser.add_argument("--send-videos", action="store_true", help="send it videos, in place of their paths")
    parser.add_argument("--fetch", action="store_true", help="fetch what is not on this machine from the Hub")


class Command(NamedTuple):
    """One command.

    Args:
        function: "module:function" of what gets the arguments, imported when it runs.
        help, description: what `--help` says of it, in short and at length.
        add_arguments: describes its arguments.
        check: ends the process where they do not go together.
    """

    function: str
    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    check: Callable[[argparse.ArgumentParser, argparse.Namespace], None] | None = None


COMMANDS = {
    "ask": Command(
        "llava_next_video.ask_and_chat:ask",
        "ask a question about a video",
        "Answer a question about a video, streaming the answer, or as one line of JSON; or many questions of a file.",
        add_ask_arguments,
        check_ask_arguments,
    ),
    "chat": Command(
        "llava_next_video.ask_and_chat:chat",
        "talk about a video",
        "Talk about a video: one question a line, each answered in the light of those before.",
        add_chat_arguments,
        check_chat_arguments,
    ),
    "convert": Command(
        "llava_next_video.conversion.command:run",
        "convert an original checkpoint",
        "Convert a checkpoint of the original LLaVA-NeXT code to this package's format, or back.",
        add_convert_arguments,
    ),
    "evaluate": Command(
        "llava_next_video.evaluation.command:run",
        "measure a checkpoint with lmms-eval",
        "Measure a checkpoint with lmms-eval, on the benchmarks of the table of July 2024.",
        add_evaluate_arguments,
    ),
    "export": Command(
        "llava_next_video.hub.export:run",
        "write a checkpoint with its code",
        "Write a checkpoint with the code that loads it, for people who have only transformers.",
        add_export_arguments,
    ),
    "serve": Command(
        "llava_next_video.serving.transformers_serve:serve",
        "answer requests over HTTP",
        "Answer questions about videos over HTTP, as OpenAI's chat completions and responses do.",
        add_serve_arguments,
    ),
    "web": Command(
        "llava_next_video.serving.web_page:web",
        "show a page in the browser",
        "Show a page in the browser where videos are looked at, asked about and talked about.",
        add_web_arguments,
    ),
}
