"""An answer is that of a pipeline that remembers nothing: random calls, and each way in which it once was not."""

import http.server
import pickle
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, TextStreamer

from llava_next_video import LlavaNextVideoVideoProcessor, ReadingLimits, VideoReadError
from llava_next_video.inference.model_state import ModelState
from llava_next_video.inference.reuse_rule import SETTINGS_PER_PROMPT, SETTINGS_PER_TOKEN, has_plain_cache, may_reuse
from llava_next_video.inference.video_fingerprints import fingerprint, video_key
from tests.inference.fresh_or_remembered import (
    DEMO,
    LANGUAGE_MODELS,
    add_adapter,
    compare,
    make_checkpoint,
    switch_adapter,
)
from tests.tiny import random_frames, write_video


QUESTIONS = ["What?", "Where does it go to, and what shape is it?", "Who is it?"]


@pytest.fixture
def checkpoint():
    return make_checkpoint("qwen2")


def make_pipeline(checkpoint, **arguments):
    model, processor = checkpoint
    return transformers.pipeline("video-text-to-text", model=model, processor=processor, device="cpu", **arguments)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", num_frames=6))


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clips") / "longer.mp4", num_frames=9))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_random_calls_are_answered_as_by_a_fresh_pipeline(name):
    comparison = compare(name, steps=40, seed=3)
    assert not comparison.differences
    assert comparison.counts["compared"] > sum(comparison.errors.values()) + 10
    assert comparison.counts["videos remembered"] > 10


@pytest.mark.parametrize(
    "of_pipeline",
    [
        {"prompt_lookup_num_tokens": 3},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"num_beams": 3},
        {"generation_config": GenerationConfig(max_new_tokens=5, num_beams=2)},
    ],
)
def test_settings_of_the_pipeline_decide_about_reuse_too(checkpoint, clip, of_pipeline):
    pipe = make_pipeline(checkpoint, **of_pipeline)
    for arguments in ({}, {}, {"num_beams": 1}, {"num_beams": 2, "num_return_sequences": 2}, {}):
        if "prompt_lookup_num_tokens" in of_pipeline and "num_beams" in arguments:
            continue  # transformers does not combine them
        for question in QUESTIONS:
            fresh = make_pipeline(checkpoint, **of_pipeline)
            assert pipe(clip, question, **arguments) == fresh(clip, question, **arguments)


def test_settings_of_the_model_decide_about_reuse_too(checkpoint, clip):
    checkpoint[0].generation_config.num_beams = 3
    pipe = make_pipeline(checkpoint)
    for question in QUESTIONS:
        assert pipe(clip, question) == make_pipeline(checkpoint)(clip, question)
    assert not pipe.memory.conversation


@pytest.mark.parametrize("beams", [1, 2])
def test_cache_of_the_caller_is_used(checkpoint, clip, beams):
    pipe = make_pipeline(checkpoint)
    expected = pipe(clip, QUESTIONS[0], num_beams=beams)
    cache = DynamicCache()
    assert pipe(clip, QUESTIONS[0], past_key_values=cache, num_beams=beams) == expected
    assert cache.get_seq_length() > 30


@pytest.mark.parametrize("name", ["mistral with a window", "gemma2", "lfm2", "llama"])
def test_questions_of_a_batch_are_answered_as_alone(name, clip):
    checkpoint = make_checkpoint(name)
    pipe = make_pipeline(checkpoint)
    expected = [make_pipeline(checkpoint)(clip, question) for question in QUESTIONS]
    for batch_size in (2, 3):
        assert pipe(clip, QUESTIONS, batch_size=batch_size) == expected
    assert [pipe(clip, question) for question in QUESTIONS] == expected


@pytest.mark.parametrize("name", ["mistral with a window", "gemma2", "lfm2", "llama", "qwen2"])
def test_questions_about_several_videos_in_a_batch_are_answered_as_alone(name, clip, longer):
    checkpoint = make_checkpoint(name)
    pairs = [(clip, QUESTIONS[0]), (longer, QUESTIONS[1]), (clip, QUESTIONS[2]), (longer, QUESTIONS[0])]
    pairs += [(clip, "<video>What?"), (longer, f"<video>{QUESTIONS[1]}"), (clip, QUESTIONS[0])]
    expected = [make_pipeline(checkpoint)(*pair) for pair in pairs]
    for batch_size in (3, 4, 7):
        assert make_pipeline(checkpoint)(pairs, batch_size=batch_size) == expected


