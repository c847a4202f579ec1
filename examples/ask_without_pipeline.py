"""The same with a model and a processor: what the pipeline does, step by step.

python examples/ask_without_pipeline.py
# 8 frames become 336 tokens.
# The circle moves left.
"""

from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_next_video


checkpoint = llava_next_video.DEMO_CHECKPOINT  # or "llava-hf/LLaVA-NeXT-Video-7B-hf", with device_map="auto"
model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="auto")
processor = AutoProcessor.from_pretrained(checkpoint)

messages = [
    {
        "role": "user",
        "content": [
            {"type": "video", "path": "demo_model/samples/red_circle_moves_left.mp4"},
            {"type": "text", "text": "Which way does the circle move?"},
        ],
    }
]
inputs = processor.apply_chat_template(
    messages,
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
)
[frames] = inputs["pixel_values_videos"]
num_tokens = int((inputs["input_ids"] == processor.video_token_id).sum())
print(f"{len(frames)} frames become {num_tokens} tokens.")

tokens = model.generate(**inputs.to(model.device, model.dtype), max_new_tokens=32)
print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
