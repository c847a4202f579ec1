"""Whatever a picture is given as, it becomes the same RGB, as a frame and as an image; or a documented error."""

import base64
import io
import struct
import time
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from transformers.models.llava_next_video import LlavaNextVideoVideoProcessor as BuiltinVideoProcessor

from llava_next_video import (
    LlavaNextVideoImageProcessor,
    LlavaNextVideoVideoProcessor,
    ReadingLimits,
    VideoLimitError,
    VideoReadError,
)
from llava_next_video.reading.picture_files import FORMATS
from llava_next_video.reading.pictures import read_picture
from tests.tiny import random_frames


SIDE = 16
SQUARE = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
COLOURS = random_frames(1)[0]  # (24, 32, 3)
GREY = COLOURS[..., 0]
GREY_AS_RGB = np.stack([GREY] * 3, axis=-1)
OPACITY = np.full((*GREY.shape, 1), 77, dtype=np.uint8)
RGBA = np.concatenate([COLOURS, OPACITY], axis=-1)
SIXTEEN_BIT = GREY.astype(np.uint16) * 257


def saved(picture: Image.Image, suffix: str = "png", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, suffix, **options)
    return file.getvalue()


PNG = saved(Image.fromarray(COLOURS))
FORMS_OF_COLOURS = {
    "RGB": Image.fromarray(COLOURS),
    "RGBA": Image.fromarray(RGBA),
    "RGBX": Image.frombytes("RGBX", (32, 24), RGBA.tobytes()),
    "array": COLOURS,
    "array of 4 channels": RGBA,
    "array, channels first": COLOURS.transpose(2, 0, 1),
    "array of 4 channels, channels first": RGBA.transpose(2, 0, 1),
    "turned array": COLOURS[::-1][::-1],
    "tensor": torch.from_numpy(COLOURS),
    "floats of 0..1": COLOURS / 255,
    "small floats of 0..1": torch.from_numpy(COLOURS).float() / 255,
    "uint16": COLOURS.astype(np.uint16) * 257,
    "big-endian uint16": (COLOURS.astype(np.uint16) * 257).astype(">u2"),
    "tensor of uint16": torch.from_numpy(COLOURS.astype(np.uint16) * 257),
    "bytes": PNG,
    "bytearray": bytearray(PNG),
    "base64": base64.b64encode(PNG).decode(),
    "base64 in lines": base64.encodebytes(PNG).decode(),
    "data URI": "data:image/png;base64," + base64.b64encode(PNG).decode(),
    **{
        suffix: saved(Image.fromarray(COLOURS), suffix, **options)
        for suffix, options in {"bmp": {}, "tiff": {}, "webp": {"lossless": True}, "jpeg2000": {}}.items()
    },
}
FORMS_OF_GREY = {
    "L": Image.fromarray(GREY),
    "P": Image.fromarray(GREY).convert("P"),
    "LA": Image.fromarray(np.dstack([GREY, OPACITY])),
    "I;16": Image.fromarray(SIXTEEN_BIT),
    "I;16B": Image.frombytes("I;16B", (32, 24), SIXTEEN_BIT.astype(">u2").tobytes()),
    "I": Image.fromarray(GREY.astype(np.int32)),
    "F": Image.fromarray(GREY.astype(np.float32) / 255),
    "two dimensions": GREY,
    "one channel": GREY[..., None],
    "one channel first": torch.from_numpy(GREY)[None],
    "floats": GREY / 255,
    "16-bit file": saved(Image.fromarray(SIXTEEN_BIT)),
}
FORMS = {
    **{name: (form, COLOURS) for name, form in FORMS_OF_COLOURS.items()},
    **{name: (form, GREY_AS_RGB) for name, form in FORMS_OF_GREY.items()},
}
OTHER_MODES = ["1", "PA", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"]
WRONG = {
    "NaN": (np.full((4, 4, 3), np.nan), "values from nan to nan .*which are not pixel values"),
    "infinite": (np.full((4, 4, 3), np.inf), "values from inf to inf"),
    "negative": (np.full((4, 4, 3), -1.0), r"values from -1 to -1 \(torch.float64\)"),
    "too bright": (
        np.full((4, 4, 3), 256),
        r"values from 256 to 256 \(torch.int64\), which are not pixel values",
    ),
    "uint32": (np.full((4, 4, 3), 2**32 - 1, dtype=np.uint32), "values from 4294967295"),
    "two channels": (np.zeros((5, 6, 2), np.uint8), r"shape \[.*5, 6, 2\], in which no axis has 3 \(RGB\), 4"),
    "complex": (np.zeros((4, 4, 3), complex), "an array of complex128, which has no brightness"),
    "complex tensor": (torch.zeros((4, 4, 3), dtype=torch.complex64), "an array of torch.complex64, which has no"),
}


@pytest.fixture
def video_processor():
    return LlavaNextVideoVideoProcessor(**SQUARE)


@pytest.fixture
def image_processor():
    return LlavaNextVideoImageProcessor(**SQUARE, image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]])


