"""What the pipeline keeps of videos: that it spares the work, that answers stay the same, and that it is bounded."""

import time
from io import BytesIO

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.utils.data import Dataset

from llava_next_video import VideoChat
from llava_next_video.inference.remembered_videos import RememberedVideo, VideoMemory
from llava_next_video.inference.video_fingerprints import fingerprint
from tests.tiny import make_model, make_processor, random_frames, write_video


TOKENS_PER_FRAME = 2 * 3  # of the tiny model: 2x2, and a newline after each row
QUESTIONS = ["What?", "Who is it?", "Where does it go to?"]


def make_pipeline(folder, text: str = "qwen2", **arguments):
    if not (folder / text).exists():
        model = make_model(tower="siglip", text=text, video_newline_position="grid")
        model.generation_config.max_new_tokens = 6
        model.save_pretrained(folder / text)
        make_processor(model.config).save_pretrained(folder / text)
    pipe = transformers.pipeline("video-text-to-text", model=str(folder / text), device="cpu", **arguments)
    count_work(pipe)
    return pipe


def count_work(pipe):
    """Count the videos read, the frames encoded and the visual tokens that the language model runs."""
    pipe.work = {"read": 0, "encoded": 0, "visual": 0}
    process, encode = pipe.processor.process_videos, pipe.model.model.encode_frames

    def counting_process(*args, **kwargs):
        pipe.work["read"] += 1
        return process(*args, **kwargs)

    def counting_encode(pixels, *args, **kwargs):
        pipe.work["encoded"] += len(pixels)
        return encode(pixels, *args, **kwargs)

    def counting_tokens(module, args, kwargs):
        if (ids := kwargs["input_ids"]) is not None:  # without a cache they are embedded from the second step on
            pipe.work["visual"] += int((ids == pipe.processor.video_token_id).sum())

    pipe.processor.process_videos, pipe.model.model.encode_frames = counting_process, counting_encode
    pipe.model.model.register_forward_pre_hook(counting_tokens, with_kwargs=True)


def work(pipe) -> dict[str, int]:
    """The work since it was last asked for."""
    done = dict(pipe.work)
    pipe.work.update(dict.fromkeys(done, 0))
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    clips = [str(write_video(folder / f"{n}.mp4", num_frames=n)) for n in (9, 5, 12)]
    time.sleep(0.1)  # a file that was written a moment ago is not remembered
    return clips


@pytest.fixture
def pipe(folder):
    return make_pipeline(folder)


@pytest.fixture(scope="module")
def forgetful(folder):
    return make_pipeline(folder, remembered_videos=0)


def test_second_question_costs_neither_reading_nor_encoding_nor_prefill(pipe, forgetful, clips):
    first = pipe(clips[0], QUESTIONS[0])
    assert work(pipe) == {"read": 1, "encoded": 9, "visual": 9 * TOKENS_PER_FRAME}
    assert first == forgetful(clips[0], QUESTIONS[0])
    for question in QUESTIONS[1:]:
        assert pipe(clips[0], question) == forgetful(clips[0], question)
        assert work(pipe) == {"read": 0, "encoded": 0, "visual": 0}


@pytest.mark.parametrize("text", ["llama", "mistral"])
def test_other_language_models_answer_the_same(folder, clips, text):
    pipe, forgetful = make_pipeline(folder, text), make_pipeline(folder, text, remembered_videos=0)
    assert [pipe(clips[0], q) for q in QUESTIONS] == [forgetful(clips[0], q) for q in QUESTIONS]
    assert work(pipe)["encoded"] == 9


def test_sliding_windows_are_not_taken_back(folder, clips):
    pipe, forgetful = make_pipeline(folder, "mistral"), make_pipeline(folder, "mistral", remembered_videos=0)
    for each in (pipe, forgetful):
        each.model.config.text_config.sliding_window = 8
        each.model.model.language_model.config.sliding_window = 8
    assert [pipe(clips[0], q) for q in QUESTIONS] == [forgetful(clips[0], q) for q in QUESTIONS]
    assert not pipe.memory.conversation
    assert work(pipe)["encoded"] == 9


@pytest.mark.parametrize("batch_size", [2, 3])
def test_questions_of_a_batch_share_the_video(pipe, forgetful, clips, batch_size):
    together = pipe(clips[0], QUESTIONS, batch_size=batch_size)
    assert work(pipe) == {"read": 1, "encoded": 9, "visual": 9 * TOKENS_PER_FRAME}
    assert together == [forgetful(clips[0], question) for question in QUESTIONS]
    assert pipe(clips[0], QUESTIONS, batch_size=batch_size) == together
    assert work(pipe) == {"read": 0, "encoded": 0, "visual": 0}