def test_prompts_about_several_videos_in_a_batch_run_what_they_share_once(checkpoint, clip, longer):
    pipe = make_pipeline(checkpoint)
    pipe(clip, QUESTIONS[0], max_new_tokens=1)
    assert pipe.memory.conversation
    columns = []
    pipe.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: columns.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    pipe([(video, question) for video in (clip, longer) for question in QUESTIONS], batch_size=6, max_new_tokens=1)
    (videos, beginning), (questions, rest) = columns
    assert (videos, questions) == (2, 6)
    assert beginning > rest
    assert not pipe.memory.conversation  # its keys and values would lie beside those of the batch


@pytest.mark.parametrize(
    "arguments", [{"repetition_penalty": 3.0}, {"no_repeat_ngram_size": 1}, {"bad_words_ids": [[64, 65], [5]]}]
)
def test_padding_is_not_counted_by_what_looks_at_whole_prompts(clip, arguments):
    checkpoint = make_checkpoint("llama")
    pipe = make_pipeline(checkpoint)
    expected = [make_pipeline(checkpoint)(clip, question, **arguments) for question in QUESTIONS]
    assert pipe(clip, QUESTIONS, batch_size=3, **arguments) == expected


def test_stop_strings_that_begin_in_the_prompt(clip):
    checkpoint = make_checkpoint("llama")
    alone = make_pipeline(checkpoint, remembered_videos=0)
    prompts = ["<video>ab", "<video>ab and more"]
    [ids] = alone(clip, prompts[0], return_tensors=True)
    [first, *_] = ids["generated_token_ids"][-6:]
    arguments = {"stop_strings": ["ab" + alone.tokenizer.decode(first)], "return_full_text": False}
    expected = [alone(clip, prompt, **arguments) for prompt in prompts]
    assert len(expected[0][0]["generated_text"]) == 1
    assert make_pipeline(checkpoint)(clip, prompts, batch_size=2, **arguments) == expected


def test_what_a_thread_began_before_the_model_changed_is_not_kept(checkpoint, clip):
    pipe, other = make_pipeline(checkpoint), random_frames(2)
    begun, goes_on = threading.Event(), threading.Event()

    class Waits(TextStreamer):
        def put(self, value):
            begun.set()
            assert goes_on.wait(60)

        def end(self):
            pass

    thread = threading.Thread(target=pipe, args=(clip, "What?"), kwargs={"streamer": Waits(pipe.tokenizer)})
    thread.start()
    assert begun.wait(60)
    with torch.no_grad():
        for weight in pipe.model.parameters():
            weight.copy_(weight.roll(1, -1))
    pipe(other, "What?")
    goes_on.set()
    thread.join()
    assert pipe(clip, "What? Now?") == make_pipeline(checkpoint)(clip, "What? Now?")


def test_used_pipeline_is_pickled_without_its_memory(checkpoint, clip):
    pipe = make_pipeline(checkpoint, remembered_videos=3)
    answer = pipe(clip, QUESTIONS[0])
    loaded = pickle.loads(pickle.dumps(pipe))
    assert (loaded.memory.videos, loaded.memory.max_videos) == ({}, 3)
    assert loaded(clip, QUESTIONS[0]) == answer


def test_settings_of_the_processor_belong_to_a_video(checkpoint, clip):
    pipe = make_pipeline(checkpoint)
    videos = pipe.processor.video_processor
    for setting, value in (("num_frames", 1), ("frame_sampling", "legacy"), ("image_mean", [0.1, 0.2, 0.3]),
                           ("do_center_crop", False), ("limits", ReadingLimits(max_frames=3))):  # fmt: skip
        for question in QUESTIONS[:2]:
            assert outcome(pipe, clip, question) == outcome(make_pipeline(checkpoint), clip, question)
        setattr(videos, setting, value)
        assert outcome(pipe, clip, QUESTIONS[0]) == outcome(make_pipeline(checkpoint), clip, QUESTIONS[0]), setting


