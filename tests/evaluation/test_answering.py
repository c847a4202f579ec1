"""Questions about few media, answered in groups, batches and with a journal: as a plain pipeline answers them."""

import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from demo_model.clips import Clip, write_mp4
from llava_next_video import DEMO_CHECKPOINT, VideoTextToTextPipeline
from llava_next_video.evaluation import july2024_prompts as july2024
from llava_next_video.evaluation.answering import described_failures
from llava_next_video.evaluation.journal import Journal
from llava_next_video.evaluation.lmms_eval_requests import questions_of, refuse_rounds
from llava_next_video.evaluation.loading import load_pipeline, rank_and_world_size, recipe_of
from llava_next_video.evaluation.option_losses import option_losses
from llava_next_video.evaluation.pipeline_answering import PipelineAnswerer
from llava_next_video.evaluation.questions import Question, as_chat, media_id
from tests.evaluation.miniature import SEEDS, UNUSUAL, clips_of, tables


TEXTS = ("Which way does it move?", "What shape is moving?", "What colour is it?")
GREEDY = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(DEMO_CHECKPOINT, device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    paths = [str(folder / f"{seed}.mp4") for seed in range(4)]
    for seed, path in enumerate(paths):
        write_mp4(Clip.from_seed(seed, num_shapes=1, moves=True, clear=True), path)
    return paths


@pytest.fixture
def questions(clips):
    """Three questions about each of the clips, which come in turn."""
    return [
        Question("task", number, text, lambda clip=clip: [clip], media_id([clip]), (clip,), GREEDY)
        for number, (text, clip) in enumerate((text, clip) for text in TEXTS for clip in clips)
    ]


def answerer(pipe, folder=None, batch_size=1, processor_kwargs=None, **kwargs) -> PipelineAnswerer:
    pipe.forget()
    return PipelineAnswerer(pipe, processor_kwargs or {}, batch_size=batch_size, journal=Journal(folder, {}), **kwargs)


def plain_answers(pipe, questions, batch_size=1) -> list[str]:
    pipe.forget()
    results = pipe([as_chat(question) for question in questions], return_full_text=False, **GREEDY)
    return [answer["generated_text"].strip() for [answer] in results]


@pytest.mark.parametrize("batch_size", [1, 3, 5, "4"])
def test_answers_are_a_plain_pipelines_in_the_order_of_the_questions(pipe, questions, batch_size):
    assert answerer(pipe, batch_size=batch_size).answers(questions) == plain_answers(pipe, questions)


@pytest.mark.parametrize("batch_size", [1, 2, 12])
def test_each_video_is_read_and_encoded_once(pipe, questions, clips, batch_size, monkeypatch):
    read, encoded = [], []
    prepare, encode = pipe.processor.process_videos, pipe.model.get_video_features

    def spy_on_reading(video, **kwargs):
        read.append(video)
        return prepare(video, **kwargs)

    def spy_on_encoding(pixels, **kwargs):
        encoded.append(len(pixels))
        return encode(pixels, **kwargs)

    monkeypatch.setattr(pipe.processor, "process_videos", spy_on_reading)
    monkeypatch.setattr(pipe.model, "get_video_features", spy_on_encoding)
    monkeypatch.setattr(pipe.memory, "max_videos", 1)  # so that the order counts
    answerer(pipe, batch_size=batch_size).answers(questions)
    assert sorted(read) == clips
    assert encoded == [1] * len(clips)


def test_the_next_video_is_read_while_a_question_is_answered(pipe, questions, clips, monkeypatch):
    """An answer waits until the next video was begun; without a thread that reads, that would never be."""
    begun, find = {clip: threading.Event() for clip in clips}, pipe.find_or_read

    def spy(video, processor_kwargs):
        begun[video].set()
        return find(video, processor_kwargs)

    monkeypatch.setattr(pipe, "find_or_read", spy)
    asker, waits = answerer(pipe), []
    ask = asker.answer_batch

    def waiting(batch):
        following = clips.index(batch[0].videos[0]) + 1
        waits.append(following == len(clips) or begun[clips[following]].wait(20))
        return ask(batch)

    monkeypatch.setattr(asker, "answer_batch", waiting)
    asker.answers(questions)
    assert waits == [True] * len(questions)


def test_a_killed_run_goes_on_and_asks_nothing_twice(pipe, questions, tmp_path):
    expected = plain_answers(pipe, questions)
    for moment in random.Random(0).sample(range(1, 12), 5):
        asked = []

        def run(most: int, asked=asked, folder=tmp_path / str(moment)) -> list[str]:
            """Answer the questions; killed when more than `most` were asked."""
            asker = answerer(pipe, folder, batch_size=2)
            ask = asker.answer_batch

            def until_killed(batch):
                if len(asked) + len(batch) > most:
                    raise KeyboardInterrupt
                asked.extend(question.document for question in batch)
                return ask(batch)

            asker.answer_batch = until_killed
            return asker.answers(questions)

        with pytest.raises(KeyboardInterrupt):
            run(moment)
        assert run(len(questions)) == expected
        assert sorted(asked) == list(range(len(questions)))


def test_equal_questions_are_asked_once_unless_they_sample(pipe, clips):
    def requests(generation):
        arguments = ("What?", generation, lambda document: [document["video"]], 0, "task", "test")
        request = SimpleNamespace(args=arguments, metadata={})
        padding = SimpleNamespace(args=arguments, metadata={"__padding_only__": True})
        return questions_of([request, request, padding], {"task": {"test": [{"video": clips[0]}]}})

    one, same, padding = requests({"do_sample": False})
    assert one.key() == same.key()
    assert padding is None
    one, another, _ = requests({"temperature": 1.0})
    assert one.key() != another.key()
    shown = []
    asker = answerer(pipe)
    asker.progress = lambda answered, in_journal=False: shown.append((answered, in_journal))
    asker.answers([one, one, another])
    assert shown == [(1, True), (1, False), (1, False)]


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_video_that_cannot_be_read_is_an_error_or_an_empty_answer(pipe, questions, tmp_path, damage):
    bad = tmp_path / "bad.mp4"
    if damage == "damaged":
        bad.write_bytes(b"no video")
    question = Question("task", 99, "What?", lambda: [str(bad)], media_id([str(bad)]), (str(bad),), GREEDY)
    three = [questions[0], question, questions[1]]
    with pytest.raises(ValueError, match=r"^task, document 99, could not be asked: Could not read .*on_error=empty"):
        answerer(pipe, batch_size=2).answers(three)
    asker = answerer(pipe, tmp_path / "journal", batch_size=3, on_error="empty")
    first, empty, last = asker.answers(three)
    assert [first, last] == plain_answers(pipe, questions[:2])
    assert empty == ""
    assert list(asker.failures) == ["task, document 99"]
    assert "1 questions got an empty answer" in described_failures(asker.failures)
    assert "task, document 99: Could not read" in described_failures(asker.failures)
    assert len((tmp_path / "journal" / "answers-0.jsonl").read_text().splitlines()) == 2  # it is asked again next time
    [loss] = asker.losses([Question("task", 7, "What?", lambda: [str(bad)], None, (str(bad),), option=" It.")])
    assert loss == (float("inf"), False)


def test_only_some_failures_are_named():
    text = described_failures({f"task, document {number}": OSError("gone") for number in range(30)}, most=3)
    assert text.splitlines()[0].startswith("30 questions got")
    assert text.splitlines()[3:] == ["  task, document 2: gone", "  and 27 more"]


def test_a_task_that_exits_at_a_missing_video_is_an_error_of_the_question(pipe):
    def exits(document):
        raise SystemExit("video path:none.mp4 does not exist, please check")

    def fails(document):
        raise FileNotFoundError("Tried both")

    for visual, message in ((exits, "none.mp4 does not exist"), (fails, "Tried both")):
        request = SimpleNamespace(args=("What?", {}, visual, 0, "task", "test"), metadata={})
        [question] = questions_of([request], {"task": {"test": [{}]}})
        with pytest.raises(ValueError, match=message):
            answerer(pipe).answers([question])


def test_pictures_several_videos_and_no_media(pipe, clips):
    picture = Image.fromarray(np.full((40, 60, 3), 90, np.uint8))
    for media in ([picture], [picture, clips[0]], clips[:2], []):
        question = Question("task", 0, "What is it?", lambda media=media: media, media_id(media), (), GREEDY)
        assert answerer(pipe).answers([question]) == plain_answers(pipe, [question])


@pytest.mark.parametrize(
    ("medium", "message"),
    [
        ({"array": [0.0], "sampling_rate": 16000}, "gave a dictionary with the keys \\['array', 'sampling_rate'\\]"),
        ("speech.wav", "gave 'speech.wav' as a medium"),
        ({"type": "video", "url": "a.mp4", "video_start": 3}, "whole files are looked at"),
        (3.5, "gave float as a medium"),
    ],
)
def test_media_that_the_model_cannot_take_are_an_error(pipe, medium, message):
    question = Question("task", 0, "What?", lambda: [medium], None, (), GREEDY)
    with pytest.raises(ValueError, match=message):
        answerer(pipe).answers([question])
    with pytest.raises(ValueError, match=message):
        answerer(pipe).losses([Question("task", 0, "What?", lambda: [medium], None, (), option=" A")])


def test_media_are_known_again_by_their_contents(tmp_path):
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    other = Image.fromarray(np.ones((4, 4, 3), np.uint8))
    assert media_id([picture]) == media_id([picture.copy()]) != media_id([other])
    assert media_id(["https://example.com/a.mp4"]) is None
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1")
    before = media_id([str(file)])
    assert media_id([{"type": "video", "url": str(file)}]) not in (None, before)
    file.write_bytes(b"22")
    assert media_id([str(file)]) != before


def test_an_answer_ends_before_the_first_stop_string(pipe, clips):
    generation = {"until": [" moves", " is"], "max_new_tokens": 12, "do_sample": False}
    request = SimpleNamespace(args=(TEXTS[0], generation, lambda document: [clips[0]], 0, "task", "test"), metadata={})
    [question] = questions_of([request], {"task": {"test": [{}]}})
    [whole] = plain_answers(pipe, [question])
    assert " moves" in whole
    assert answerer(pipe).answers([question]) == [whole.split(" moves")[0]]


def test_prompts_reach_the_model_byte_for_byte(pipe):
    """For every row of the miniature, unusual characters included."""
    rows = {name: of_split for (name, _, _), of_split in tables(clips_of(SEEDS)).items()}
    texts = [july2024.nextqa(row) for row in rows["NExTQA"]]
    texts += [july2024.videomme(row) for row in rows["Video-MME"]]
    texts += [july2024.egoschema(row) for row in rows["egoschema"]]
    texts += [july2024.perceptiontest(row) for row in rows["PerceptionTest_Val"]]
    texts += [*UNUSUAL, " \n x \r\n"]
    for text in texts:
        chat = as_chat(Question("task", 0, text, lambda: ["a.mp4"]))
        written = pipe.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert f"<|im_start|>user\n<video>\n{text}<|im_end|>\n<|im_start|>assistant\n" in written


def test_losses_are_those_of_a_plain_forward(pipe, clips):
    options = ["The circle moves left.", " A", "It is a star, which is green."]
    chat = as_chat(Question("task", 0, TEXTS[0], lambda: [clips[0]]))
    base = pipe.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    for option, (loss, greedy) in zip(options, option_losses(pipe, chat, options, {})):
        answered = [*chat, {"role": "assistant", "content": [{"type": "text", "text": option}]}]
        whole = pipe.processor.apply_chat_template(answered, tokenize=True, return_dict=True, return_tensors="pt")
        ids = whole["input_ids"][0, base["input_ids"].shape[1] :]
        ids = ids[: int((ids == pipe.tokenizer.eos_token_id).nonzero()[0])]
        with torch.no_grad():
            logits = pipe.model(**whole).logits[0, base["input_ids"].shape[1] - 1 :][: len(ids)]
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, ids).item(), rel=1e-4)
        assert greedy == bool((logits.argmax(-1) == ids).all())


