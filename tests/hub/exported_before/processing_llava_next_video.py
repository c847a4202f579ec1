"""The processor of LLaVA-NeXT-Video: prompts with videos and images become token ids and pixel values, and every
`<video>` and `<image>` in a prompt becomes as many placeholders as the model makes tokens of that video or image."""

import re

import torch
from transformers import AutoTokenizer, BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .image_processing_llava_next_video import LlavaNextVideoImageProcessor, LlavaNextVideoImagesKwargs
from .token_counting import image_token_count, video_token_count
from .video_processing_llava_next_video import (
    LlavaNextVideoVideoProcessor,
    LlavaNextVideoVideosKwargs,
    ProcessedVideo,
    as_list_of_videos,
)


# Arguments of `from_pretrained` that are for models. `pipeline` passes them to processors too, where a tokenizer would
# keep them and fail to save them.
MODEL_ARGUMENTS = (
    "attn_implementation",
    "device_map",
    "dtype",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_folder",
    "quantization_config",
    "torch_dtype",
    "tp_plan",
    "use_safetensors",
)


class LlavaNextVideoProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: LlavaNextVideoImagesKwargs
    videos_kwargs: LlavaNextVideoVideosKwargs
    # transformers 5.20 reads defaults only here; later versions read this too.
    _defaults = {"text_kwargs": {"padding": False}, "common_kwargs": {"return_tensors": "pt"}}  # pyright: ignore