def outcome(pipe, *arguments):
    try:
        return pipe(*arguments)
    except ValueError as error:
        return str(error)


def test_adapters_and_weights_belong_to_what_is_remembered(checkpoint, clip):
    pipe = make_pipeline(checkpoint)
    model = pipe.model
    projector = model.model.multi_modal_projector.linear_1.weight

    def in_place():
        with torch.no_grad():
            projector.mul_(-1)

    for change in (
        in_place,
        lambda: projector.data.mul_(3),
        lambda: add_adapter(model, "one", seed=1),
        lambda: add_adapter(model, "two", seed=2),
        lambda: switch_adapter(model, "one"),
        lambda: switch_adapter(model, None),
        lambda: model.to(torch.bfloat16),
        lambda: model.to(torch.float32),
    ):
        for question in QUESTIONS[:2]:
            assert pipe(clip, question) == make_pipeline(checkpoint)(clip, question)
        change()
        assert pipe(clip, QUESTIONS[0]) == make_pipeline(checkpoint)(clip, QUESTIONS[0])


def test_model_that_changes_between_reading_and_answering(checkpoint, clip):
    pipe = make_pipeline(checkpoint)
    pipe(clip, QUESTIONS[0])
    waiting = pipe.preprocess({"videos": clip, "text": QUESTIONS[0]})
    with torch.no_grad():
        pipe.model.model.multi_modal_projector.linear_1.weight.mul_(-1)
    assert pipe.postprocess(pipe.forward(waiting)) == make_pipeline(checkpoint)(clip, QUESTIONS[0])


def test_hook_of_all_modules_belongs_to_what_is_remembered(checkpoint, clip):
    """Nothing in the model shows it, so answers came from what was computed without it."""
    pipe = make_pipeline(checkpoint)
    pipe(clip, QUESTIONS[0])

    def negate(module, args, output):
        return -output if module is pipe.model.model.multi_modal_projector else None

    handle = register_module_forward_hook(negate)
    try:
        expected = make_pipeline(checkpoint)(clip, QUESTIONS[0], return_tensors=True)
        answer = pipe(clip, QUESTIONS[0], return_tensors=True)
    finally:
        handle.remove()
    assert answer[0]["generated_token_ids"].tolist() == expected[0]["generated_token_ids"].tolist()
    assert pipe(clip, QUESTIONS[0]) == make_pipeline(checkpoint)(clip, QUESTIONS[0])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_video_that_vanishes_while_it_has_to_be_read_again(checkpoint, clip, tmp_path, batch_size):
    """The model changed, so the file is read once more, and is gone: an error of this video alone."""
    vanishing = write_video(tmp_path / "vanishing.mp4", num_frames=4)
    time.sleep(0.1)  # a file that was changed just now is not remembered
    pipe = make_pipeline(checkpoint)
    pairs = [(str(vanishing), QUESTIONS[0]), (clip, QUESTIONS[1])]
    pipe(pairs)
    for on_error in ("raise", "return"):
        samples = [pipe.preprocess(pair, on_error=on_error)["samples"] for pair in pairs]
        with torch.no_grad():
            pipe.model.model.multi_modal_projector.linear_1.weight.mul_(-1)
        if on_error == "raise":
            assert vanishing.rename(tmp_path / "elsewhere.mp4")
            with pytest.raises(VideoReadError, match="there is no such file"):
                pipe.forward({"samples": samples})
            (tmp_path / "elsewhere.mp4").rename(vanishing)
            time.sleep(0.1)
            pipe(pairs)
    vanishing.unlink()
    batches = [samples] if batch_size == 2 else [[sample] for sample in samples]
    answered = [sample for batch in batches for sample in pipe.forward({"samples": batch})["samples"]]
    [lost], record = (pipe.postprocess({"samples": sample}) for sample in answered)
    assert lost["generated_text"] is None
    assert lost["input_text"] == pairs[0]
    assert "there is no such file" in str(lost["error"])
    assert record == make_pipeline(checkpoint)(*pairs[1])


