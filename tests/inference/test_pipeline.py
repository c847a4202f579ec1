"""The pipeline with a random model: what it accepts, and that answers do not depend on how they were asked for."""

import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import TextStreamer

from llava_next_video import VideoReadError, VideoTextToTextPipeline
from tests.tiny import make_model, make_processor, random_frames, write_video


QUESTION = "What happens?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make_model(tower="siglip", text="qwen2", video_newline_position="grid")
    model.generation_config.max_new_tokens = 6
    model.save_pretrained(folder)
    make_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return transformers.pipeline("video-text-to-text", model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_video(folder / f"{n}.mp4", num_frames=n)) for n in (40, 5, 12)]


@pytest.fixture(scope="module")
def answers(pipe, clips):
    """The answer to QUESTION about each clip, asked one by one, straight from the model."""
    texts = []
    for clip in clips:
        content = [{"type": "video", "path": clip}, {"type": "text", "text": QUESTION}]
        inputs = pipe.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
        )
        ids = pipe.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        texts.append(pipe.processor.decode(ids, skip_special_tokens=True).strip())
    assert len(set(texts)) > 1
    return texts


def generated(results) -> list[str]:
    return [result["generated_text"] for [result] in results]


def chat(clip) -> list[dict]:
    return [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": QUESTION}]}]


def test_pipeline_is_ours(pipe):
    assert type(pipe) is VideoTextToTextPipeline


def test_video_and_question(pipe, clips, answers):
    expected = [{"input_text": QUESTION, "generated_text": answers[0]}]
    assert pipe(clips[0], QUESTION) == expected
    assert pipe(videos=clips[0], text=QUESTION) == expected
    assert pipe({"videos": clips[0], "text": QUESTION}) == expected
    assert pipe({"video": clips[0], "text": QUESTION}) == expected
    assert pipe((clips[0], QUESTION)) == expected


def test_chat_is_continued(pipe, clips, answers):
    messages = chat(clips[0])
    [result] = pipe(messages)
    assert result["input_text"] == messages
    [question, answer] = result["generated_text"]
    assert question == messages[0]
    assert answer["role"] == "assistant"
    assert answer["content"].strip() == answers[0]
    assert pipe(text=messages) == [result]
    assert pipe(messages, return_full_text=False)[0]["generated_text"].strip() == answers[0]


def test_answer_of_a_chat_can_be_begun_for_the_model(pipe, clips):
    begun = [*chat(clips[0]), {"role": "assistant", "content": [{"type": "text", "text": "It"}]}]
    [result] = pipe(begun)
    text = result["generated_text"][-1]["content"][0]["text"]
    assert len(result["generated_text"]) == 2
    assert text.startswith("It")
    assert len(text) > len("It")
    [separate] = pipe(begun, continue_final_message=False)
    assert len(separate["generated_text"]) == 3
    as_text = [*chat(clips[0]), {"role": "assistant", "content": "It"}]
    assert pipe(as_text)[0]["generated_text"][-1]["content"] == text


def test_a_begun_answer_is_continued_unless_told_otherwise(pipe, clips):
    begun = [*chat(clips[0]), {"role": "assistant", "content": [{"type": "text", "text": "It"}]}]

    def ids_straight_from_the_model(**how) -> list[int]:
        inputs = pipe.processor.apply_chat_template(begun, tokenize=True, return_dict=True, **how)
        ids = pipe.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        return ids[0, inputs["input_ids"].shape[1] :].tolist()

    def ids(**arguments) -> list[int]:
        return pipe(begun, return_tensors=True, **arguments)[0]["generated_token_ids"].tolist()[-6:]

    continued = ids_straight_from_the_model(continue_final_message=True)
    answered = ids_straight_from_the_model(add_generation_prompt=True)
    assert continued != answered
    assert ids() == ids(continue_final_message=True) == continued
    assert ids(continue_final_message=False) == answered


def test_prompt_with_placeholders_is_used_as_it_is(pipe, clips):
    prompt = pipe.processor.apply_chat_template(chat(clips[0]), add_generation_prompt=True)
    [result] = pipe(clips[0], prompt)
    assert result["input_text"] == prompt
    assert result["generated_text"].startswith(prompt)
    [new] = pipe(clips[0], prompt, return_full_text=False)
    assert prompt + new["generated_text"] == result["generated_text"]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_lists_and_generators_in_ragged_batches_give_the_same_answers(pipe, clips, answers, batch_size):
    pairs = [(clip, QUESTION) for clip in clips]
    dicts = [{"videos": clip, "text": QUESTION} for clip in clips]
    chats = [chat(clip) for clip in clips]
    assert generated(pipe(clips, [QUESTION] * 3, batch_size=batch_size)) == answers
    assert generated(pipe(pairs, batch_size=batch_size)) == answers
    assert generated(pipe(dicts, batch_size=batch_size)) == answers
    assert generated(pipe((item for item in dicts), batch_size=batch_size)) == answers
    assert generated(pipe((item for item in pairs), batch_size=batch_size)) == answers
    for results in (pipe(chats, batch_size=batch_size), pipe((item for item in chats), batch_size=batch_size)):
        assert [text[-1]["content"].strip() for text in generated(results)] == answers


def test_batch_may_mix_videos_images_and_text(pipe, clips, answers):
    picture = Image.fromarray(random_frames(1)[0])
    with_image = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]}]
    text_only = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
    chats = [chat(clips[0]), with_image, text_only, chat(clips[1])]
    together = pipe(chats, batch_size=4)
    assert together == [pipe(one) for one in chats]
    assert together[0][0]["generated_text"][-1]["content"].strip() == answers[0]


