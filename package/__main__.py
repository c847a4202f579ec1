"""The command line: `python -m llava_next_video ask VIDEO QUESTION`, `chat VIDEO` and others, also installed as
`llava-next-video`."""

import argparse
import json
import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer, pipeline

from llava_next_video import DEMO_CHECKPOINT, ReadingLimits, VideoChat, VideoTextToTextPipeline
from llava_next_video.conversion import command as convert
from llava_next_video.hub import export
from llava_next_video.hub.checkpoint_files import UntrustedCheckpoint
from llava_next_video.inference.chat import converse
from llava_next_video.inference.frame_sheet import save_frame_sheet
from llava_next_video.reading.addresses import is_web_address
from llava_next_video.reading.video_sources import open_source


def ask(args: argparse.Namespace):
    """Answer a question about a video, streaming the answer, or as one line of JSON."""
    pipe = load_pipeline(args)
    kwargs = call_arguments(args)
    if not args.json:
        kwargs["streamer"] = TextStreamer(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True)
    [answer] = pipe(args.video, args.question, **kwargs)
    if args.json:
        record = {"video": args.video, "question": args.question, "answer": answer["generated_text"]}
        print(json.dumps({**record, "model": args.model}, ensure_ascii=False))


def chat(args: argparse.Namespace):
    """Talk about a video: a question a line, answered in the light of the ones before. The video is encoded once."""
    converse(VideoChat(load_pipeline(args), args.video, **call_arguments(args)))


def load_pipeline(args: argparse.Namespace) -> VideoTextToTextPipeline:
    """Load the model, after checking what can be checked without it."""
    if not is_web_address(args.video):
        open_source(args.video).close()  # a wrong path is told before a large model is loaded
    processor = AutoProcessor.from_pretrained(args.model)
    # Whoever types an address means it.
    processor.video_processor.limits = ReadingLimits(allow_private_addresses=True)
    if args.frames is not None:  # before the model is loaded: the sheet needs none
        save_frame_sheet(args.frames, processor, args.video, **sampling_arguments(args))
        print(f"llava-next-video: the frames are in {args.frames}", file=sys.stderr)
    # Loaded here because `pipeline` would print every traceback of every class it tried when a model cannot be loaded.
    model = AutoModelForImageTextToText.from_pretrained(
        args.model, dtype=args.dtype, attn_implementation=args.attn_implementation
    )
    return pipeline("video-text-to-text", model=model, processor=processor, device=args.device)


def sampling_arguments(args: argparse.Namespace) -> dict:
    return {} if args.num_frames is None else {"num_frames": args.num_frames}


def call_arguments(args: argparse.Namespace) -> dict:
    """Arguments of a call of the pipeline."""
    return {"max_new_tokens": args.max_new_tokens, **sampling_arguments(args)}


def device(name: str) -> torch.device:
    """A device that torch knows.

    Raises:
        argparse.ArgumentTypeError: it knows none of that name.
    """
    try:
        return torch.device(name)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"torch knows no device {name!r}, but cpu, cuda, cuda:1, mps, ...") from None


def add_arguments(command: argparse.ArgumentParser):
    """Describe what `ask` and `chat` have in common."""
    command.add_argument(
        "--model",
        default=DEMO_CHECKPOINT,
        help="folder or Hub id of a checkpoint (default: the embedded one, which knows only moving coloured shapes)",
    )
    command.add_argument("--num-frames", type=int, help="frames to look at (default: the checkpoint's)")
    command.add_argument("--frames", metavar="PICTURE", help="save a picture of the frames that the model sees (.png)")
    command.add_argument("--max-new-tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    command.add_argument(
        "--device", type=device, help="cpu, cuda, cuda:1, mps, ... (default: the first accelerator, or cpu)"
    )
    command.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="number format of the weights (default: the checkpoint's)",
    )
    command.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2, ... (default: sdpa)")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llava-next-video", description="LLaVA-NeXT-Video for transformers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("ask", help="ask a question about a video", description=ask.__doc__)
    command.add_argument("video", metavar="VIDEO", help="path or URL of a video")
    command.add_argument("question", metavar="QUESTION")
    command.add_argument("--json", action="store_true", help="print one line of JSON, when the answer is complete")
    add_arguments(command)
    command.set_defaults(run=ask)

    command = commands.add_parser("chat", help="talk about a video", description=chat.__doc__)
    command.add_argument("video", metavar="VIDEO", help="path or URL of a video")
    add_arguments(command)
    command.set_defaults(run=chat)

    command = commands.add_parser("convert", help="convert an original checkpoint", description=convert.run.__doc__)
    convert.add_arguments(command)
    command.set_defaults(run=convert.run)

    command = commands.add_parser("export", help="write a checkpoint with its code", description=export.run.__doc__)
    export.add_arguments(command)
    command.set_defaults(run=export.run)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user got wrong is one line on standard error."""
    args = parse_arguments(arguments)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError, UntrustedCheckpoint) as error:
        print(f"llava-next-video: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
