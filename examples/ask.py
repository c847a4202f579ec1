"""Ask a question about a video.

    python examples/ask.py demo_model/samples/red_circle_moves_left.mp4 "Which way does the circle move?"
    # The circle moves left.

Name a checkpoint of yours with `--checkpoint`; the default is the demonstration's, which knows only moving coloured
shapes. `--num-frames` and `--fps` take other frames than the checkpoint wants.
"""

import argparse

from transformers import pipeline

import llava_next_video


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("video", help="a file or an address")
parser.add_argument("question")
parser.add_argument("--checkpoint", default=llava_next_video.DEMO_CHECKPOINT)
parser.add_argument("--num-frames", type=int)
parser.add_argument("--fps", type=float)
arguments = parser.parse_args()

pipe = pipeline("video-text-to-text", model=arguments.checkpoint, dtype="auto", device_map="auto")
frames = {name: value for name in ("num_frames", "fps") if (value := getattr(arguments, name)) is not None}
[answer] = pipe(arguments.video, arguments.question, max_new_tokens=256, **frames)
print(answer["generated_text"])