def test_batches_of_several_videos_are_encoded_once(pipe, forgetful, clips):
    pairs = [(clip, question) for clip in clips for question in QUESTIONS]
    expected = [forgetful(*pair) for pair in pairs]
    for batch_size in (1, 2, 3, 9):
        assert pipe(pairs, batch_size=batch_size) == expected
    assert pipe(pairs[::-1], batch_size=2) == expected[::-1]
    spent = work(pipe)
    assert (spent["read"], spent["encoded"]) == (3, 9 + 5 + 12)


def test_beams_samples_and_several_answers_use_the_encoded_video(pipe, forgetful, clips):
    pipe(clips[0], QUESTIONS[0])
    work(pipe)
    for arguments in (
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ):
        assert pipe(clips[0], QUESTIONS[1], **arguments) == forgetful(clips[0], QUESTIONS[1], **arguments), arguments
    assert work(pipe)["encoded"] == 0
    answers = []
    for each in (pipe, forgetful):
        torch.manual_seed(3)
        answers.append(each(clips[0], QUESTIONS[1], do_sample=True, temperature=5.0))
    assert answers[0] == answers[1]


def test_other_frames_are_another_video(pipe, forgetful, clips):
    pipe(clips[0], QUESTIONS[0])
    assert pipe(clips[0], QUESTIONS[0], num_frames=3) == forgetful(clips[0], QUESTIONS[0], num_frames=3)
    assert work(pipe)["encoded"] == 9 + 3


