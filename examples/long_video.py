"""Choose the frames of a long video: how many, how many a second, and with a sentence that says when each was shown.

    python examples/long_video.py
    # 8 frames, 336 tokens: The circle moves left.
    # 2 a second: 6 frames, 252 tokens: The circle moves left.
    # at most 4: 4 frames, 168 tokens: The circle moves left.

A video costs what its frames cost, however many minutes it has; the context of the language model decides how many fit
(`docs/guides/long_videos.md`).
"""

from transformers import pipeline

import llava_next_video


video, question = "demo_model/samples/red_circle_moves_left.mp4", "Which way does the circle move?"
pipe = pipeline("video-text-to-text", model=llava_next_video.DEMO_CHECKPOINT)
processor = pipe.processor
choices = {"": {}, "2 a second: ": {"fps": 2}, "at most 4: ": {"num_frames": 4}}
for name, frames in choices.items():
    inputs = processor(text=f"<video>\n{question}", videos=video, **frames)
    num_tokens = int((inputs["input_ids"] == processor.video_token_id).sum())
    num_frames = len(inputs["pixel_values_videos"][0])
    [answer] = pipe(video, question, **frames)
    print(f"{name}{num_frames} frames, {num_tokens} tokens: {answer['generated_text']}")