def frames(processor, videos, **settings) -> torch.Tensor:
    return processor(videos, return_tensors="pt", **settings)["pixel_values_videos"]


def tiles(processor, images, **settings) -> torch.Tensor:
    return processor(images, return_tensors="pt", **settings)["pixel_values"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_picture_is_the_same_frame(video_processor, name):
    """Grey and transparent pictures became one frame or an error; floats of 0..1 became black, without a word."""
    form, rgb = FORMS[name]
    assert torch.equal(frames(video_processor, [form, form]), frames(video_processor, [rgb, rgb]))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_picture_is_the_same_image(image_processor, name):
    form, rgb = FORMS[name]
    assert torch.equal(tiles(image_processor, [form]), tiles(image_processor, [rgb]))


@pytest.mark.parametrize("name", ["array", "array of 4 channels", "uint16", "floats of 0..1", "tensor of uint16"])
def test_every_form_of_an_array_of_frames_is_the_same_video(video_processor, name):
    form = torch.stack(
        [torch.as_tensor(FORMS_OF_COLOURS[name] if "tensor" in name else np.array(FORMS_OF_COLOURS[name]))] * 2
    )
    assert torch.equal(frames(video_processor, form), frames(video_processor, [COLOURS, COLOURS]))
    grey = np.stack([GREY[..., None]] * 2)
    assert torch.equal(frames(video_processor, grey), frames(video_processor, [GREY_AS_RGB] * 2))


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_every_mode_of_pillow_is_what_pillow_says(video_processor, image_processor, mode):
    picture = Image.new(
        mode, (20, 18), 1 if mode == "1" else (90, 40, 200, 255)[: len(Image.new(mode, (1, 1)).getbands())]
    )
    rgb = (picture.convert("LA") if mode == "La" else picture).convert("RGB")
    assert torch.equal(frames(video_processor, [picture] * 2), frames(video_processor, [rgb] * 2))
    assert torch.equal(tiles(image_processor, picture), tiles(image_processor, rgb))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_numbers_of_0_to_255_are_prepared_as_the_builtin_does(video_processor, dtype):
    """Not rounded on the way."""
    values = COLOURS[None].astype(dtype)
    values = values + 0.25 * (values < 255) if dtype != np.int64 else values
    theirs = BuiltinVideoProcessor(**SQUARE)(torch.from_numpy(values).movedim(-1, 1), return_tensors="pt")
    assert torch.equal(frames(video_processor, values), theirs["pixel_values_videos"])
    assert torch.equal(frames(video_processor, list(values)), theirs["pixel_values_videos"])


def test_floats_of_one_video_share_their_scale(video_processor):
    """A dark frame of a video of 0..255 is not a bright one of 0..1, also where only that frame is taken."""
    video = np.stack([np.full((SIDE, SIDE, 3), value, dtype=np.float32) for value in (0.5, 200)])
    dark, bright = frames(video_processor, video, do_normalize=False)[0].mean(dim=(1, 2, 3)) * 255
    assert (round(dark.item(), 3), round(bright.item(), 3)) == (0.5, 200)
    for form in (video, list(video)):
        [first] = frames(video_processor, form, do_normalize=False, num_frames=1)
        assert round(first.mean().item() * 255, 3) == 0.5
    float_files = [saved(Image.fromarray(frame[..., 0]), "tiff") for frame in video]
    dark, bright = frames(video_processor, float_files, do_normalize=False)[0].mean(dim=(1, 2, 3)) * 255
    assert (round(dark.item(), 3), round(bright.item(), 3)) == (0, 200)  # files become 8-bit pictures


@pytest.mark.parametrize("settings", [{"do_rescale": False}, {"rescale_factor": 1.0}])
def test_pixels_on_a_scale_of_their_own_stay_as_they_are(video_processor, image_processor, settings):
    settings = {**settings, "do_resize": False, "do_center_crop": False, "do_normalize": False}
    values = torch.linspace(-2, 2, SIDE * SIDE * 3).reshape(3, SIDE, SIDE)
    assert torch.equal(frames(video_processor, [values], **settings)[0, 0], values)
    assert torch.equal(frames(video_processor, values[None], **settings)[0, 0], values)
    image_processor.image_aspect_ratio = "square"
    assert torch.equal(tiles(image_processor, values, **settings)[0, 0], values)
    whole = np.full((SIDE, SIDE), 3, dtype=np.uint16)
    assert (tiles(image_processor, whole, **settings) == 3).all()
    with pytest.raises(ValueError, match="A picture has values that are not finite"):
        frames(video_processor, [values / 0], **settings)


@pytest.mark.parametrize("name", WRONG)
def test_error_for_what_is_no_picture(video_processor, image_processor, name):
    picture, message = WRONG[name]
    for prepare in (
        lambda: frames(video_processor, [picture, picture]),
        lambda: frames(video_processor, picture[None]),
        lambda: tiles(image_processor, picture),
    ):
        with pytest.raises(ValueError, match=message):
            prepare()


def test_channels_may_be_named(video_processor, image_processor):
    picture = np.zeros((3, 20, 3), dtype=np.uint8)
    picture[..., 0] = 255
    red = tiles(image_processor, picture, input_data_format="channels_last", do_normalize=False)[0, 0]
    assert red.mean(dim=(1, 2)).tolist() == pytest.approx([1, 0, 0], abs=1e-5)
    red = frames(video_processor, picture[None], input_data_format="channels_last", do_normalize=False)[0, 0]
    assert red.mean(dim=(1, 2)).tolist() == pytest.approx([1, 0, 0], abs=1e-5)


def test_image_processor_takes_lists_of_lists_and_arrays_of_pictures(image_processor):
    expected = tiles(image_processor, [COLOURS, COLOURS])
    for form in (np.stack([COLOURS] * 2), [[COLOURS], [], [PNG]], [np.stack([COLOURS] * 2)]):
        assert torch.equal(tiles(image_processor, form), expected)
    with pytest.raises(ValueError, match="got an empty list where a picture was expected"):
        image_processor([[]])
    for wrong in (7, np.zeros(4), [None]):
        with pytest.raises(TypeError, match="A picture cannot be made of"):
            image_processor(wrong)


def test_pictures_of_every_kind_meet_the_limit_on_pixels(video_processor, image_processor):
    limits = ReadingLimits(max_frame_pixels=24 * 32 - 1)
    video_processor.limits = image_processor.limits = limits
    for form, _ in FORMS.values():
        for prepare in (lambda form=form: image_processor(form), lambda form=form: video_processor([form, form])):
            with pytest.raises(VideoLimitError, match="24x32 pixels are over max_frame_pixels=767"):
                prepare()
    with pytest.raises(VideoLimitError, match="24x32 pixels are over max_frame_pixels=767"):
        video_processor(np.stack([COLOURS] * 2))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_frames": 5}, "it has more frames than max_frames=5"),
        (
            {"max_result_bytes": 200 * 24 * 32 * 3 - 1},
            "200 frames of 24x32 pixels are 460800 bytes, more than max_result",
        ),
        ({"max_decode_seconds": 0}, "reading it took longer than max_decode_seconds=0"),
    ],
)
def test_pictures_of_one_video_meet_its_limits_together(video_processor, limits, message):
    """200 pictures ran 28 seconds under `max_frames=5, max_decode_seconds=1`."""
    video_processor.limits = ReadingLimits(**limits)
    for picture in (PNG, Image.fromarray(COLOURS), COLOURS):
        with pytest.raises(VideoLimitError, match=message):
            video_processor([picture] * 200)