def test_the_answer_itself_is_the_likeliest_option(pipe, clips, tmp_path):
    [answer] = plain_answers(pipe, [Question("task", 0, TEXTS[0], lambda: clips[:1])])
    options = [" No.", answer, " Yes."]
    questions = [
        Question("task", 0, TEXTS[0], lambda: clips[:1], media_id(clips[:1]), (clips[0],), option=option)
        for option in options
    ]
    losses = answerer(pipe, tmp_path, batch_size=1).losses(questions)
    assert [greedy for _, greedy in losses] == [False, True, False]
    assert min(losses)[1]
    asker = answerer(pipe, tmp_path)
    asker.losses_of_batch = None  # all are in the journal
    assert asker.losses(questions) == losses


def test_an_option_without_tokens_is_an_error(pipe, clips):
    with pytest.raises(ValueError, match="loss of the option '' was asked for, which has no tokens"):
        option_losses(pipe, as_chat(Question("task", 0, "What?", lambda: clips[:1])), [""], {})


def test_frames_of_the_call_are_used(pipe, questions):
    asker = answerer(pipe, processor_kwargs={"num_frames": 2})
    asker.answers(questions[:1])
    [video] = pipe.memory.videos.values()
    assert video.processed.pixel_values.shape[0] == 2


@pytest.mark.parametrize("batch_size", [0, "auto", -1])
def test_error_at_an_impossible_batch_size(pipe, batch_size):
    with pytest.raises(ValueError, match="got batch_size="):
        answerer(pipe, batch_size=batch_size)


