"""Talk about a video over several turns, and see answers while they are written.

    python examples/chat.py
    # What shape is in the video?
    # It is a circle.
    # Which way does it move?
    # It moves left.

The video is read and encoded once; a later turn runs the language model on what is new. In a terminal,
`llava-next-video chat VIDEO` does this with questions that you type.
"""

from transformers import TextStreamer, pipeline

import llava_next_video


pipe = pipeline("video-text-to-text", model=llava_next_video.DEMO_CHECKPOINT)
chat = llava_next_video.VideoChat(pipe, "demo_model/samples/red_circle_moves_left.mp4", max_new_tokens=64)
for question in ("What shape is in the video?", "Which way does it move?"):
    print(question)
    chat.ask(question, streamer=TextStreamer(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True))
