"""TRL's `DPOTrainer` on preferences about videos, with the settings of docs/guides/fine_tuning.md."""

import copy

import pytest
import torch
from peft import LoraConfig

from llava_next_video import LlavaNextVideoPreferenceCollator
from tests.tiny import make_model, write_video
from tests.training.rows import processor_of
from tests.training.test_trained_parts import LANGUAGE_MODEL_LAYERS
from tests.training.test_trainer import StopsAfter, difference, weights_of


pytestmark = pytest.mark.slow
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

RECIPE = {"video_newline_position": "grid"}
BETA = 0.1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    clips = [str(write_video(folder / f"{number}.mp4", num_frames=number)) for number in (4, 9)]
    question = [{"role": "user", "content": [{"type": "video", "text": None}, {"type": "text", "text": "Which way?"}]}]
    answers = [[{"role": "assistant", "content": [{"type": "text", "text": words}]}] for words in ("Left.", "No idea!")]
    rows = {"prompt": [question] * 2, "chosen": [answers[0]] * 2, "rejected": [answers[1]] * 2}
    return datasets.Dataset.from_dict({**rows, "videos": [[clip] for clip in clips], "images": [[], []]})


def make_trainer(folder, data, adapter: bool, callbacks=(), **arguments):
    torch.manual_seed(0)
    model, processor = make_model(**RECIPE), processor_of("qwen_1_5", **RECIPE)
    settings = trl.DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        learning_rate=1e-2,
        beta=BETA,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        **{"remove_unused_columns": False, **arguments},
    )
    return trl.DPOTrainer(
        model=model,
        ref_model=None if adapter else copy.deepcopy(model),
        args=settings,
        train_dataset=data,
        eval_dataset=data,
        processing_class=processor,
        data_collator=LlavaNextVideoPreferenceCollator(processor, processor_kwargs={"num_frames": 3}),
        peft_config=LoraConfig(r=4, target_modules=LANGUAGE_MODEL_LAYERS) if adapter else None,
        callbacks=list(callbacks),
    )


def log_probability(model, batch) -> torch.Tensor:
    """Of each row's answer, (2 B,), from the model's own logits."""
    batch = dict(batch)
    said = batch.pop("completion_mask")[:, 1:]
    with torch.no_grad():
        scores = model(**batch).logits[:, :-1].log_softmax(-1)
    return (scores.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * said).sum(1)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "LoRA"])
def test_the_loss_is_that_of_the_paper_and_training_prefers_what_was_chosen(data, adapter, tmp_path):
    trainer = make_trainer(tmp_path, data, adapter)
    batch = trainer.data_collator([data[0], data[1]])
    before = log_probability(trainer.model, batch)
    trainer.train()
    after = log_probability(trainer.model, batch)
    chosen, rejected = (after - before).chunk(2)
    assert (chosen > rejected).all()
    expected = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), abs=1e-4)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: both models are the same
    assert losses[-1] < 0.6


def test_the_pixels_matter(data, tmp_path):
    trainer = make_trainer(tmp_path, data, adapter=False)
    batch = trainer.data_collator([data[0], data[1]])
    before = log_probability(trainer.model, batch)
    batch["pixel_values_videos"] = -batch["pixel_values_videos"]
    assert (log_probability(trainer.model, batch) - before).abs().min() > 1e-4


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "LoRA"])
def test_resuming_gives_the_weights_of_a_run_without_a_break(data, adapter, tmp_path):
    once = make_trainer(tmp_path / "once", data, adapter)
    once.train()
    make_trainer(tmp_path / "twice", data, adapter, [StopsAfter(2)]).train()
    resumed = make_trainer(tmp_path / "twice", data, adapter)
    resumed.train(resume_from_checkpoint=True)
    assert difference(weights_of(once.model), weights_of(resumed.model)) == 0.0


def test_without_a_column_of_images_it_stops(data, tmp_path):
    with pytest.raises(ValueError, match="message 1, part 1: it has no video"):
        make_trainer(tmp_path, data.remove_columns("images"), adapter=True)


def test_unused_columns_have_to_stay(data, tmp_path):
    with pytest.raises(ValueError, match=r"Row 1 of the 2 .* has 0 videos in its columns and 1 placeholders"):
        make_trainer(tmp_path, data, adapter=True, remove_unused_columns=True).train()