def test_changed_file_is_read_again(pipe, forgetful, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", num_frames=4)
    pipe(str(clip), QUESTIONS[0])
    write_video(clip, num_frames=6)
    assert pipe(str(clip), QUESTIONS[0]) == forgetful(str(clip), QUESTIONS[0])
    assert work(pipe)["encoded"] == 4 + 6


def test_memory_is_bounded_and_forgets_what_was_not_asked_about_for_longest(folder, clips):
    pipe = make_pipeline(folder, remembered_videos=2)
    for clip in (clips[0], clips[1], clips[0], clips[2]):  # now 1 was not asked about for longest
        pipe(clip, QUESTIONS[0])
    work(pipe)
    pipe(clips[0], QUESTIONS[0])
    pipe(clips[2], QUESTIONS[0])
    assert work(pipe)["encoded"] == 0
    pipe(clips[1], QUESTIONS[0])
    assert work(pipe)["encoded"] == 5
    assert len(pipe.memory.videos) == 2
    assert all(video.pixels is None for video in pipe.memory.videos.values())
    assert len(pipe.memory.conversation) == 1
    pipe.forget()
    assert not pipe.memory.videos
    assert not pipe.memory.conversation
    pipe(clips[1], QUESTIONS[0])
    assert work(pipe)["encoded"] == 5


def test_memory_fills_up_to_its_number_of_videos():
    memory, sizes = VideoMemory(5), []
    for number in range(9):
        memory.keep(RememberedVideo(number, None, None))
        sizes.append(len(memory.videos))
    assert sizes == [1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert list(memory.videos) == [4, 5, 6, 7, 8]


def test_nothing_is_kept_with_remembered_videos_0(forgetful, clips):
    work(forgetful)
    forgetful(clips[0], QUESTIONS[:2])
    assert work(forgetful)["encoded"] == 2 * 9
    assert not forgetful.memory.videos
    assert not forgetful.memory.conversation


def test_error_for_a_negative_memory(folder):
    with pytest.raises(ValueError, match="to remember -1 videos; remembered_videos has to be 0 or more"):
        make_pipeline(folder, remembered_videos=-1)


def test_later_turns_add_to_the_conversation(pipe, forgetful, clips):
    chat = VideoChat(pipe, clips[0])
    fresh = VideoChat(forgetful, clips[0])
    for turn, question in enumerate(QUESTIONS):
        assert chat.ask(question) == fresh.ask(question)
        if turn == 0:
            assert work(pipe) == {"read": 1, "encoded": 9, "visual": 9 * TOKENS_PER_FRAME}
        else:
            assert work(pipe) == {"read": 0, "encoded": 0, "visual": 0}
    assert chat.messages == fresh.messages
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3


def test_video_that_comes_later_is_encoded_alone(pipe, forgetful, clips):
    def ask(pipe):
        first = [{"role": "user", "content": [video(clips[0]), {"type": "text", "text": "What?"}]}]
        [result] = pipe(first)
        second = {"role": "user", "content": [video(clips[1]), {"type": "text", "text": "And this?"}]}
        return pipe([*result["generated_text"], second])

    assert ask(pipe) == ask(forgetful)
    assert work(pipe) == {"read": 2, "encoded": 9 + 5, "visual": (9 + 5) * TOKENS_PER_FRAME}


def video(clip) -> dict:
    return {"type": "video", "video": clip}


def test_failed_turn_leaves_the_chat_as_it_was(pipe, clips):
    chat = VideoChat(pipe, clips[0])
    answer = chat.ask(QUESTIONS[0])
    before = list(chat.messages)

    class Interrupting(transformers.TextStreamer):
        def put(self, value):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.ask(QUESTIONS[1], streamer=Interrupting(pipe.tokenizer))
    assert chat.messages == before
    work(pipe)
    assert isinstance(chat.ask(QUESTIONS[1]), str)
    assert work(pipe)["encoded"] == 0
    assert chat.messages[1]["content"][0]["text"] == answer


def test_worker_processes_prepare_videos(pipe, forgetful, clips):
    pairs = [(clip, question) for clip in clips[:2] for question in QUESTIONS[:2]]
    assert pipe(pairs, num_workers=1, batch_size=2) == [forgetful(*pair) for pair in pairs]
    assert work(pipe)["encoded"] == 9 + 5


def test_processed_video_is_taken_by_the_processor(pipe, clips):
    [processed] = pipe.processor.process_videos(clips[0], num_frames=4)
    assert processed.pixel_values.shape[0] == 4
    assert processed.metadata.total_num_frames == 9
    prompt = "<video><video>What?"
    mixed = pipe.processor(text=prompt, videos=[processed, clips[1]])
    direct = pipe.processor(text=prompt, videos=[clips[0], clips[1]], num_frames=4)
    assert mixed["input_ids"].shape == (1, direct["input_ids"].shape[1] + TOKENS_PER_FRAME)
    torch.testing.assert_close(mixed["pixel_values_videos"][0], direct["pixel_values_videos"][0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: random_frames(3),
        lambda: torch.from_numpy(random_frames(3)),
        lambda: [Image.fromarray(frame) for frame in random_frames(3)],
        lambda: random_frames(3).tobytes(),
        lambda: "data:video/mp4;base64,AAAA",
    ],
)
def test_fingerprint_tells_contents(make):
    assert fingerprint(make()) == fingerprint(make()) is not None


def test_fingerprint_of_other_contents_differs(clips):
    frames = random_frames(3)
    changed = frames.copy()
    changed[2, 5, 5, 0] ^= 1
    prints = [
        fingerprint(video)
        for video in (frames, changed, frames[:2], frames.astype(np.int32), torch.from_numpy(frames), list(frames),
                      frames.tobytes(), *clips)
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)


def test_what_cannot_be_told_has_no_fingerprint(tmp_path):
    assert fingerprint(BytesIO(b"123")) is None
    assert fingerprint("https://example.org/clip.mp4") is None
    assert fingerprint(np.array([None, "frame"], dtype=object)) is None
    (tmp_path / "just_written.mp4").write_bytes(b"123")
    assert fingerprint(tmp_path / "just_written.mp4") is None
    assert fingerprint("none.mp4") is None
    assert fingerprint(["none.png", "none.png"]) is None


class Table(list):
    """What the library `datasets` calls a dataset, as far as it matters here."""

    column_names = ("video", "text")


class Column(tuple):
    """One of its columns: a sequence of its own class."""


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize("wrap", [Table, Rows])
def test_datasets_are_answered_row_by_row_with_a_length(pipe, forgetful, clips, wrap):
    rows = [{"video": clip, "text": question} for clip in clips for question in QUESTIONS]
    answers = pipe(wrap(rows))
    assert len(answers) == len(rows)  # what a progress bar asks for
    assert list(answers) == [forgetful(row["video"], row["text"]) for row in rows]


def test_stream_of_rows_is_answered_lazily(pipe, clips):
    taken = []

    class Stream:
        column_names = None

        def __iter__(self):
            for clip in clips:
                taken.append(clip)
                yield {"video": clip, "text": "What?"}

    answers = pipe(Stream())
    assert len(taken) <= 1
    next(iter(answers))
    assert len(taken) < len(clips)


def test_bad_prompts_keep_their_place_and_nothing_else_is_lost(pipe, forgetful, clips, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    pairs = [(clips[0], "What?"), (str(tmp_path / "broken.mp4"), "What?"), ("none.mp4", "Who?"), (clips[1], "Who?"), 5]
    for batch_size in (1, 2, 5):
        results = pipe(pairs, batch_size=batch_size, on_error="return")
        assert [results[0], results[3]] == [forgetful(*pairs[0]), forgetful(*pairs[3])]
        for number, reason in ((1, "broken.mp4"), (2, "there is no such file"), (4, "where a prompt was expected")):
            [result] = results[number]
            assert result["input_text"] == pairs[number]
            assert result["generated_text"] is None
            assert reason in str(result["error"])
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        pipe(pairs)


def test_error_for_unknown_on_error(pipe, clips):
    with pytest.raises(ValueError, match=r"on_error='ignore'; it is 'raise' or 'return'"):
        pipe(clips[0], "What?", on_error="ignore")
