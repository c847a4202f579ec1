"""The processor of LLaVA-NeXT-Video: prompts with videos and images become token ids and pixel values. Every `<video>`
and `<image>` in a prompt is repeated as often as the model makes tokens from that video or image."""

from functools import partial, wraps

import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import (
    MODALITY_TO_BASE_CLASS_MAPPING,
    MultiModalData,
    ProcessingKwargs,
    ProcessorMixin,
)

from ..modeling.checkpoint_settings import reading_settings
from ..modeling.configuration_llava_next_video import LlavaNextVideoConfig
from ..modeling.error_texts import quoted
from ..modeling.other_formats import format_of
from ..modeling.visual_grid import image_token_count, video_token_count
from .chat_messages import Sealed, checked_conversations, unsealed, with_media, with_template_errors
from .checked_settings import check_settings
from .image_processing_llava_next_video import LlavaNextVideoImageProcessor, LlavaNextVideoImageProcessorKwargs
from .video_inputs import ProcessedVideo, as_list_of_videos, flatten
from .video_processing_llava_next_video import LlavaNextVideoVideoProcessor, LlavaNextVideoVideoProcessorKwargs


# Arguments of `from_pretrained` for models. `pipeline` passes them to processors too, and a tokenizer would keep them
# and then fail to save them.
MODEL_ARGUMENTS = (
    "attn_implementation",
    "device_map",
    "device_mesh",
    "distributed_config",
    "dtype",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
    "torch_dtype",
    "tp_plan",
    "tp_size",
    "use_safetensors",
)
# Arguments of a call that `apply_chat_template` takes from the messages.
FROM_MESSAGES = ("images", "videos", "audio", "text")


class LlavaNextVideoProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: LlavaNextVideoImageProcessorKwargs
    videos_kwargs: LlavaNextVideoVideoProcessorKwargs
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
        space_after_visuals (`bool`): put a space after every visual that text follows, for tokenizers that begin a
            text with one: the original tokenizes the text around images and videos piece by piece.
        vision_feature_select_strategy, num_additional_image_tokens: kept for the built-in, which counts with them.

    Raises:
        ValueError: a setting has another type, or a value that nothing can be counted with.

    >>> from llava_next_video import DEMO_CHECKPOINT
    >>> processor = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT)
    >>> processor.spatial_pool_stride, processor.video_newline_position
    (2, 'grid')
    """

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
        texts = {"video_token": video_token, "image_token": image_token, "chat_template": chat_template}
        check_settings({**vars(self), **texts})
        self.image_token = getattr(tokenizer, "image_token", image_token)
        self.video_token = getattr(tokenizer, "video_token", video_token)
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(video_processor, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def for_model(
        cls,
        config: LlavaNextVideoConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pixels: dict | None = None,
        videos: dict | None = None,
        **settings,
    ) -> "LlavaNextVideoProcessor":
        """The processor that goes with a model, which pools, lays out and cuts into tiles as its configuration says.

        Args:
            config: of the model.
            tokenizer: any that knows `image_token` and `video_token`.
            pixels: settings of both the video and the image processor, such as `size`, `crop_size`, `image_mean`. By
                default the middle of each frame is cropped to a square of the tower's image size, as CLIP wants it.
            videos: settings of the video processor alone, such as `num_frames` and `frame_sampling`.
            settings: of the processor itself, such as `chat_template`.

        >>> from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoConfig
        >>> tokenizer = LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT).tokenizer
        >>> config = LlavaNextVideoConfig(video_newline_position="grid")
        >>> LlavaNextVideoProcessor.for_model(config, tokenizer, videos={"num_frames": 32}).count_video_tokens(32, 336)
        4992
        """
        side = config.vision_config.image_size
        pixels = pixels or {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        return cls(
            video_processor=LlavaNextVideoVideoProcessor(**pixels, **(videos or {})),
            image_processor=LlavaNextVideoImageProcessor(
                **pixels,
                image_grid_pinpoints=config.image_grid_pinpoints,
                image_aspect_ratio=config.image_aspect_ratio,
            ),
            tokenizer=tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=int(config.vision_feature_select_strategy == "default"),
            spatial_pool_mode=config.spatial_pool_mode,
            spatial_pool_stride=config.spatial_pool_stride,
            video_newline_position=config.video_newline_position,
            slow_frame_stride=config.slow_frame_stride,
            **settings,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        if other := format_of(pretrained_model_name_or_path, kwargs):
            return other.processor(pretrained_model_name_or_path, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        with reading_settings(pretrained_model_name_or_path):
            settings, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        check_settings({name: settings[name] for name in ("image_processor", "video_processor") if name in settings})
        return settings, kwargs

    @staticmethod
    def get_possibly_dynamic_module(module_name):
        # transformers asks for the base classes of tokenizers and processors, and for the class of model that a
        # checkpoint names to encode sound, which it would load from wherever the checkpoint says.
        kinds = (MODALITY_TO_BASE_CLASS_MAPPING[kind] for kind in ("tokenizer", "image_processor", "video_processor"))
        if module_name not in flatten(list(kinds)):
            raise ValueError(
                f"The checkpoint has its processor load a model of the class {quoted(module_name)}, for sound, "
                "which LLaVA-NeXT-Video does not hear. Nothing was loaded; remove `audio_tokenizer` from its "
                "processor_config.json, and audio_tokenizer_config.json."
            )
        return ProcessorMixin.get_possibly_dynamic_module(module_name)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if name not in MODEL_ARGUMENTS}
        with reading_settings(pretrained_model_name_or_path):
            tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        # Built directly: the Auto classes would pick the built-in's classes, or recurse for ever on checkpoints that
        # have only a `preprocessor_config.json`.
        return [
            LlavaNextVideoVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            LlavaNextVideoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            tokenizer,
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
        # A prompt with an empty list has no image, or no video.
        images, videos = without_empty_lists(unsealed(images)), without_empty_lists(unsealed(videos))
        images, text, _, audio = super().prepare_inputs_layout(images=images, text=text, audio=audio, **kwargs)
        return images, text, None if videos is None else as_list_of_videos(videos), audio

    @wraps(ProcessorMixin.apply_chat_template, assigned=())  # `help` and others see all of its arguments
    def apply_chat_template(
        self, conversation, *args, tokenize: bool = False, processor_kwargs: dict | None = None, **kwargs
    ):
        """Write a chat, or a batch of them, as a prompt, and with `tokenize` make inputs of the model of it.

        As in the built-in, except for messages: their shape is checked before anything in them is opened, sound in them
        is refused, and pictures and videos are read by the processor only, within its limits.

        Args:
            conversation: a list of messages, or a list of such lists; chat_messages.py says what they may contain.
            processor_kwargs: arguments of the call that processes the prompts.
            args, kwargs: `chat_template`, `add_generation_prompt` and others, as in transformers.
                `load_audio_from_video` is accepted and ignored, as LLaVA-NeXT-Video hears nothing.

        Raises:
            ValueError: a message has another shape, or the chat template cannot write the chat.
        """
        if twice := [name for name in FROM_MESSAGES if name in {**kwargs, **(processor_kwargs or {})}]:
            raise ValueError(
                f"apply_chat_template got {twice}, which it takes from the messages. Put pictures and videos into "
                "their content, as {'type': 'video', 'video': ...}."
            )
        conversations, is_batch = checked_conversations(conversation, need_sources=tokenize)
        conversations = [with_media(messages, Sealed, Sealed) for messages in conversations]
        apply = partial(
            super().apply_chat_template,
            conversations if is_batch else conversations[0],
            *args,
            **{**kwargs, "load_audio_from_video": False, "processor_kwargs": processor_kwargs},
        )
        return with_template_errors(apply, tokenize)

    def get_text_with_replacements(self, text: list[str], *args, **kwargs) -> tuple[list[str], list]:
        """Put the replacements of images and videos into prompts, without their last space where no text follows.
        Arguments as in transformers: prompts, and a list of replacements for each modality.

        The original tokenizes the text after a visual by itself, and that puts a space in front, unless the text is
        empty or begins with a special token. In the offsets, `new_span` is where the replacement stands in the prompt;
        `replacement` keeps its space: serving engines put its ids into prompts that they have tokenized themselves.
        """
        prompts = list(text)
        offsets: list[list[dict]]  # transformers says list[dict]
        text, offsets = super().get_text_with_replacements(text, *args, **kwargs)
        if not self.space_after_visuals:
            return text, offsets
        own_tokens = tuple(self.tokenizer.get_added_vocab())
        for number, (prompt, visuals) in enumerate(zip(prompts, offsets)):
            written, end = "", 0
            for visual in visuals:
                written += prompt[end : visual["span"][0]]
                end = visual["span"][1]
                text_follows = end < len(prompt) and not prompt.startswith(own_tokens, end)
                replacement = visual["replacement"] if text_follows else visual["replacement"].removesuffix(" ")
                visual["new_span"] = (len(written), len(written) + len(replacement))
                written += replacement
            text[number] = written + prompt[end:]
        return text, offsets

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
        """What replaces `<video>` in a prompt: placeholders, the space after them, and the sentence about times."""
        num_frames, _, height, _ = video_inputs["pixel_values_videos"][video_idx].shape
        placeholders = self.video_token * self.count_video_tokens(num_frames, height)
        space = " " if self.space_after_visuals else ""
        if not kwargs.get("time_instruction", self.video_processor.time_instruction):
            return placeholders + space
        metadata = video_inputs["video_metadata"][video_idx]
        times = self.video_processor.describe_times(metadata, kwargs.get("frame_sampling"))
        return f"{placeholders}{space}\n{times}"

    def replace_image_token(self, image_inputs: dict, image_idx: int = 0, **kwargs) -> str:
        """What replaces `<image>` in a prompt: placeholders, and the space after them."""
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        tile_side = image_inputs["pixel_values"][image_idx].shape[-1]
        placeholders = self.image_token * self.count_image_tokens((height, width), tile_side, kwargs)
        return placeholders + (" " if self.space_after_visuals else "")

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


def without_empty_lists(media):
    """Media without empty lists, or None where nothing is left."""
    if not isinstance(media, list | tuple):
        return media
    return [item for item in media if not (isinstance(item, list | tuple) and len(item) == 0)] or None