def test_many_questions_about_one_video_and_many_videos_in_one_question(pipe, clips):
    questions = ["What?", "Who?"]
    assert pipe(clips[0], questions) == [pipe(clips[0], question) for question in questions]
    frames = random_frames(2)
    assert pipe(list(frames), questions) == [pipe(frames, question) for question in questions]
    two = [{"type": "video", "video": clip} for clip in clips[:2]]
    messages = [{"role": "user", "content": [*two, {"type": "text", "text": "Same?"}]}]
    expected = pipe(messages, return_full_text=False)[0]["generated_text"].strip()
    assert pipe(clips[:2], "Same?")[0]["generated_text"] == expected


def test_frames_can_be_chosen(pipe, clips):
    for arguments, count in (({"num_frames": 3}, 3), ({"fps": 1}, 2), ({"do_sample_frames": False}, 40), ({}, 32)):
        sample = pipe.preprocess({"videos": clips[0], "text": QUESTION}, processor_kwargs=arguments)["samples"]
        assert len(sample.videos[0].processed.pixel_values) == count
        direct = pipe(clips[0], QUESTION, **arguments)
        assert direct == pipe(clips[0], QUESTION, processor_kwargs=arguments)


def test_generate_arguments_at_call_level_reach_generate(pipe, clips):
    def length(**arguments):
        return len(pipe(clips[0], QUESTION, return_tensors=True, **arguments)[0]["generated_token_ids"])

    assert length(max_new_tokens=9) - length(max_new_tokens=2) == 7
    assert length(generate_kwargs={"max_new_tokens": 9}) == length(max_new_tokens=9)
    several = pipe(clips[0], QUESTION, num_beams=3, num_return_sequences=3, max_new_tokens=4)
    assert len(several) == 3
    for batch_size in (1, 2):
        options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4, "batch_size": batch_size}
        batched = pipe(clips[:2], [QUESTION] * 2, **options)
        assert batched == [several, pipe(clips[1], QUESTION, **options)], batch_size
    torch.manual_seed(0)
    sampled = {pipe(clips[0], QUESTION, do_sample=True, temperature=5.0)[0]["generated_text"] for _ in range(4)}
    assert len(sampled) > 1


def test_stop_strings_stop_without_a_tokenizer_from_the_caller(pipe, clips, answers):
    clip, answer = next((c, a) for c, a in zip(clips, answers) if any(map(str.isalnum, a)))
    stop = next(filter(str.isalnum, answer))
    assert pipe(clip, QUESTION, stop_strings=[stop])[0]["generated_text"] == answer[: answer.index(stop) + 1]


