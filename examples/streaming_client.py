"""Stream an answer over HTTP, from `llava-next-video serve` or any server of OpenAI's interface.

llava-next-video serve                   # in another terminal; pip install "llava-next-video[serve]"
python examples/streaming_client.py demo_model/samples/red_circle_moves_left.mp4 "What happens in the video?"
"""

import argparse
import base64
from pathlib import Path

from openai import OpenAI


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("video", type=Path)
parser.add_argument("question")
parser.add_argument("--url", default="http://localhost:8000/v1")
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key="none")
[model] = client.models.list()
video = "data:video/mp4;base64," + base64.b64encode(arguments.video.read_bytes()).decode()
content = [
    {"type": "video_url", "video_url": {"url": video}},
    {"type": "text", "text": arguments.question},
]
for event in client.chat.completions.create(
    model=model.id, messages=[{"role": "user", "content": content}], stream=True
):
    if event.choices:
        print(event.choices[0].delta.content or "", end="", flush=True)
print()
