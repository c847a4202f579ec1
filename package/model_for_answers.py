"""The model that `ask` and `chat` answer with, loaded to where it runs, after everything that can be known before."""

import argparse
import logging
import sys
from importlib.util import find_spec

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, pipeline

from llava_next_video.free_memory import device_of_model, devices_here, warning_of_memory
from llava_next_video.inference.frame_sheet import save_frame_sheet
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.processing.checked_settings import check_pixel_settings
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.registration import DEMO_CHECKPOINT
from llava_next_video.waiting import silence_unless_shown


KEPT_AS_STORED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]  # when the model is quantized


def load_pipeline(args: argparse.Namespace, limits: ReadingLimits, sheet_of=None) -> VideoTextToTextPipeline:
    """Load the model that a command names, or the embedded one.

    Args:
        limits: of the videos that it is asked about.
        sheet_of: the video whose frames are saved with `--save-frames`.

    Raises:
        ImportError: quantizing needs a package that is not installed.
        ValueError, OSError: the checkpoint, a setting or the place for the sheet is none.
    """
    silence_unless_shown()
    if args.quantize and find_spec("bitsandbytes") is None:
        raise ImportError("--quantize needs bitsandbytes, which is not installed: pip install bitsandbytes")
    if args.model is None:
        tell("no --model was named: the demonstration model answers, which knows only moving coloured shapes")
    model = args.model or DEMO_CHECKPOINT
    check_pixel_settings(sampling_arguments(args))
    processor = AutoProcessor.from_pretrained(model)
    processor.video_processor.limits = limits
    if args.save_frames is not None:  # before the model is loaded: the sheet needs none
        save_frame_sheet(args.save_frames, processor, sheet_of, **sampling_arguments(args))
        tell(f"the frames are in {args.save_frames}")
    places = [*devices_here(), "cpu"] if args.device_map else [device_of_model(args.device)]
    if warning := warning_of_memory(model, places, dtype_of(args), args.quantize):
        tell(f"warning: {warning}")
    # Loaded here because `pipeline` would print every traceback of every class it tried when a model cannot be loaded;
    # and with a map, so that weights go to their device without staying in memory first.
    loaded = AutoModelForImageTextToText.from_pretrained(
        model,
        dtype=dtype_of(args),
        attn_implementation=args.attn_implementation,
        device_map=args.device_map or {"": places[0]},
        quantization_config=quantization(args),
    )
    return pipeline("video-text-to-text", model=loaded, processor=processor)


def tell(text: str):
    print(f"llava-next-video: {text}", file=sys.stderr, flush=True)


def dtype_of(args: argparse.Namespace) -> str:
    """The dtype that weights get which are not quantized."""
    return "bfloat16" if args.quantize and args.dtype == "auto" else args.dtype


def quantization(args: argparse.Namespace) -> BitsAndBytesConfig | None:
    """How the layers of the language model are quantized; vision tower and projector keep their numbers."""
    if args.quantize == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, dtype_of(args)),
            llm_int8_skip_modules=KEPT_AS_STORED,
        )
    if args.quantize == "8bit":
        # It says of every layer of every step that it computes in float16, which it always does.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT_AS_STORED)
    return None


def sampling_arguments(args: argparse.Namespace) -> dict:
    return {} if args.num_frames is None else {"num_frames": args.num_frames}
