"""Load a checkpoint of the original code (LLaVA-NeXT) as it is, and save it for transformers.

    python examples/original_checkpoint.py lmms-lab/LLaVA-NeXT-Video-32B-Qwen saved/

`llava-next-video convert` does the same without loading the model, whatever its size. `--vision-tower` names a folder
with the tower, where the checkpoint has no weights of it and the Hub cannot be asked.
"""

import argparse

from transformers import pipeline

from llava_next_video import LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint")
parser.add_argument("saved")
parser.add_argument("--vision-tower")
parser.add_argument("--video", default="demo_model/samples/red_circle_moves_left.mp4")
arguments = parser.parse_args()

tower = {} if arguments.vision_tower is None else {"vision_tower": arguments.vision_tower}
model = LlavaNextVideoForConditionalGeneration.from_pretrained(
    arguments.checkpoint, dtype="auto", device_map="auto", **tower
)
processor = LlavaNextVideoProcessor.from_pretrained(arguments.checkpoint, **tower)
pipe = pipeline("video-text-to-text", model=model, processor=processor)
print("as it is:", pipe(arguments.video, "What happens?", max_new_tokens=32)[0]["generated_text"])

pipe.save_pretrained(arguments.saved)
pipe = pipeline("video-text-to-text", model=arguments.saved, dtype="auto", device_map="auto")
print("saved:", pipe(arguments.video, "What happens?", max_new_tokens=32)[0]["generated_text"])