def test_arrays_meet_the_limits_of_a_video(video_processor):
    video_processor.limits = ReadingLimits(max_frames=1)
    with pytest.raises(VideoLimitError, match="more frames than max_frames=1"):
        video_processor(np.stack([COLOURS] * 2))
    video_processor.limits = ReadingLimits(max_result_bytes=100 * COLOURS.nbytes)
    with pytest.raises(VideoLimitError, match="101 frames of 24x32 pixels are 232704 bytes"):
        video_processor(COLOURS[None], num_frames=101, frame_sampling="uniform_repeated")


def test_only_chosen_pictures_of_a_video_are_read(video_processor):
    pictures = [PNG, b"\x89PNG\r\n\x1a\n broken", PNG]
    assert len(frames(video_processor, pictures, num_frames=2)[0]) == 2
    with pytest.raises(VideoReadError, match="it is damaged, or no picture of these formats"):
        video_processor(pictures)


def test_error_for_a_picture_of_a_format_that_runs_programs(tmp_path):
    """Pillow hands EPS to Ghostscript."""
    Image.fromarray(COLOURS).save(tmp_path / "picture.eps")
    with pytest.raises(VideoReadError, match=f"no picture of these formats: {', '.join(FORMATS)}"):
        read_picture(tmp_path / "picture.eps")


