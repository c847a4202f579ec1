"""Prompts, frame choices and time sentences of the original, row by row."""

import json

import numpy as np
import pytest
from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from llava_next_video import LlavaNextVideoVideoProcessor
from llava_next_video.conversion.tokenizer import SAME_TEMPLATE, STOP_STRINGS, read_template
from llava_next_video.processing import LlavaNextVideoProcessor
from tests.golden_data import GOLDEN, Recording


PROMPTS = json.loads((GOLDEN / "prompts.json").read_text())["templates"]
SAMPLING = json.loads((GOLDEN / "sampling.json").read_text())
ROWS = [(template, name) for template, recorded in PROMPTS.items() for name in recorded["conversations"]]
FAIL_IN_THE_ORIGINAL = {("plain", "multi_turn"), ("plain", "tuple_second_turn"), ("plain", "closed")}


def as_messages(template: str, row: dict) -> list[dict]:
    """A recorded conversation for our template. The web demo's tuples of a message, files and a mode are written as the
    text that the original makes of them: the marker of the first turn goes to the front, and ChatML ones get one more
    for each file in later turns."""
    messages = []
    if "system_set_to" in row:
        messages.append({"role": "system", "content": row["system_set_to"].removeprefix("<|im_start|>system\n")})
    for number, turn in enumerate(turn for turn in row["turns"] if turn is not None):
        if isinstance(turn, list) and number == 0:
            turn = "<image>\n" + turn[0].replace("<image>", "").strip()
        elif isinstance(turn, list):
            turn = "<image>" * (len(turn[1]) if template == "qwen_1_5" else 0) + turn[0]
        messages.append({"role": ("user", "assistant")[number % 2], "content": turn})
    return messages


def render(template: str, messages: list[dict], generate: bool) -> str:
    [prompt], _ = render_jinja_template(
        [messages], chat_template=read_template(template), add_generation_prompt=generate
    )
    return prompt


@pytest.mark.parametrize(("template", "name"), [row for row in ROWS if row not in FAIL_IN_THE_ORIGINAL])
def test_prompt_equals_the_original_byte_for_byte(template, name):
    row = PROMPTS[template]["conversations"][name]
    assert render(template, as_messages(template, row), row["turns"][-1] is None) == row["prompt"]


@pytest.mark.parametrize(("template", "name"), sorted(FAIL_IN_THE_ORIGINAL))
def test_plain_template_takes_one_message_as_in_the_original(template, name):
    row = PROMPTS[template]["conversations"][name]
    assert row["error"].startswith("TypeError")
    with pytest.raises(TemplateError, match="The plain template takes one message; this conversation has"):
        render(template, as_messages(template, row), False)


@pytest.mark.parametrize("template", sorted({*STOP_STRINGS, *SAME_TEMPLATE}))
def test_content_parts_put_markers_where_the_original_does(template):
    parts = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "Same?"}]
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    written = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>\n<video>\nSame?"}]
    assert render(template, [system, {"role": "user", "content": parts}], True) == render(template, written, True)


@pytest.mark.parametrize("template", [name for name in PROMPTS if name != "mistral_instruct"])
def test_stop_string_is_the_original_one(template):
    assert STOP_STRINGS[SAME_TEMPLATE.get(template, template)] == PROMPTS[template]["stop_str"]


@pytest.mark.parametrize("name", ["tok_qwen", "tok_vicuna"])
def test_token_ids_equal_the_original(name):
    # The original tokenizes each piece of text between visuals on its own.
    recording = Recording({"tok_qwen": "qwen_grid_avg", "tok_vicuna": "llama_notoken_avg_before"}[name])
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    processor = LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options)
    rows = [row for recorded in PROMPTS.values() for row in recorded["conversations"].values()]
    rows = [row for row in rows if row.get("tokenizer") == name]
    assert len(rows) > 7
    for row in rows:
        visual = processor.image_token + " " * processor.space_after_visuals
        [text], _ = processor.get_text_with_replacements([row["prompt"]], [visual] * row["prompt"].count("<image>"))
        ids = processor.tokenizer(text).input_ids
        assert [-200 if token == processor.image_token_id else token for token in ids] == row["input_ids"]


DEMO_ROWS = SAMPLING["video_demo_load_video"]["rows"]


