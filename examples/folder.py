"""Ask about all videos of a folder, in batches; a file that cannot be read does not end the run.

    python examples/folder.py demo_model/samples "What happens in the video?"
    # blue_square_moves_up.mp4: A blue square moves up.
    # blue_star_then_red_triangle.mp4: A blue star moves up, then a red triangle moves left.
    # green_triangle_moves_right.mp4: A green triangle moves right.
    # purple_circle_then_orange_square.mp4: A purple circle moves right, then an orange square moves down.
    # red_circle_moves_left.mp4: A red circle moves left.
    # yellow_star_moves_down.mp4: A yellow star moves down.

A generator keeps memory small: videos are read while they are asked for, and answers come one by one. For a million
videos, or several machines, see `ray_batch.py`.
"""

import argparse
from pathlib import Path

from transformers import pipeline

import llava_next_video


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("question")
parser.add_argument("--checkpoint", default=llava_next_video.DEMO_CHECKPOINT)
parser.add_argument("--batch-size", type=int, default=2)
arguments = parser.parse_args()

paths = sorted(path for path in arguments.folder.iterdir() if path.suffix in {".mp4", ".mov", ".mkv", ".webm"})
pipe = pipeline("video-text-to-text", model=arguments.checkpoint, dtype="auto", device_map="auto")
requests = ({"videos": str(path), "text": arguments.question} for path in paths)
for path, [answer] in zip(paths, pipe(requests, batch_size=arguments.batch_size, on_error="return")):
    print(f"{path.name}: {answer['generated_text'] or answer['error']}")
