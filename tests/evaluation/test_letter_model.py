"""The sibling that answers with letters, asked by a pipeline; `test_lmms_eval_letters.py` has it asked by lmms-eval."""

import pytest
import torch

from demo_model.clips import write_mp4
from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration
from llava_next_video.evaluation import july2024_prompts as july2024
from llava_next_video.evaluation.loading import load_pipeline
from tests.evaluation.letter_model import write_letter_model
from tests.evaluation.miniature import LETTERS, asked_about_order, clips_of, tables


BENCHMARKS = {  # the prompt of a row, where it names the clip, and where the right option
    "NExTQA": (july2024.nextqa, "video", "answer"),
    "Video-MME": (july2024.videomme, "videoID", "answer"),
    "egoschema": (july2024.egoschema, "video_idx", "answer"),
    "PerceptionTest_Val": (july2024.perceptiontest, "video_name", "answer_id"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    write_letter_model(folder)
    return folder


def test_it_says_the_letter_of_the_right_option(folder, tmp_path):
    pipe = load_pipeline(str(folder), device="cpu")
    clips = clips_of(range(100, 104))
    for name, clip in clips.items():
        write_mp4(clip, tmp_path / f"{name}.mp4")
    letters = []
    for (data_set, configuration, _), rows in tables(clips, asked_about_order).items():
        prompt, video, right = BENCHMARKS[data_set]
        for row in rows if configuration != "GENERATION" else []:  # these have no answers
            media = {"type": "video", "video": str(tmp_path / f"{row[video]}.mp4")}
            chat = [{"role": "user", "content": [media, {"type": "text", "text": prompt(row)}]}]
            [record] = pipe(chat, return_full_text=False, max_new_tokens=4)
            number = row[right]  # or the letter itself
            letter = number if str(number) in LETTERS else LETTERS[int(number)]
            assert record["generated_text"] == letter, (data_set, row)
            letters.append(letter)
    assert len(letters) == 15
    assert len(set(letters)) > 1


def test_its_lower_layers_are_the_embedded_checkpoints(folder):
    def hidden_states(checkpoint) -> tuple[torch.Tensor, ...]:
        model = LlavaNextVideoForConditionalGeneration.from_pretrained(checkpoint)
        with torch.no_grad():
            return model(input_ids=torch.arange(300)[None], output_hidden_states=True).hidden_states

    for lower, embedded in zip(hidden_states(folder)[1:4], hidden_states(DEMO_CHECKPOINT)[1:4], strict=True):
        off = lower[..., : embedded.shape[-1]] - embedded
        assert off.abs().max() < 1e-4 * embedded.std()
