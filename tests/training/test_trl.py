"""TRL's `SFTTrainer` with the settings of docs/guides/fine_tuning.md, and with others that have to stop it."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig
from PIL import Image

from llava_next_video import LlavaNextVideoCollator, training_chat_template
from tests.tiny import make_model, write_video
from tests.training.rows import processor_of, says, user
from tests.training.test_trained_parts import LANGUAGE_MODEL_LAYERS
from tests.training.test_trainer import StopsAfter, difference, weights_of


pytestmark = pytest.mark.slow
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

RECIPE = {"video_newline_position": "grid"}
NEEDED = {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of a table: videos as files in a `Video` column, one row without any."""
    folder = tmp_path_factory.mktemp("clips")
    clips = [str(write_video(folder / f"{number}.mp4", num_frames=number)) for number in (4, 9)]
    part = {"type": "text", "text": None}
    questions = [
        [{**part, "type": "video"}, {**part, "text": "Which way?"}],
        [{**part, "text": "Hello"}],
        [{**part, "type": "video"}, {**part, "text": "And this?"}],
    ]
    answers = ["Left.", "Hi.", "It moves up."]
    rows = {
        "messages": [
            [{"role": "user", "content": question}, {"role": "assistant", "content": [{**part, "text": answer}]}]
            for question, answer in zip(questions, answers)
        ],
        "videos": [clips[:1], [], clips[1:]],
    }
    column = datasets.List(datasets.Video(decode=False))
    return datasets.Dataset.from_dict(rows).cast_column("videos", column)


def make_trainer(folder, data, collate: bool = True, model=None, callbacks=(), peft_config=None, **arguments):
    processor = processor_of("qwen_1_5", **RECIPE)
    settings = trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=3,
        max_steps=4,
        save_steps=2,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        **{**NEEDED, **arguments},
    )
    return trl.SFTTrainer(
        model=make_model(**RECIPE) if model is None else model,
        args=settings,
        train_dataset=data,
        eval_dataset=data,
        processing_class=processor,
        data_collator=LlavaNextVideoCollator(processor, processor_kwargs={"num_frames": 3}) if collate else None,
        peft_config=peft_config,
        callbacks=list(callbacks),
    )


def test_the_loss_is_the_models_and_depends_on_the_pixels(data, tmp_path):
    trainer = make_trainer(tmp_path, data)
    batch = trainer.data_collator([data[0], data[1], data[2]])
    assert [len(video) for video in batch["pixel_values_videos"]] == [3, 3]
    with torch.no_grad():
        expected = make_model(**RECIPE)(**batch).loss.item()
        batch["pixel_values_videos"] = -batch["pixel_values_videos"]
        assert abs(make_model(**RECIPE)(**batch).loss.item() - expected) > 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "LoRA"])
def test_resuming_gives_the_weights_of_a_run_without_a_break(data, adapter, tmp_path):
    def trainer(folder, callbacks=()):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=LANGUAGE_MODEL_LAYERS) if adapter else None
        return make_trainer(tmp_path / folder, data, peft_config=config, callbacks=callbacks)

    once = trainer("once")
    before = weights_of(once.model)
    once.train()
    trainer("twice", [StopsAfter(2)]).train()
    resumed = trainer("twice")
    resumed.train(resume_from_checkpoint=True)
    assert difference(weights_of(once.model), before) > 1e-3
    assert difference(weights_of(once.model), weights_of(resumed.model)) == 0.0


def test_the_tower_is_trained_with_everything_and_not_by_lora(data, tmp_path):
    for config in (None, LoraConfig(r=4, target_modules=LANGUAGE_MODEL_LAYERS)):
        trainer = make_trainer(tmp_path, data, peft_config=config)
        before = weights_of(trainer.model)
        trainer.train()
        after = weights_of(trainer.model)
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert any("language_model" in name for name in changed)
        assert any("vision_tower" in name for name in changed) == (config is None)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ([{"type": "video"}], r"message 1, part 1: it has no video"),
        ("<video>\nWhich way?", r"have 1 <video> placeholders, but 0 videos were passed"),
        ([{"type": "video", "path": "{clip}"}], r"placeholders and came without videos"),
    ],
    ids=["part", "text", "part with its source"],
)
def test_without_our_collator_it_stops_at_videos(question, message, tmp_path):
    """It reads what it then drops, and trained on videos without any pixels."""
    clip = str(write_video(tmp_path / "clip.mp4", num_frames=4))
    content = [{**question[0], "path": clip}] if "path" in question[0] else question
    answer = "Left." if isinstance(content, str) else [{"type": "text", "text": "Left."}]  # of one type in a table
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    rows = {"messages": [chat], "videos": [[clip]]}
    data = datasets.Dataset.from_dict(rows)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, data, collate=False, remove_unused_columns=True, dataset_kwargs=None).train()


def test_forgotten_settings_stop_it(data, tmp_path):
    with pytest.raises(ValueError, match="message 1, part 1: it has no video"):
        make_trainer(tmp_path, data, dataset_kwargs=None)
    with pytest.raises(ValueError, match=r"No columns in the dataset match.*remove_unused_columns=False"):
        make_trainer(tmp_path, data, remove_unused_columns=True).train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"packing": True}, "custom data collator is not supported when using padding-free"),
        ({"padding_free": True}, "custom data collator is not supported when using padding-free"),
        ({"assistant_only_loss": True}, "The chat template is not training-compatible"),
        ({"train_sampling_strategy": "group_by_length"}, "Can only automatically infer lengths"),
    ],
)
def test_settings_that_do_not_go_with_the_collator_stop_it(data, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, data, **arguments).train()


def test_its_max_length_changes_nothing(data, tmp_path):
    losses = [make_trainer(tmp_path, data, max_length=length).evaluate()["eval_loss"] for length in (5, None)]
    assert losses[0] == losses[1]


def test_a_checkpoint_that_is_named_is_loaded_with_the_built_in(data, tmp_path):
    """By its class's name in transformers, which only refuses recipes that it lacks: why the guide loads the model."""
    for name, recipe in (("theirs", {}), ("ours", RECIPE)):
        make_model(**recipe).save_pretrained(tmp_path / name)
    trainer = make_trainer(tmp_path, data, model=str(tmp_path / "theirs"))
    assert type(trainer.model).__module__.startswith("transformers.models.")
    with pytest.raises(StrictDataclassError, match="This checkpoint is not for"):
        make_trainer(tmp_path, data, model=str(tmp_path / "ours"))


def test_its_own_collator_learns_answers_of_images_with_our_template(tmp_path):
    picture = Image.new("RGB", (20, 30), "red")
    rows = [{"messages": [user(("image",), "Color?"), says("It is red.")], "images": [picture]}]
    processor = processor_of("qwen_1_5", **RECIPE)
    collate = trl.trainer.sft_trainer.DataCollatorForVisionLanguageModeling(
        processor, assistant_only_loss=True, chat_template=training_chat_template(processor)
    )
    labels = collate(rows)["labels"]
    assert processor.tokenizer.decode(labels[labels != -100]) == "It is red.<|im_end|>"
