"""See which frames the model looks at, with their times and tokens; and read frames for something else.

python examples/frames.py
# sheet.png: 8 frames
# first and last frame: (2, 240, 320, 3), of 75 at 25 a second
"""

from transformers import AutoProcessor

import llava_next_video


video = "demo_model/samples/red_circle_moves_left.mp4"
processor = AutoProcessor.from_pretrained(llava_next_video.DEMO_CHECKPOINT)
llava_next_video.draw_frame_sheet(processor, video).save("sheet.png")
print(f"sheet.png: {processor.video_processor.num_frames} frames")

frames, metadata = llava_next_video.read_video(video, lambda metadata: [0, metadata.total_num_frames - 1])
print(f"first and last frame: {frames.shape}, of {metadata.total_num_frames} at {metadata.fps:g} a second")
