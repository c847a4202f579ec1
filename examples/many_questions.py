"""Ask many questions about one video: it is read and encoded once, and they are answered in batches.

python examples/many_questions.py
# What is moving? A red circle.
# What colour is the circle? The circle is red.
# Which way does the circle move? The circle moves left.
# Describe the video. A red circle moves left.
"""

from transformers import pipeline

import llava_next_video


questions = [
    "What is moving?",
    "What colour is the circle?",
    "Which way does the circle move?",
    "Describe the video.",
]
pipe = pipeline("video-text-to-text", model=llava_next_video.DEMO_CHECKPOINT)
answers = pipe("demo_model/samples/red_circle_moves_left.mp4", questions, batch_size=4)
for question, [answer] in zip(questions, answers):
    print(question, answer["generated_text"])
