"""The model that `ask` and `chat` answer with."""

import argparse
import sys

from transformers import AutoProcessor, pipeline

from llava_next_video.hub.loading import load_model
from llava_next_video.inference.frame_sheet import save_frame_sheet
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.processing.checked_settings import check_pixel_settings
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.registration import DEMO_CHECKPOINT


def load_pipeline(args: argparse.Namespace, limits: ReadingLimits, sheet_of=None) -> VideoTextToTextPipeline:
    """Load the model that a command names, or the embedded one.

    Args:
        limits: of the videos that it is asked about.
        sheet_of: the video whose frames are saved with `--save-frames`.

    Raises:
        ValueError, OSError: the checkpoint, a setting or the place for the sheet is none.
    """
    if args.model is None:
        tell("no --model was named: the demonstration model answers, which knows only moving coloured shapes")
    model = args.model or DEMO_CHECKPOINT
    check_pixel_settings(sampling_arguments(args))
    processor = AutoProcessor.from_pretrained(model)
    processor.video_processor.limits = limits
    if args.save_frames is not None:  # before the model is loaded: the sheet needs none
        save_frame_sheet(args.save_frames, processor, sheet_of, **sampling_arguments(args))
        tell(f"the frames are in {args.save_frames}")
    # Loaded here because `pipeline` would print every traceback of every class it tried when a model cannot be loaded.
    loaded = load_model(model, args.device, args.device_map, args.dtype, args.quantize, args.attn_implementation)
    return pipeline("video-text-to-text", model=loaded, processor=processor)


def tell(text: str):
    print(f"llava-next-video: {text}", file=sys.stderr, flush=True)


def sampling_arguments(args: argparse.Namespace) -> dict:
    return {} if args.num_frames is None else {"num_frames": args.num_frames}
