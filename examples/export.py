"""Export a checkpoint with its code, so that it answers where this package is not installed.

    python examples/export.py exported
    # exported/README.md is the model card.
    # Without the package: A red circle moves left.

The last line is printed by a process that loads the folder as its users will, with `trust_remote_code=True`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import llava_next_video


USER = """
import sys
from transformers import pipeline

pipe = pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=True)
print("Without the package:", pipe(sys.argv[2], "What happens in the video?")[0]["generated_text"])
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="a new one")
parser.add_argument("--checkpoint", default=llava_next_video.DEMO_CHECKPOINT)
parser.add_argument("--video", default="demo_model/samples/red_circle_moves_left.mp4")
arguments = parser.parse_args()

llava_next_video.export_for_hub(arguments.checkpoint, arguments.folder)
print(Path(arguments.folder, "README.md"), "is the model card.", flush=True)
subprocess.run([sys.executable, "-c", USER, arguments.folder, arguments.video], check=True)
