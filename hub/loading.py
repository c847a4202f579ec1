"""A checkpoint's model, loaded to where it runs, after everything that can be known before: what the commands answer
with."""

import logging
import sys
from importlib.util import find_spec

import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedModel

from llava_next_video.hub.free_memory import device_of_model, devices_here, warning_of_memory


KEPT_AS_STORED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]  # when the model is quantized


def load_model(
    checkpoint: str,
    device: str | None = None,
    device_map: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a model; what would hardly fit into memory is told on standard error before.

    Args:
        checkpoint: folder or Hub id.
        device: where it goes; by default the first accelerator, or the CPU.
        device_map: "auto", ...: spread it over all devices, in place of `device`.
        dtype: "auto" (as stored) or the dtype that weights get which are not quantized.
        quantize: "4bit" or "8bit" for the layers of the language model.
        attn_implementation: kernels of attention, as in `from_pretrained`.

    Raises:
        ValueError, OSError: there is no such checkpoint, or a setting is impossible.
    """
    if quantize and dtype == "auto":
        dtype = "bfloat16"
    places = [*devices_here(), "cpu"] if device_map else [device_of_model(device)]
    if warning := warning_of_memory(checkpoint, places, dtype, quantize):
        print(f"llava-next-video: warning: {warning}", file=sys.stderr, flush=True)
    # With a map, so that weights go to their device without staying in memory first.
    return AutoModelForImageTextToText.from_pretrained(
        checkpoint,
        dtype=dtype,
        attn_implementation=attn_implementation,
        device_map=device_map or {"": places[0]},
        quantization_config=quantization(quantize, dtype),
    )


def check_quantize():
    """Raise an ImportError where weights cannot be quantized."""
    if find_spec("bitsandbytes") is None:
        raise ImportError("--quantize needs bitsandbytes, which is not installed: pip install bitsandbytes")


def quantization(quantize: str | None, dtype: str) -> BitsAndBytesConfig | None:
    """How the layers of the language model are quantized; vision tower and projector keep their numbers."""
    if quantize == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            llm_int8_skip_modules=KEPT_AS_STORED,
        )
    if quantize == "8bit":
        # It says of every layer of every step that it computes in float16, which it always does.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT_AS_STORED)
    return None