def test_error_at_an_unknown_way_to_treat_errors(pipe):
    with pytest.raises(ValueError, match="got on_error='ignore'; it is 'raise' or 'empty'"):
        answerer(pipe, on_error="ignore")


def test_tasks_of_several_rounds_are_refused():
    with pytest.raises(NotImplementedError, match="some_task asks in several rounds"):
        refuse_rounds([SimpleNamespace(task_name="some_task")])


def test_error_at_two_ways_to_place_the_model():
    with pytest.raises(ValueError, match="device='cpu' and device_map='auto'; pass device_map alone"):
        load_pipeline(DEMO_CHECKPOINT, device="cpu", device_map="auto")


def test_loading_takes_what_it_is_given():
    pipe = load_pipeline(DEMO_CHECKPOINT, device_map={"": "cpu"}, dtype="bfloat16", attn_implementation="eager")
    assert isinstance(pipe, VideoTextToTextPipeline)
    assert (pipe.model.dtype, pipe.model.config._attn_implementation) == (torch.bfloat16, "eager")
    recipe = recipe_of(pipe, DEMO_CHECKPOINT, {"num_frames": 3})
    assert (recipe["dtype"], recipe["frames"]["num_frames"]) == ("bfloat16", 3)


def test_each_process_takes_its_own_device(monkeypatch):
    from llava_next_video.evaluation import loading

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert (rank_and_world_size(), loading.device_of_rank()) == ((0, 1), None)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "6")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert (rank_and_world_size(), loading.device_of_rank()) == ((6, 8), "cuda:2")


def test_the_recipe_says_when_answers_would_be_others(pipe, monkeypatch, tmp_path):
    recipe = recipe_of(pipe, DEMO_CHECKPOINT, {})
    assert recipe_of(pipeline("video-text-to-text", model=DEMO_CHECKPOINT, device="cpu"), DEMO_CHECKPOINT, {}) == recipe
    monkeypatch.setattr(pipe.processor.video_processor, "num_frames", 5)
    assert recipe_of(pipe, DEMO_CHECKPOINT, {}) != recipe
    monkeypatch.undo()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert recipe_of(pipe, str(tmp_path), {})["weights"] != recipe["weights"]