class LlavaNextVideoProcessor(ProcessorMixin):
    """Tokenizer, image processor and video processor of one checkpoint, and the recipe that decides how many tokens a
    video or an image takes.

    Args:
        video_processor, image_processor, tokenizer: [`LlavaNextVideoVideoProcessor`],
            [`LlavaNextVideoImageProcessor`] and any tokenizer that knows `image_token` and `video_token`.
        chat_template (`str`, *optional*): Jinja template of a conversation.
        patch_size (`int`): side of one vision patch in pixels.
        video_token, image_token (`str`): placeholders in prompts.
        spatial_pool_mode, spatial_pool_stride, video_newline_position, slow_frame_stride: as in the model's
            [`LlavaNextVideoConfig`]; defaults are the built-in's.
        space_after_visuals (`bool`): put a space behind every placeholder that text follows, for tokenizers that begin
            a text with one: the original tokenizes the text around images and videos piece by piece.
        vision_feature_select_strategy, num_additional_image_tokens: kept for the built-in, which counts with them.

    >>> from llava_next_video import DEMO_CHECKPOINT
    >>> processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    >>> processor.spatial_pool_stride, processor.video_newline_position
    (2, 'grid')
    """

    # Reads checkpoints of the original code; set by the package, which brings the tables for it (conversion/).
    original_format = None

    valid_processor_kwargs = LlavaNextVideoProcessorKwargs
    # Videos that differ in their number of frames stay a list.
    skip_tensor_conversion = (*ProcessorMixin.skip_tensor_conversion, "pixel_values_videos")

    def __init__(
        self,
        video_processor=None,
        image_processor=None,
        tokenizer=None,
        chat_template=None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        video_token: str = "<video>",
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        spatial_pool_mode: str = "average",
        spatial_pool_stride: int = 2,
        video_newline_position: str = "no_token",
        slow_frame_stride: int | None = None,
        space_after_visuals: bool = False,
        **kwargs,
    ):
        self.patch_size = patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.num_additional_image_tokens = num_additional_image_tokens
        self.spatial_pool_mode = spatial_pool_mode
        self.spatial_pool_stride = spatial_pool_stride
        self.video_newline_position = video_newline_position
        self.slow_frame_stride = slow_frame_stride
        self.space_after_visuals = space_after_visuals
        self.image_token = getattr(tokenizer, "image_token", image_token)
        self.video_token = getattr(tokenizer, "video_token", video_token)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(video_processor, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        if cls.original_format and cls.original_format.recognises(pretrained_model_name_or_path, kwargs):
            return cls.original_format.processor(pretrained_model_name_or_path, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if name not in MODEL_ARGUMENTS}
        # Built directly: the Auto classes would pick the built-in's classes, or recurse for ever on checkpoints that
        # have only a `preprocessor_config.json`.
        return [
            LlavaNextVideoVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            LlavaNextVideoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Check that the prompts have one placeholder for each image and each video.

        Raises:
            ValueError: they have not, or there is nothing to process, or audio is given.
        """
        if images is None and text is None and videos is None:
            raise ValueError("The processor got nothing to process; pass `text`, `images` or `videos`.")
        if audio is not None:
            raise ValueError("The processor got `audio`, which LLaVA-NeXT-Video does not hear; pass the video alone.")
        if text is None:
            return
        if not all(isinstance(prompt, str) for prompt in text):
            raise ValueError("The processor got a `text` that is neither a string nor a list of strings.")
        media = {
            "image": (self.image_token, 0 if images is None else len(flatten(images))),
            "video": (self.video_token, 0 if videos is None else len(videos)),
        }
        for name, (token, num_given) in media.items():
            num_in_text = sum(prompt.count(token) for prompt in text)
            if num_in_text != num_given:
                raise ValueError(
                    f"The prompts have {num_in_text} {token} placeholders, but {num_given} {name}s were passed. Write "
                    f"one {token} for each {name}, or use apply_chat_template, which does."
                )

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        images, text, _, audio = super().prepare_inputs_layout(images=images, text=text, audio=audio, **kwargs)
        if self.space_after_visuals and text is not None:
            # A video whose times are told gets its space in front of those, in `replace_video_token`.
            told = (kwargs.get("videos_kwargs") or kwargs).get(
                "time_instruction", self.video_processor.time_instruction
            )
            tokens = "|".join(map(re.escape, (self.image_token, self.video_token)))
            spaced = re.escape(self.image_token) if told else tokens
            text = [re.sub(rf"({spaced})(?!{tokens}|$)", r"\1 ", prompt, flags=re.DOTALL) for prompt in text]
        return images, text, None if videos is None else as_list_of_videos(videos), audio

    def process_videos(self, videos, **kwargs) -> list[ProcessedVideo]:
        """Read and prepare videos once, to write several prompts about them.

        Args:
            videos: whatever the processor takes as `videos`.
            kwargs: how they are read and prepared, as in a call of the processor.
        """
        kwargs = self._merge_kwargs(LlavaNextVideoProcessorKwargs, **kwargs)["videos_kwargs"]
        processed = self.video_processor(videos, **{**kwargs, "return_metadata": True})
        return [ProcessedVideo(*pair) for pair in zip(processed["pixel_values_videos"], processed["video_metadata"])]

    def _process_videos(self, videos: list, **kwargs) -> tuple[BatchFeature, list[str]]:
        if not any(isinstance(video, ProcessedVideo) for video in videos):
            processed = self.video_processor(videos, **{**kwargs, "return_metadata": True})
        else:
            done = [
                video if isinstance(video, ProcessedVideo) else self.process_videos(video, **kwargs)[0]
                for video in videos
            ]
            pixel_values = [video.pixel_values for video in done]
            alike = len({pixels.shape for pixels in pixel_values}) == 1
            processed = BatchFeature(
                {
                    "pixel_values_videos": torch.stack(pixel_values) if alike else pixel_values,
                    "video_metadata": [video.metadata for video in done],
                }
            )
        replacements = [self.replace_video_token(processed, index, **kwargs) for index in range(len(videos))]
        return processed, replacements

    def replace_video_token(self, video_inputs: dict, video_idx: int = 0, **kwargs) -> str:
        num_frames, _, height, _ = video_inputs["pixel_values_videos"][video_idx].shape
        placeholders = self.video_token * self.count_video_tokens(num_frames, height)
        if not kwargs.get("time_instruction", self.video_processor.time_instruction):
            return placeholders
        metadata = video_inputs["video_metadata"][video_idx]
        times = self.video_processor.describe_times(metadata, kwargs.get("frame_sampling"))
        return placeholders + (" \n" if self.space_after_visuals else "\n") + times

    def replace_image_token(self, image_inputs: dict, image_idx: int = 0, **kwargs) -> str:
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        tile_side = image_inputs["pixel_values"][image_idx].shape[-1]
        return self.image_token * self.count_image_tokens((height, width), tile_side, kwargs)

    def count_video_tokens(self, num_frames: int, frame_side: int) -> int:
        """Tokens of a video of `num_frames` sampled frames, `frame_side` pixels high and wide after processing."""
        return video_token_count(
            num_frames,
            self.patches_per_side(frame_side),
            self.spatial_pool_stride,
            self.spatial_pool_mode,
            self.video_newline_position,
            self.slow_frame_stride,
        )

    def count_image_tokens(self, image_size: tuple[int, int], tile_side: int, images_kwargs: dict | None = None) -> int:
        """Tokens of an image of (height, width) pixels before processing, in tiles of `tile_side` pixels;
        `images_kwargs` are what a call overrides of the image processor's settings."""
        return image_token_count(
            image_size,
            self.patches_per_side(tile_side),
            tile_side,
            setting(self.image_processor, "image_grid_pinpoints", images_kwargs),
            setting(self.image_processor, "image_aspect_ratio", images_kwargs),
        )

    def patches_per_side(self, side_pixels: int) -> int:
        if self.patch_size is None:
            raise ValueError(
                "The processor does not know the vision tower's patch size and cannot count tokens. "
                "Set `processor.patch_size = model.config.vision_config.patch_size`, and save the processor."
            )
        return side_pixels // self.patch_size

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs) -> MultiModalData:
        """Count tokens before anything is processed, for serving engines.

        Args:
            image_sizes (`list[list[int]]`, *optional*): (height, width) of each image.
            video_sizes (`list[list[int]]`, *optional*): (frames, height, width) of each video, after sampling.
            kwargs: what the call that processes them will override, `size` for example.
        """
        overrides = self._merge_kwargs(LlavaNextVideoProcessorKwargs, **kwargs)
        counts = {}
        if image_sizes is not None:
            images_kwargs = overrides["images_kwargs"]
            side = processed_side(self.image_processor, images_kwargs)
            counts["num_image_tokens"] = [self.count_image_tokens(tuple(s), side, images_kwargs) for s in image_sizes]
            counts["num_image_patches"] = [1] * len(image_sizes)  # rows of `pixel_values` per image
        if video_sizes is not None:
            side = processed_side(self.video_processor, overrides["videos_kwargs"])
            counts["num_video_tokens"] = [self.count_video_tokens(size[0], side) for size in video_sizes]
        return MultiModalData(**counts)


def setting(processor, name: str, overrides: dict | None):
    """A setting of an image or video processor, unless a call overrides it."""
    value = (overrides or {}).get(name)
    return getattr(processor, name) if value is None else value


def processed_side(processor, overrides: dict) -> int:
    """Height (and width) in pixels of what an image or video processor returns."""
    size = dict(
        setting(processor, "crop_size" if setting(processor, "do_center_crop", overrides) else "size", overrides)
    )
    return size.get("height") or size["shortest_edge"]


def flatten(items) -> list:
    """A flat list of the images in a single image, a list, or a list per prompt."""
    return [image for item in items for image in flatten(item)] if isinstance(items, list | tuple) else [items]
