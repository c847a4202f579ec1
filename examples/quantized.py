"""Load a checkpoint with the language model's weights in 4 bits: a 7B model takes about 5 GB.

    pip install bitsandbytes
    python examples/quantized.py
    # The circle moves left.
    # 4.8 MB of weights

Tower and projector stay as they are: they are small, and what they see is all that the language model knows.
"""

import argparse

from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, pipeline

import llava_next_video


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--checkpoint", default=llava_next_video.DEMO_CHECKPOINT)
parser.add_argument("--video", default="demo_model/samples/red_circle_moves_left.mp4")
parser.add_argument("--question", default="Which way does the circle move?")
arguments = parser.parse_args()

four_bits = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype="bfloat16",
    llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
)
model = AutoModelForImageTextToText.from_pretrained(
    arguments.checkpoint, quantization_config=four_bits, dtype="auto", device_map="auto"
)
processor = AutoProcessor.from_pretrained(arguments.checkpoint)
pipe = pipeline("video-text-to-text", model=model, processor=processor)
print(pipe(arguments.video, arguments.question)[0]["generated_text"])
print(f"{model.get_memory_footprint() / 1e6:.1f} MB of weights")
