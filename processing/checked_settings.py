"""Checks of the processors' settings, when a processor is made and again in each call.

Settings come with checkpoints from strangers. A damaged one raises a ValueError that names it, before anything is
computed with it.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real
from sys import float_info
from typing import Any, BinaryIO, NamedTuple, get_args

from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    pil_torch_interpolation_mapping,
)
from transformers.processing_utils import ImagesKwargs, VideosKwargs

from ..modeling.configuration_llava_next_video import (
    ASPECT_RATIO,
    MAX_GRID_PINPOINTS,
    NewlinePosition,
    PoolMode,
    is_size,
)
from ..modeling.error_texts import quoted
from ..modeling.own_code import forget_exported_code
from ..reading.limits import DEFAULT_LIMITS, ReadingLimits
from ..reading.video_sources import VideoSource, open_source
from .frame_sampling import SamplingRule


MAX_NUM_FRAMES = 1_000_000
METHODS = (Callable, property)
NOT_STORED = ("device", "limits")


class Rule(NamedTuple):
    """What one setting has to be, in words and as a test."""

    expected: str
    is_right: Callable[[Any], bool]


def is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether a value is a number within the range of floats: not NaN, not infinite, not an integer of 400 digits."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return -float_info.max <= value <= float_info.max  # pyright: ignore[reportOperatorIssue]  # numbers compare


def are_colours(values, above: float) -> bool:
    """Whether this is a number for each of three colours, or one number for all of them."""
    values = values if isinstance(values, list | tuple) else [values]
    return len(values) in (1, 3) and all(is_number(value) and value > above for value in values)


def is_size_or_sides(value) -> bool:
    """Whether transformers can make a `SizeDict` of it; its sides are checked later."""
    is_list = isinstance(value, list | tuple) and len(value) in (1, 2) and all(map(is_whole, value))
    return is_list or is_whole(value) or isinstance(value, dict | SizeDict)


def are_grids(value) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) <= MAX_GRID_PINPOINTS and all(map(is_size, value))


def one_of(*texts: str | None) -> Rule:
    return Rule(f"one of {texts}", lambda value: (value is None or isinstance(value, str)) and value in texts)


def whole_number(least: int) -> Rule:
    return Rule(f"a whole number, {least} or more", lambda value: type(value) is int and value >= least)


def or_none(rule: Rule) -> Rule:
    return Rule(f"{rule.expected}, or None", lambda value: value is None or rule.is_right(value))


TEXT = Rule("a text", lambda value: isinstance(value, str))
YES_OR_NO = Rule("True or False", lambda value: isinstance(value, bool))
SIZE = Rule("a number of pixels, [height, width], or sides by name", is_size_or_sides)
SETTINGS = Rule("settings by name", lambda value: isinstance(value, dict))


# Settings of the processor itself.
PROCESSOR_RULES = {
    "patch_size": or_none(whole_number(1)),
    "vision_feature_select_strategy": one_of(None, "default", "full"),
    "num_additional_image_tokens": whole_number(0),
    "spatial_pool_mode": one_of(*get_args(PoolMode)),
    "spatial_pool_stride": whole_number(1),
    "video_newline_position": one_of(*get_args(NewlinePosition)),
    "slow_frame_stride": or_none(whole_number(1)),
    "space_after_visuals": YES_OR_NO,
    "video_token": TEXT,
    "image_token": TEXT,
    "chat_template": Rule(
        "a text, texts by name, or None",
        lambda value: value is None or all(map(TEXT.is_right, value.values() if isinstance(value, dict) else [value])),
    ),
    # Settings of its parts, which stand in one file with its own.
    "image_processor": SETTINGS,
    "video_processor": SETTINGS,
}

# Settings of the image and the video processor; each may also be None, which means not set.
PIXEL_RULES = {
    "size": SIZE,
    "crop_size": SIZE,
    "pad_size": SIZE,
    "resample": Rule(
        "a number of PIL.Image.Resampling, 0 to 5",
        lambda value: not is_whole(value) or value in pil_torch_interpolation_mapping,
    ),
    "rescale_factor": Rule(
        "a number other than 0; 1/255 for pixels of 0..255", lambda value: is_number(value) and value != 0
    ),
    "image_mean": Rule("three numbers, one for each colour", lambda value: are_colours(value, above=-math.inf)),
    "image_std": Rule("three numbers, one for each colour, greater than 0", lambda value: are_colours(value, above=0)),
    "data_format": one_of(*(layout.value for layout in ChannelDimension)),
    "input_data_format": one_of(*(layout.value for layout in ChannelDimension)),
    "num_frames": Rule(
        f"a whole number from 1 to {MAX_NUM_FRAMES}", lambda value: is_whole(value) and 0 < value <= MAX_NUM_FRAMES
    ),
    "fps": Rule("a number greater than 0", lambda value: is_number(value) and value > 0),
    "frame_sampling": one_of(*get_args(SamplingRule)),
    "image_grid_pinpoints": Rule(f"1 to {MAX_GRID_PINPOINTS} sizes [height, width] in pixels", are_grids),
    "image_aspect_ratio": Rule(
        "'anyres', 'anyres_max_N', 'pad' or 'square'",
        lambda value: isinstance(value, str) and ASPECT_RATIO.fullmatch(value) is not None,
    ),
    "time_instruction": YES_OR_NO,
    **{
        name: YES_OR_NO
        for kind in (ImagesKwargs, VideosKwargs)
        for name, expected in kind.__annotations__.items()
        if expected == bool | None
    },
}


def check_settings(settings: dict, rules: dict[str, Rule] = PROCESSOR_RULES):
    """Check the settings that have a rule.

    Raises:
        ValueError: names the first setting that is wrong.
    """
    for name, value in settings.items():
        rule = rules.get(name)
        if rule is not None and not rule.is_right(value):
            raise ValueError(
                f"The processor's {name} is {quoted(value)}; it has to be {rule.expected}. Correct the "
                "checkpoint's processor_config.json or preprocessor_config.json, or what you passed."
            )


def check_pixel_settings(settings: dict):
    """Check settings of an image or video processor, from a checkpoint or a call.

    Raises:
        ValueError: one of them is impossible, or so large that it is damaged.
    """
    check_settings({name: value for name, value in settings.items() if value is not None}, PIXEL_RULES)


def check_sides(settings: dict, limits: ReadingLimits):
    """Check the sides in `size` and `crop_size`, two `SizeDict`s.

    Raises:
        ValueError: one is not a number of pixels, or a square of it has more than `max_frame_pixels`.
    """
    rule = Rule(
        f"pixels, of which a square has up to max_frame_pixels={limits.max_frame_pixels}",
        lambda side: is_whole(side) and side > 0 and side**2 <= limits.max_frame_pixels,
    )
    for name in ("size", "crop_size"):
        sides = {f"{name}[{side!r}]": value for side, value in dict(settings.get(name) or {}).items()}
        check_settings(sides, dict.fromkeys(sides, rule))


class PixelSettingsMixin:
    """Mixin for an image or video processor: the defaults that both share, and the checks of their settings when one is
    made and in each call. Its `limits` belong to whoever runs it: they are neither saved nor loaded."""

    limits = DEFAULT_LIMITS

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def __init__(self, **kwargs):
        forget_exported_code(self, kwargs)
        super().__init__(**kwargs)

    def open_source(self, source: VideoSource) -> BinaryIO:
        """[`open_source`] within the limits of this processor."""
        return open_source(source, self.limits)

    @classmethod
    def from_dict(cls, settings: dict, *args, **kwargs):
        """Make a processor from stored settings, without those that a checkpoint must not decide: `NOT_STORED`, and
        names of methods, because transformers makes an attribute of every setting."""
        own = {
            name: value
            for name, value in settings.items()
            if not (name in NOT_STORED or name.startswith("_") or isinstance(getattr(cls, name, None), METHODS))
        }
        return super().from_dict(own, *args, **kwargs)

    def to_dict(self) -> dict:
        return {name: value for name, value in super().to_dict().items() if name not in NOT_STORED}

    def _standardize_kwargs(self, **kwargs) -> dict:
        check_pixel_settings(kwargs)
        settings = super()._standardize_kwargs(**kwargs)
        check_sides(settings, self.limits)
        for name in ("image_mean", "image_std"):
            value = settings[name]
            if is_number(value) or (value is not None and len(value) == 1):
                settings[name] = (value if is_number(value) else value[0],) * 3
        return settings