def test_eps_that_was_opened_and_not_read_does_not_start_another_program(monkeypatch):
    eps = saved(Image.fromarray(COLOURS), "eps")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    with pytest.raises(VideoReadError, match="it was opened from EPS and not read yet, and is none of these: PNG"):
        LlavaNextVideoImageProcessor()(Image.open(io.BytesIO(eps)))
    with pytest.raises(VideoReadError, match="it was opened from EPS and not read yet"):
        LlavaNextVideoVideoProcessor()([Image.open(io.BytesIO(eps))])


def test_error_for_broken_base64():
    text = base64.b64encode(PNG).decode()
    with pytest.raises(VideoReadError, match="its base64 is broken; encode the file again"):
        read_picture(text[:200] + "!" + text[200:])
    with pytest.raises(VideoLimitError, match="over max_fetched_bytes=1000"):
        read_picture(text, ReadingLimits(max_fetched_bytes=1000))


def test_text_that_is_not_base64_is_a_path():
    for text in ("iVBOR", "a" * 100, "iVBORw0KGgo?" * 9):
        with pytest.raises(VideoReadError, match="there is no such file"):
            read_picture(text)


def tiff(side: int, tile: int, data: bytes) -> bytes:
    """A grey picture of one tile, deflated."""
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tiles_of_a_file_are_not_larger_than_pictures():
    """Pillow takes memory for a whole tile, of which the picture shows 16x16 pixels."""
    assert read_picture(tiff(16, 16, zlib.compress(bytes(256)))).size == (16, 16)
    with pytest.raises(VideoLimitError, match="its frames of 32768x32768 pixels are over max_frame_pixels"):
        read_picture(tiff(16, 2**15, zlib.compress(bytes(256))))


def test_canvas_of_a_file_is_looked_at_before_it_is_opened():
    data = bytearray(saved(Image.fromarray(RGBA), "webp"))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xfe\x3f\0" * 2
    with pytest.raises(VideoLimitError, match="its frames of 16383x16383 pixels are over max_frame_pixels"):
        read_picture(bytes(data))


class SlowFile(io.BytesIO):
    """Takes so long that the deadline passes."""

    def read(self, size=-1):
        time.sleep(0.02)
        return super().read(size)


def test_error_of_a_file_object_is_told():
    with pytest.raises(VideoLimitError, match=r"took longer than max_decode_seconds=0\.01"):
        read_picture(SlowFile(PNG), ReadingLimits(max_decode_seconds=0.01))


@pytest.mark.parametrize("picture", [Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8), torch.zeros(3, 5, 0)])
def test_error_for_pictures_without_pixels(video_processor, image_processor, picture):
    for prepare in (partial(frames, video_processor), partial(tiles, image_processor)):
        with pytest.raises(ValueError, match=r"A picture was given with the sides .*, which has no pixels"):
            prepare([picture])
