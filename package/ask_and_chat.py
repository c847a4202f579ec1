"""The commands `ask` and `chat`."""

import argparse
import json
import sys

from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer, pipeline

from llava_next_video.inference.chat import VideoChat, converse
from llava_next_video.inference.frame_sheet import save_frame_sheet
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.reading.addresses import is_web_address
from llava_next_video.reading.limits import ReadingLimits
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
