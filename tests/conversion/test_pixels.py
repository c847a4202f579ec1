"""Pixels of the original's PIL preprocessing, from the recorded files and at full size."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from PIL import __version__ as pillow_version

from llava_next_video import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    read_video,
)
from llava_next_video.modeling.visual_grid import image_token_count
from tests.golden_data import GOLDEN, VARIANTS, Recording


SPEC = json.loads((GOLDEN / "preprocess_336" / "spec.json").read_text())
# Pillow 13 shrinks the height first where that is the bigger change; older ones and torchvision begin with the width.
# The order matters where the intermediate picture is clipped to 0..255.
HEIGHT_FIRST = (
    "siglip_video_360x640",
    "clip_anyres_480x853",
    "siglip_anyres_480x853",
    "clip_anyres_90x700",
    "siglip_anyres_90x700",
    "siglip_square_90x700",
)
# [height, width], in the order of the original's [width, height].
CLIP_PINPOINTS = [[672, 336], [336, 672], [672, 672], [336, 1008], [1008, 336]]
SIGLIP_PINPOINTS = [[384 * rows, 384 * columns] for columns in range(1, 7) for rows in range(1, 7)]
OLD_PILLOW = int(pillow_version.split(".")[0]) < 13
RECORDED_WITH_PILLOW_13 = "recorded with Pillow 13, which resizes tall pictures in another order"


@pytest.fixture(scope="module", params=VARIANTS)
def recording(request):
    return Recording(request.param)


def processors(recording, exact: bool) -> LlavaNextVideoProcessor:
    options = {"recipe": recording.recipe, "vision_tower": recording.vision_tower}
    processor = LlavaNextVideoProcessor.from_pretrained(recording.checkpoint, **options)
    processor.video_processor.exact_pixels = processor.image_processor.exact_pixels = exact
    return processor


def largest_difference(values: torch.Tensor, wanted: torch.Tensor, std) -> float:
    """In levels of 0..255, before normalisation."""
    return float(((values - wanted).abs() * torch.tensor(std)[:, None, None] * 255).max())


@pytest.mark.parametrize(("exact", "levels"), [(True, 0), (False, 2.001)])
def test_pixels_of_the_recorded_files(recording, exact, levels):
    if exact and OLD_PILLOW:
        pytest.skip(RECORDED_WITH_PILLOW_13)
    processor, std = processors(recording, exact), recording.preprocessing["image_std"]
    video = processor.video_processor([recording.video], return_tensors="pt")["pixel_values_videos"][0]
    assert largest_difference(video, recording.pixel_values("video"), std) <= levels
    for path in sorted((recording.folder / "inputs").glob("*.png")):
        image = processor.image_processor([str(path)], return_tensors="pt")["pixel_values"][0]
        assert largest_difference(image, recording.pixel_values(f"image.{path.stem}"), std) <= levels


def test_frames_of_the_recorded_video(recording):
    recorded = np.load(recording.folder / "inputs" / "frames.npz")
    frames, metadata = read_video(recording.video, lambda described: recorded["indices"])
    assert np.array_equal(frames, recorded["frames"])
    assert metadata.total_num_frames == recording.meta["video"]["total_frames"]
    assert metadata.fps == recording.meta["video"]["avg_fps"]


def full_size(name: str, exact: bool) -> torch.Tensor:
    """Pixels of one entry of the recording at full size, computed by our processors."""
    kind, what, _ = name.split("_")
    side = 336 if kind == "clip" else 384
    square = {"height": side, "width": side}
    colours = {key: list(SPEC[f"{kind}_processor"][key]) for key in ("image_mean", "image_std")}
    crop = {"size": {"shortest_edge": side}} if kind == "clip" else {"size": square}
    settings = {**colours, **crop, "crop_size": square, "do_center_crop": kind == "clip"}
    files = [GOLDEN / "preprocess_336" / file for file in SPEC["entries"][name]["inputs"]]
    if what == "video":
        processor = LlavaNextVideoVideoProcessor(**settings)
        processor.exact_pixels = exact
        frames = np.stack([np.array(Image.open(file).convert("RGB")) for file in files])
        return processor([frames], return_tensors="pt")["pixel_values_videos"][0]
    pinpoints = CLIP_PINPOINTS if kind == "clip" else SIGLIP_PINPOINTS
    settings |= {"image_aspect_ratio": what, "image_grid_pinpoints": pinpoints}
    processor = LlavaNextVideoImageProcessor(**settings)
    processor.exact_pixels = exact
    return processor([Image.open(file) for file in files], return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("name", SPEC["entries"])
def test_exact_pixels_at_full_size_have_the_recorded_checksum(name):
    if OLD_PILLOW and name in HEIGHT_FIRST:
        pytest.skip(RECORDED_WITH_PILLOW_13)
    pixels = full_size(name, exact=True)
    assert list(pixels.shape) == SPEC["entries"][name]["shape"]
    assert hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest() == SPEC["entries"][name]["sha256_float32"]


@pytest.mark.parametrize("name", SPEC["entries"])
def test_fast_pixels_at_full_size_are_within_two_levels(name, monkeypatch):
    resize = Image.Image.resize

    def width_first(self, size, resample):
        return resize(resize(self, (size[0], self.height), resample), size, resample)

    fast = full_size(name, exact=False)
    monkeypatch.setattr(Image.Image, "resize", width_first)
    std = SPEC[f"{name.split('_')[0]}_processor"]["image_std"]
    assert largest_difference(fast, full_size(name, exact=True), std) < 2.001


@pytest.mark.parametrize("row", SPEC["anyres_table"])
def test_image_tokens_at_full_size_are_as_many_as_in_the_original(row):
    width, height = row["size_wh"]
    for key, side, grid, pinpoints, aspect in (
        ("clip336_24", 336, 24, CLIP_PINPOINTS, "anyres"),
        ("siglip384_27", 384, 27, SIGLIP_PINPOINTS, "anyres_max_9"),
    ):
        assert image_token_count((height, width), grid, side, pinpoints, aspect) == row[key]["n_visual_tokens"]


def test_exact_pixels_are_chosen_when_loading(tmp_path):
    recording = Recording("qwen_grid_avg")
    processors(recording, exact=False).save_pretrained(tmp_path)
    processor = LlavaNextVideoProcessor.from_pretrained(tmp_path, exact_pixels=True)
    assert processor.video_processor.exact_pixels
    assert processor.image_processor.exact_pixels
    processor.save_pretrained(tmp_path)
    assert LlavaNextVideoProcessor.from_pretrained(tmp_path).video_processor.exact_pixels
