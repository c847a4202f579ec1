"""The command line: `python -m llava_next_video ask VIDEO QUESTION`, also installed as `llava-next-video`."""

import argparse
import json
import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer, pipeline

from llava_next_video import DEMO_CHECKPOINT
from llava_next_video.conversion import command as convert
from llava_next_video.processing.video_reading import open_source


def ask(args: argparse.Namespace):
    """Answer a question about a video, streaming the answer, or as one line of JSON."""
    kwargs = {"num_frames": args.num_frames} if args.num_frames is not None else {}
    if not args.video.startswith(("http://", "https://")):
        open_source(args.video)  # a wrong path is told before a large model is loaded
    # Loaded here because `pipeline` would print every traceback of every class it tried when a model cannot be loaded.
    model = AutoModelForImageTextToText.from_pretrained(
        args.model, dtype=args.dtype, attn_implementation=args.attn_implementation
    )
    processor = AutoProcessor.from_pretrained(args.model)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device=args.device)
    if not args.json:
        kwargs["streamer"] = TextStreamer(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True)
    [answer] = pipe(args.video, args.question, max_new_tokens=args.max_new_tokens, **kwargs)
    if args.json:
        record = {"video": args.video, "question": args.question, "answer": answer["generated_text"]}
        print(json.dumps({**record, "model": args.model}, ensure_ascii=False))


def device(name: str) -> torch.device:
    """A device that torch knows.

    Raises:
        argparse.ArgumentTypeError: it knows none of that name.
    """
    try:
        return torch.device(name)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"torch knows no device {name!r}, but cpu, cuda, cuda:1, mps, ...") from None


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llava-next-video", description="LLaVA-NeXT-Video for transformers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("ask", help="ask a question about a video", description=ask.__doc__)
    command.add_argument("video", metavar="VIDEO", help="path or URL of a video")
    command.add_argument("question", metavar="QUESTION")
    command.add_argument(
        "--model",
        default=DEMO_CHECKPOINT,
        help="folder or Hub id of a checkpoint (default: the embedded one, which knows only moving coloured shapes)",
    )
    command.add_argument("--num-frames", type=int, help="frames to look at (default: the checkpoint's)")
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
    command.add_argument("--json", action="store_true", help="print one line of JSON, when the answer is complete")
    command.set_defaults(run=ask)

    command = commands.add_parser("convert", help="convert an original checkpoint", description=convert.run.__doc__)
    convert.add_arguments(command)
    command.set_defaults(run=convert.run)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user got wrong is one line on standard error."""
    args = parse_arguments(arguments)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"llava-next-video: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