def sample(total: int, fps_of_video: float, **choice) -> tuple[list[int], str]:
    """Frames and time sentence of a file-like video of `total` frames."""
    processor = LlavaNextVideoVideoProcessor(
        do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False, time_instruction=True
    )
    frames = np.zeros((total, 2, 2, 3), dtype=np.uint8)
    described = {"fps": fps_of_video, "total_num_frames": total}
    outputs = processor([frames], video_metadata=[described], return_metadata=True, **choice)
    [metadata] = outputs["video_metadata"]
    return list(metadata.frames_indices), processor.describe_times(metadata, choice["frame_sampling"])


@pytest.mark.parametrize("row", [row for row in DEMO_ROWS if "indices" in row])
def test_frames_and_time_sentence_equal_the_original(row):
    rule = "uniform_repeated" if row["force_sample"] else "fps_capped"
    indices, sentence = sample(row["num_frames_total"], row["fps"], num_frames=row["N"], frame_sampling=rule)
    assert indices == row["indices"]
    assert sentence == row["time_instruction"]


@pytest.mark.parametrize("row", [row for row in DEMO_ROWS if "error" in row])
def test_slow_videos_that_the_original_cannot_sample_give_frames(row):
    # Below half a frame a second the original divides by zero.
    assert row["error"] == "ValueError: range() arg 3 must not be zero"
    indices, _ = sample(row["num_frames_total"], row["fps"], num_frames=row["N"], frame_sampling="fps_capped")
    assert 0 < len(indices) <= row["N"]


@pytest.mark.parametrize("row", [row for row in DEMO_ROWS if row["N"] == 0])
def test_no_frames_are_an_error(row):
    with pytest.raises(ValueError, match="num_frames is 0; it has to be a whole number"):
        sample(row["num_frames_total"], row["fps"], num_frames=0, frame_sampling="fps_capped")


@pytest.mark.parametrize("row", SAMPLING["train_process_video_with_decord"]["rows"])
def test_frames_equal_those_of_the_original_training(row):
    total = row["num_frames_total"]
    limit = row["frames_upbound"] or total  # 0 is no limit
    rule = {"frame_sampling": "uniform_repeated"} if row["force_sample"] else {"frame_sampling": "fps_capped"}
    if not row["force_sample"]:
        rule["fps"] = row["video_fps"]
    indices, _ = sample(total, row["fps"], num_frames=limit, **rule)
    if "error" in row:  # as above
        assert 0 < len(indices) <= limit
    else:
        assert indices == row["indices"]


@pytest.mark.parametrize("row", SAMPLING["video_inference_branch_load_video"]["rows"])
def test_frames_equal_those_of_the_first_release(row):
    choice = {"num_frames": row["N"], "frame_sampling": "uniform_repeated"}
    assert sample(row["num_frames_total"], row["fps"], **choice)[0] == row["indices"]


def test_error_when_times_are_to_be_told_and_the_frame_rate_is_not_known():
    recording = Recording("qwen_siglip_grid_bilinear")
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    processor = LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options)
    frames = np.zeros((2, 9, 9, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"frame rate of the video is not known. Pass .* or time_instruction=False"):
        processor(text="<video>", videos=[frames])
    told = {"text": "<video>", "videos": [frames], "video_metadata": [{"fps": 2.0, "total_num_frames": 2}]}
    ids = processor(**told)["input_ids"][0]
    assert "The video lasts for 1.00 seconds, and 2 frames" in processor.tokenizer.decode(ids)
    without = processor(**told, time_instruction=False)["input_ids"][0]
    assert processor.tokenizer.decode(without).replace("<video>", "") == ""


def test_times_are_told_behind_the_space_of_the_placeholder():
    recording = Recording("llama_notoken_avg_before")
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    processor = LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options)
    frames, described = np.zeros((2, 9, 9, 3), dtype=np.uint8), [{"fps": 2.0, "total_num_frames": 2}]
    arguments = {"videos": [frames], "video_metadata": described, "time_instruction": True}
    ids = processor(text="<video>\nWhat?", **arguments)["input_ids"][0]
    after = processor.tokenizer.convert_ids_to_tokens(ids)
    last = max(place for place, token in enumerate(after) if token == "<video>")
    assert after[last + 1 : last + 4] == ["▁", "<0x0A>", "T"]
    assert "video.\nWhat?" in processor.tokenizer.decode(ids)