def test_address_is_read_again(checkpoint, tmp_path):
    contents = [write_video(tmp_path / f"{n}.mp4", num_frames=n).read_bytes() for n in (3, 8)]
    served = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(contents[0])

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/clip.mp4"
        pipe = make_pipeline(checkpoint)
        pipe.processor.video_processor.limits = ReadingLimits(allow_private_addresses=True)
        first = pipe(url, QUESTIONS[0])
        assert pipe(url, QUESTIONS[0]) == first
        assert len(pipe.memory.videos) == 1  # fetched twice, encoded once
        contents.reverse()
        changed = pipe(url, QUESTIONS[0], return_tensors=True)
        right, contents[0] = contents[0], b"no video"
        with pytest.raises(VideoReadError, match=url):  # the address was not named
            pipe(url, QUESTIONS[0])
        contents[0] = right
        server.shutdown()
    assert len(served) == 4
    expected = make_pipeline(checkpoint)(contents[0], QUESTIONS[0], return_tensors=True)
    assert changed[0]["generated_token_ids"].tolist() == expected[0]["generated_token_ids"].tolist()


@pytest.mark.parametrize("kind", [str, Path])
def test_assistant_of_our_own_in_a_folder(checkpoint, clip, tmp_path, kind):
    model, processor = checkpoint
    expected = [make_pipeline(checkpoint)(clip, question) for question in QUESTIONS]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = make_pipeline(checkpoint, assistant_model=kind(tmp_path))
    assert type(pipe.assistant_model) is type(model)
    assert [pipe(clip, question) for question in QUESTIONS] == expected


@pytest.mark.parametrize("kind", [str, Path])
def test_assistant_of_another_kind_in_a_folder(checkpoint, clip, tmp_path, kind):
    model, _ = checkpoint
    transformers.AutoModelForCausalLM.from_config(model.config.text_config).save_pretrained(tmp_path)
    checkpoint[1].tokenizer.save_pretrained(tmp_path)
    pipe = make_pipeline(checkpoint, assistant_model=kind(tmp_path))
    assert pipe(clip, QUESTIONS[0]) == make_pipeline(checkpoint)(clip, QUESTIONS[0])


@pytest.mark.parametrize("kind", [str, Path])
def test_error_for_the_name_of_an_assistant_in_a_call(checkpoint, clip, kind):
    with pytest.raises(ValueError, match="assistant_model='folder' in a call, which takes only a loaded model"):
        make_pipeline(checkpoint)(clip, QUESTIONS[0], assistant_model=kind("folder"))


@pytest.mark.parametrize("name", ["vision_feature_layer", "attention_mask", "mm_encoder_outputs"])
def test_error_for_arguments_that_the_pipeline_makes_itself(checkpoint, clip, name):
    with pytest.raises(ValueError, match=rf"got \['{name}'\], which it makes itself"):
        make_pipeline(checkpoint)(clip, QUESTIONS[0], **{name: 1})


def test_reuse_with_every_setting_that_is_not_listed_is_refused(checkpoint, monkeypatch):
    model, _ = checkpoint
    assert may_reuse(model, {}, num_prompts=1)
    assert may_reuse(model, {"max_new_tokens": 3, "temperature": 2.0, "do_sample": True}, num_prompts=2)
    monkeypatch.setattr(GenerationConfig, "validate", lambda *args, **kwargs: None)  # values are of no interest here
    for setting in vars(GenerationConfig()).keys() - SETTINGS_PER_TOKEN - {"transformers_version", "use_cache"}:
        if not setting.startswith("_"):
            expected = setting in SETTINGS_PER_PROMPT
            assert may_reuse(model, {setting: "something"}, num_prompts=1) == expected, setting
            assert not may_reuse(model, {setting: "something"}, num_prompts=2), setting
    assert not may_reuse(model, {"use_cache": False}, num_prompts=1)
    for argument in ("assistant_model", "past_key_values", "custom_generate", "logits_to_keep", "position_ids"):
        assert not may_reuse(model, {argument: "something"}, num_prompts=1), argument
    assert may_reuse(model, {"logits_processor": [LogitsProcessor()]}, num_prompts=1)
    assert not may_reuse(model, {"logits_processor": [LogitsProcessor()]}, num_prompts=2)
    assert not may_reuse(torch.nn.Module(), {}, num_prompts=1)


