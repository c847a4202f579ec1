"""Tables and columns of the library `datasets`, of videos and of pictures, without torchcodec. With it:
`tests/reading/with_torchcodec.py`."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from llava_next_video import DEMO_CHECKPOINT, VideoReadError, read_video
from llava_next_video.inference.dataset_rows import as_stored
from llava_next_video.inference.video_fingerprints import video_key
from llava_next_video.reading.pictures import read_picture
from tests.tiny import random_frames


datasets = pytest.importorskip("datasets")

SAMPLES = Path(__file__).parents[2] / "demo_model" / "samples"
CLIPS = [
    str(SAMPLES / f"{name}.mp4") for name in ("red_circle_moves_left", "blue_square_moves_up", "yellow_star_moves_down")
]
DATA = [Path(clip).read_bytes() for clip in CLIPS]
QUESTION = "What is moving?"
ANSWERS = ["A red circle.", "A blue square.", "A yellow star."]
UNDECODED = datasets.Video(decode=False)
NEITHER = {"bytes": None, "path": None}


@pytest.fixture(scope="module")
def pipe():
    return transformers.pipeline("video-text-to-text", model=DEMO_CHECKPOINT)


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    """`datasets` decodes no video."""
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", False)


def table(videos: list, feature=None, name: str = "video"):
    features = datasets.Features({name: feature or datasets.Video(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict({name: videos, "text": [QUESTION] * len(videos)}, features=features)


def generated(results) -> list[str]:
    return [result["generated_text"] for [result] in results]


@pytest.mark.parametrize("stored", [CLIPS, DATA, [{"bytes": data, "path": "x.mp4"} for data in DATA]])
@pytest.mark.parametrize("feature", [datasets.Video(), UNDECODED])
@pytest.mark.parametrize("name", ["video", "videos"])
def test_tables_and_columns_of_videos(pipe, stored, feature, name):
    rows = table(stored, feature, name)
    assert generated(pipe(rows, batch_size=2)) == ANSWERS
    assert generated(pipe(rows[name], rows["text"])) == ANSWERS
    assert generated(pipe(rows[name], ["Which way does it move?"] * 3)) != ANSWERS


def test_tables_are_read_by_workers(pipe):
    assert generated(pipe(table(CLIPS), num_workers=1)) == ANSWERS


def test_stream_of_undecoded_videos(pipe):
    assert generated(pipe(table(DATA, UNDECODED).to_iterable_dataset())) == ANSWERS


def test_broken_video_of_a_table_loses_its_own_row(pipe):
    rows = table([CLIPS[0], "missing.mp4", b"no video", CLIPS[2]])
    for results in (pipe(rows, on_error="return"), pipe(rows["video"], rows["text"], on_error="return")):
        results = [result for [result] in results]
        assert [result["generated_text"] for result in results] == [ANSWERS[0], None, None, ANSWERS[2]]
        assert "'missing.mp4': there is no such file" in str(results[1]["error"])
        assert "given as 8 bytes: Invalid data" in str(results[2]["error"])


def test_rows_that_are_given_in_another_form_stay_so(pipe):
    rows = table(CLIPS, UNDECODED)
    questions = rows.with_transform(lambda batch: {**batch, "text": ["Which way does it move?"] * len(batch["text"])})
    assert generated(pipe(questions)) == ["It moves left.", "It moves up.", "It moves down."]
    decoded = table(CLIPS)
    for other in (decoded.with_format("torch"), decoded.with_transform(lambda batch: batch)):
        assert as_stored(other) is other
    by_stream = table(CLIPS, datasets.Video(stream_index=0))
    assert as_stored(by_stream).features["video"].decode
    assert not as_stored(decoded).features["video"].decode
    assert decoded.features["video"].decode  # the user's own table


@pytest.mark.parametrize(
    "value", [{"bytes": DATA[0], "path": None}, {"bytes": None, "path": CLIPS[0]}, {"path": CLIPS[0]}]
)
def test_undecoded_value_stands_for_its_video_everywhere(pipe, value):
    processor = pipe.processor
    wanted = processor(text="<video>", videos=CLIPS[0])["pixel_values_videos"]
    assert torch.equal(processor(text="<video>", videos=value)["pixel_values_videos"], wanted)
    assert torch.equal(processor(text=["<video>"], videos=[[value]])["pixel_values_videos"], wanted)
    chat = [{"role": "user", "content": [{"type": "video", "video": value}, {"type": "text", "text": QUESTION}]}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
    assert torch.equal(inputs["pixel_values_videos"], wanted)
    assert pipe(chat)[0]["generated_text"][-1]["content"] == ANSWERS[0]
    assert pipe(value, QUESTION)[0]["generated_text"] == ANSWERS[0]
    assert pipe([value, CLIPS[1]], f"<video><video>{QUESTION}")[0]["generated_text"]
    assert read_video(value)[1].total_num_frames == 75
    plain = value.get("bytes") or value["path"]
    assert video_key(value, {}, processor.video_processor) == video_key(plain, {}, processor.video_processor)


def test_value_that_holds_neither_bytes_nor_path(pipe):
    reason = "holds neither. Leave this row out"
    for read in (read_video, read_picture, pipe.processor.video_processor):
        with pytest.raises(ValueError, match=reason):
            read(NEITHER)
    with pytest.raises(ValueError, match=rf"message 1, part 1: .*{reason}"):
        pipe([{"role": "user", "content": [{"type": "video", "video": NEITHER}]}])
    [[good], [bad]] = pipe(
        table([{**NEITHER, "path": CLIPS[0]}, NEITHER], {name: datasets.Value("string") for name in NEITHER}),
        on_error="return",
    )
    assert good["generated_text"] == ANSWERS[0]
    assert reason in str(bad["error"])


def test_value_with_other_keys_is_no_video(pipe):
    with pytest.raises(TypeError, match="A video cannot be made of dict"):
        pipe.processor.video_processor({"bytes": DATA[0], "size": 3})
    with pytest.raises(TypeError, match="A video cannot be made of dict"):
        pipe.processor.video_processor({"bytes": CLIPS[0], "path": None})
    with pytest.raises(VideoReadError, match="addresses with zip: are not read"):
        read_video({"bytes": None, "path": "zip://clip.mp4::clips.zip"})


def png(picture: Image.Image) -> bytes:
    data = BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("decode", [True, False])
def test_columns_of_pictures(pipe, tmp_path, decode):
    pictures = [Image.fromarray(frame) for frame in random_frames(3)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    processor = pipe.processor
    wanted = processor.image_processor(pictures)["pixel_values"]
    frames = processor.video_processor(pictures)["pixel_values_videos"][0]
    for stored in (pictures, [png(picture) for picture in pictures], [str(tmp_path / f"{n}.png") for n in range(3)]):
        column = table(stored, datasets.Image(decode=decode), "image")["image"]
        given = processor.image_processor(list(column))["pixel_values"]
        assert all(torch.equal(one, other) for one, other in zip(given, wanted))
        alone = processor(text="<image>", images=column[0])["pixel_values"]
        assert torch.equal(alone[0], wanted[0])
        chat = [{"role": "user", "content": [{"type": "image", "image": column[0]}, {"type": "text", "text": "What?"}]}]
        inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
        assert torch.equal(inputs["pixel_values"], alone)
        # A list of pictures is one video.
        assert torch.equal(processor.video_processor(list(column))["pixel_values_videos"][0], frames)
        row_of_frames = datasets.Dataset.from_dict({"videos": [list(column)], "text": [QUESTION]})
        nested = datasets.Features(
            {"videos": datasets.List(datasets.Image(decode=decode)), "text": datasets.Value("string")}
        )
        assert generated(pipe(row_of_frames.cast(nested))) == generated(pipe([(pictures, QUESTION)]))
