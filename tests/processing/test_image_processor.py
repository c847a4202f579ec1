"""Reading pictures; their pixels are compared with the built-in's in test_placeholders_match_features and others."""

import base64
import json

import pytest
from PIL import Image

from llava_next_video import LlavaNextVideoImageProcessor, ReadingLimits, VideoLimitError, VideoReadError
from tests.tiny import pinpoints, random_frames


@pytest.fixture
def processor():
    square = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return LlavaNextVideoImageProcessor(**square, image_grid_pinpoints=pinpoints(16))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(random_frames(1)[0]).save(path)
    return path


def test_path_data_uri_and_base64_give_the_same_pixels(processor, picture):
    encoded = base64.b64encode(picture.read_bytes()).decode()
    expected = processor(Image.open(picture), return_tensors="pt")["pixel_values"]
    for source in (str(picture), encoded, f"data:image/png;base64,{encoded}"):
        assert processor(processor.fetch_images(source), return_tensors="pt")["pixel_values"].equal(expected)
    [[nested]] = processor.fetch_images([[str(picture)]])
    assert nested.size == (32, 24)


def test_error_when_a_grid_is_larger_than_any_picture(processor, picture):
    processor.image_grid_pinpoints = [[16 * 10**5, 16 * 10**5]]
    with pytest.raises(ValueError, match=r"padded to 1600000x1600000 pixels, .* is over max_frame_pixels=35389440"):
        processor(Image.open(picture))


def test_pictures_are_read_within_limits_that_are_not_of_the_checkpoint(processor, picture, tmp_path):
    with pytest.raises(VideoReadError, match=r"127\.0\.0\.1, which is not a public address"):
        processor.fetch_images("http://127.0.0.1:9/picture.png")
    processor.limits = ReadingLimits(max_frame_pixels=24 * 32 - 1)
    with pytest.raises(VideoLimitError, match="its frames of 24x32 pixels are over max_frame_pixels=767"):
        processor.fetch_images([str(picture)])
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert "limits" not in settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "limits": {"max_frames": 1}}))
    assert LlavaNextVideoImageProcessor.from_pretrained(tmp_path).limits == ReadingLimits()