def test_only_caches_that_keep_everything_as_it_is_are_plain(checkpoint):
    plain = {name: has_plain_cache(make_checkpoint(name)[0]) for name in LANGUAGE_MODELS}
    assert plain == {
        "llama": True, "qwen2": True, "mistral with a window": False, "gemma2": False, "lfm2": False, DEMO: True,
    }  # fmt: skip
    model, _ = checkpoint
    for rope, expected in (
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, True),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, False),
        ({"full_attention": {"rope_type": "longrope"}}, False),
    ):
        model.config.text_config.rope_parameters = rope
        assert has_plain_cache(model) is expected


def test_padding_of_the_processor_is_not_kept(checkpoint, clip):
    pipe = make_pipeline(checkpoint)
    padded = {"processor_kwargs": {"padding": "max_length", "max_length": 300}}
    for arguments in (padded, {}, padded, padded):
        assert pipe(clip, QUESTIONS[0], **arguments) == make_pipeline(checkpoint)(clip, QUESTIONS[0], **arguments)


def test_state_of_a_model(checkpoint):
    model, _ = checkpoint
    before = ModelState(model)
    assert before == ModelState(model)
    assert before != "something else"
    newline = model.model.image_newline
    layer = model.model.language_model.layers[0]

    def look():
        nonlocal before
        changed, before = before != ModelState(model), ModelState(model)
        return changed

    with torch.no_grad():
        newline.add_(1)
    assert look()
    newline.data[3] += 1
    assert look()
    model.model.image_newline = torch.nn.Parameter(newline.detach().clone())
    assert look()
    layer.train()
    assert look()
    handle = layer.register_forward_hook(lambda *args: None)
    assert look()
    handle.remove()
    assert look()
    for register in (register_module_forward_hook, register_module_forward_pre_hook):
        handle = register(lambda *args: None)
        assert look()
        handle.remove()
        assert look()
    layer.self_attn.scaling *= 2
    assert look()
    layer.forward = layer.forward
    assert look()
    del layer.forward
    assert look()
    model.config.video_newline_position = "frame"
    assert look()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert look()
    assert look()
    model(input_ids=torch.tensor([[1, 2, 3]]))
    model.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=2)
    assert not look()
    with torch.inference_mode():
        layer.register_buffer("extra", torch.zeros(3))
        assert look()
    assert not look()


def test_frames_whose_look_is_elsewhere_than_in_their_numbers_are_told_apart():
    frame = Image.fromarray(random_frames(1)[0]).quantize(16)
    other = frame.copy()
    other.putpalette([255 - value for value in frame.getpalette()])
    for mode in ("P", "PA"):
        one, two = frame.convert(mode), other.convert(mode)
        assert one.tobytes() == two.tobytes()
        assert fingerprint(one) != fingerprint(two)
    assert fingerprint("data:video/mp4;base64,AAAA") != fingerprint(b"data:video/mp4;base64,AAAA")

    class Unpicklable:
        def __init__(self):
            self.rule = lambda: None

    assert video_key(b"video", {}, Unpicklable()) is None
    assert video_key(memoryview(b"video")[::2], {}, object.__new__(type("P", (), {}))) is not None


@pytest.mark.parametrize("limits", [ReadingLimits(max_frame_pixels=99), ReadingLimits(max_frames=1)])
def test_pictures_over_the_limits_are_not_decoded_to_remember_them(limits):
    """Pillow decodes a picture that was opened when its contents are asked for."""
    file = BytesIO()
    Image.new("RGB", (10, 10)).save(file, "PNG")
    frames = [Image.open(file), Image.open(BytesIO(file.getvalue()))]
    processor = LlavaNextVideoVideoProcessor()
    processor.limits = limits
    assert video_key(frames, {}, processor) is None
    assert all(frame.tile for frame in frames)
    processor.limits = ReadingLimits()
    assert video_key(frames, {}, processor) is not None