def test_streamer_gets_the_answer(pipe, clips, answers):
    parts = []

    class Parts(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            parts.append(text)

    pipe(clips[0], QUESTION, streamer=Parts(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert "".join(parts).strip() == answers[0]


def test_arguments_of_the_pipeline_are_defaults_of_its_calls(folder, clips):
    pipe = transformers.pipeline(
        "video-text-to-text", model=str(folder), device="cpu", num_frames=2, max_new_tokens=3, batch_size=2
    )
    ids = pipe(clips[0], QUESTION, return_tensors=True)[0]["generated_token_ids"]
    explicit = pipe(clips[0], QUESTION, num_frames=2, max_new_tokens=3, return_tensors=True)[0]["generated_token_ids"]
    assert ids.tolist() == explicit.tolist()


def test_text_only_question(pipe):
    [result] = pipe(text="Hello.")
    assert result["input_text"] == "Hello."
    assert isinstance(result["generated_text"], str)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "got neither `videos` nor `text`"),
        ({"videos": "none.mp4", "text": "What?"}, VideoReadError, r"'none\.mp4': there is no such file"),
        ({"videos": "none.mp4"}, ValueError, r"got 'none\.mp4' where a prompt was expected"),
        ({"videos": np.zeros((2, 8, 8, 3))}, ValueError, "got ndarray where a prompt was expected"),
        ({"videos": {"clip": "a.mp4", "text": "What?"}}, ValueError, r"got the keys \['clip', 'text'\]"),
        ({"videos": "a.mp4", "text": [{"role": "user", "content": "b"}]}, ValueError, "got `videos` and a chat"),
        ({"videos": ["a.mp4", "b.mp4"], "text": ["What?"]}, ValueError, "got 1 texts and 2 videos"),
        ({"text": "a", "max_new_tokens": 2, "generate_kwargs": {"max_new_tokens": 3}}, ValueError, "pass each once"),
        ({"text": "a", "return_full_text": True, "return_tensors": True}, ValueError, "token ids are never cut"),
        ({"text": "a", "max_tokens": 3}, ValueError, r"not used by the model: \['max_tokens'"),
        ({"videos": [], "text": "What?"}, ValueError, "got an empty list where a video was expected"),
        ({"videos": "a.mp4", "text": "<video> or <video>?"}, ValueError, "have 2 <video> placeholders, but 1"),
    ],
)
def test_error_for_wrong_input(pipe, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(**arguments)


MALFORMED_CHATS = [
    *([{"role": "user", "content": content}] for content in (["x"], [None], [{"text": "x"}], 5)),
    [{"role": "user", "content": [{"type": "video_url"}]}],
    [{"role": "user", "content": [{"type": "audio", "url": "http://127.0.0.1:9/x"}]}],
    [{"role": "user"}],
    [{"content": "x"}],
    [{"role": "user", "content": "x"}, None],
    [],
    [{}],
    [None],
    [[]],
    ["x"],
    {"text": 5},
    5,
    None,
]  # fmt: skip


def test_error_when_nothing_can_be_continued(pipe, clips):
    content = [{"type": "video", "video": clips[1]}]
    with pytest.raises(ValueError, match="was to be continued, but it does not end in a text"):
        pipe([*chat(clips[1]), {"role": "assistant", "content": content}])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_malformed_chat_loses_its_own_place_only(pipe, clips, batch_size):
    given = [chat(clips[1]), *MALFORMED_CHATS, chat(clips[1])]
    for inputs in (given, (item for item in given)):
        first, *bad, last = pipe(inputs, batch_size=batch_size, on_error="return")
        assert first == last == pipe(chat(clips[1]))
        for malformed, [result] in zip(MALFORMED_CHATS, bad):
            assert result["input_text"] == malformed
            assert result["generated_text"] is None
            assert re.search("^In the chat, message|where a prompt was expected", str(result["error"]))


def test_what_takes_too_much_memory_loses_its_own_place_only(pipe, clips, monkeypatch):
    """A chat template of a stranger, and pixels: MemoryError, and RuntimeError of torch, stopped all questions."""

    def take_too_much(*args, **kwargs):
        torch.empty(2**55, dtype=torch.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(pipe.processor, "chat_template", "{{ 'x' * 10**15 }}")
        [[result]] = pipe([chat(clips[1])], on_error="return")
        assert re.search("The chat template cannot write this chat: MemoryError", str(result["error"]))
    with monkeypatch.context() as patch:
        patch.setattr(pipe.processor.video_processor, "rescale_and_normalize", take_too_much)
        [[result]] = pipe([chat(clips[2])], num_frames=3, on_error="return")
        assert re.search("there is not enough memory for its pixels", str(result["error"]))


@pytest.mark.parametrize("malformed", MALFORMED_CHATS[:9])
def test_error_for_a_malformed_chat(pipe, malformed):
    with pytest.raises(ValueError, match="In the chat, message"):
        pipe(malformed)
    with pytest.raises(ValueError, match="In the chat, message"):
        pipe(text=malformed)


def test_pipeline_is_saved_with_its_code_and_loaded_again(folder, clips, answers, tmp_path):
    pipe = transformers.pipeline(
        "video-text-to-text",
        model=str(folder),
        device="cpu",
        dtype=torch.float32,
        model_kwargs={"use_safetensors": True},
    )
    pipe.save_pretrained(tmp_path / "saved")
    assert {"pipeline_video_text_to_text.py", "modeling_llava_next_video.py", "code_export.py"} <= {
        path.name for path in (tmp_path / "saved").iterdir()
    }
    for trust in (None, True):
        again = transformers.pipeline(
            "video-text-to-text", model=str(tmp_path / "saved"), device="cpu", trust_remote_code=trust
        )
        assert type(again) is VideoTextToTextPipeline
        assert generated([again(clips[0], QUESTION)]) == [answers[0]]
    with pytest.raises(ValueError, match=r"saved with push_to_hub=True; call its push_to_hub\(repository\)"):
        pipe.save_pretrained(tmp_path / "other", push_to_hub=True)


def test_assistant_model_of_the_pipeline_is_used(folder, clips, answers):
    assistant = transformers.AutoModelForCausalLM.from_config(make_model(text="qwen2").config.text_config).eval()
    calls = []
    assistant.register_forward_pre_hook(lambda module, args: calls.append(1))
    pipe = transformers.pipeline("video-text-to-text", model=str(folder), device="cpu", assistant_model=assistant)
    assert generated([pipe(clips[0], QUESTION)]) == [answers[0]]
    assert calls


def test_prompt_lookup_decoding_gives_the_same_answer(pipe, clips, answers):
    assert generated([pipe(clips[0], QUESTION, prompt_lookup_num_tokens=3)]) == [answers[0]]
