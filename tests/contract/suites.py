"""transformers' shared test classes with our tiny models; only `child.py` imports this, in a process of its own."""

import unittest
from types import ModuleType

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.contract.subjects import Classes, Recipe


# Renders visuals where they stand, and marks what the assistant says.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'video') %}<{{ part['type'] }}>\n"
    "{% elif message['role'] == 'assistant' %}{% generation %}{{ part['text'] }}{% endgeneration %}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_TOKEN_ID, VIDEO_TOKEN_ID = 0, 1
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
    )


class ModelTester:
    """What the shared model tests ask for: a configuration, and an image and a video for each of `batch_size` prompts.

    Its `pixel_values` are (batch, 5 tiles, 3, side, side), `pixel_values_videos` (batch, frames, 3, side, side), float;
    `input_ids` are (batch, image tokens, video tokens, 7 others).
    """

    batch_size = 7  # as many as the test of attention kernels wants; it would make up the others itself
    num_channels = 3
    is_training = True
    num_text_tokens = 7

    def __init__(self, classes: Classes, recipe: Recipe, floats_tensor, ids_tensor):
        self.classes, self.recipe = classes, recipe
        self.floats_tensor, self.ids_tensor = floats_tensor, ids_tensor
        self.text_config, self.vision_config = recipe.text_config, recipe.vision_config
        self.num_hidden_layers = self.text_config["num_hidden_layers"]
        self.num_attention_heads = self.text_config["num_attention_heads"]
        self.hidden_size = self.text_config["hidden_size"]
        self.vocab_size = self.text_config["vocab_size"]
        self.image_size = self.vision_config["image_size"]
        self.num_visual_tokens = recipe.num_image_tokens + recipe.num_video_tokens
        self.seq_length = self.num_visual_tokens + self.num_text_tokens

    def get_config(self):
        return self.classes.config(
            text_config=self.text_config,
            vision_config=self.vision_config,
            image_token_index=IMAGE_TOKEN_ID,
            video_token_index=VIDEO_TOKEN_ID,
            image_grid_pinpoints=[[2 * self.image_size, 2 * self.image_size]],
            image_seq_length=self.recipe.num_image_tokens,
            video_seq_length=self.recipe.num_video_tokens,
            **self.recipe.config,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        side = self.image_size
        input_ids = self.ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        input_ids[:, : self.recipe.num_image_tokens] = config.image_token_id
        input_ids[:, self.recipe.num_image_tokens : self.num_visual_tokens] = config.video_token_id
        return config, {
            "pixel_values": self.floats_tensor([self.batch_size, 5, self.num_channels, side, side]),
            "pixel_values_videos": self.floats_tensor(
                [self.batch_size, self.recipe.num_frames, self.num_channels, side, side]
            ),
            "image_sizes": torch.tensor([[side, side]] * self.batch_size),
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
        }


class PixelsTester:
    """Settings and videos (or images, `ImageProcessingTester`) of the shared tests of one sub-processor."""

    batch_size, num_frames, num_channels = 5, 8, 3
    min_resolution, max_resolution = 30, 80
    size, crop_size = {"shortest_edge": 20}, {"height": 18, "width": 18}
    settings = {
        "do_resize": True,
        "size": size,
        "do_center_crop": True,
        "crop_size": crop_size,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_convert_rgb": True,
    }


def model_suite(modules: dict[str, ModuleType], classes: Classes, recipe: Recipe) -> type[unittest.TestCase]:
    modeling, configuration = modules["modeling"], modules["configuration"]
    draw_ids = modeling.ids_tensor

    def text_ids(shape, vocab_size, **kwargs) -> torch.Tensor:
        """Random ids without placeholders, which our model refuses when no pixels come with them."""
        ids = draw_ids(shape, vocab_size, **kwargs)
        return ids.clamp(min=VIDEO_TOKEN_ID + 1) if vocab_size == recipe.text_config["vocab_size"] else ids

    modeling.ids_tensor = text_ids

    class ModelTest(modeling.ModelTesterMixin, modeling.GenerationTesterMixin, unittest.TestCase):
        all_model_classes = (classes.model, classes.generator)
        _is_composite = True
        additional_model_inputs = ("pixel_values", "pixel_values_videos", "image_sizes")
        # It is asked of models since 2023, by a year that our files have not.
        test_can_init_all_missing_weights_before_2023 = True
        # The towers' last layer norm is behind the layers that are used.
        test_all_params_have_gradient = False
        # Tiles and frames, not images and videos, are the first dimension of what the tower returns.
        skip_test_image_features_output_shape = skip_test_video_features_output_shape = True

        def setUp(self):
            self.model_tester = ModelTester(classes, recipe, modeling.floats_tensor, text_ids)
            self.config_tester = configuration.ConfigTester(
                self,
                config_class=classes.config,
                has_text_modality=False,
                common_properties=["image_token_index", "video_token_index", "vision_feature_layer"],
            )

        def test_config(self):
            self.config_tester.run_common_tests()

    return ModelTest


def processor_suite(modules: dict[str, ModuleType], classes: Classes, recipe: Recipe) -> type[unittest.TestCase]:
    side = recipe.vision_config["image_size"]
    square = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    has_class_token = recipe.config["vision_feature_select_strategy"] == "default"

    class ProcessorTest(modules["processing"].ProcessorTesterMixin, unittest.TestCase):
        processor_class = classes.processor

        @staticmethod
        def prepare_processor_dict():
            return {
                "chat_template": CHAT_TEMPLATE,
                "patch_size": recipe.vision_config["patch_size"],
                "vision_feature_select_strategy": recipe.config["vision_feature_select_strategy"],
                "num_additional_image_tokens": int(has_class_token),
                **recipe.processor,
            }

        @classmethod
        def _setup_tokenizer(cls):
            return make_tokenizer()

        @classmethod
        def _setup_image_processor(cls):
            return classes.image_processor(**square, image_grid_pinpoints=[[2 * side, 2 * side]])

        @classmethod
        def _setup_video_processor(cls):
            return classes.video_processor(**square)

        def test_classes_are_those_under_test(self):
            processor = self.get_processor()
            for part in (processor, processor.image_processor, processor.video_processor):
                assert classes.owns(type(part)), type(part)

    return ProcessorTest


def video_processor_suite(modules: dict[str, ModuleType], classes: Classes) -> type[unittest.TestCase]:
    video_processing = modules["video_processing"]

    class VideoTester(PixelsTester):
        def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
            return video_processing.prepare_video_inputs(
                batch_size=self.batch_size,
                num_frames=self.num_frames,
                num_channels=self.num_channels,
                min_resolution=self.min_resolution,
                max_resolution=self.max_resolution,
                equal_resolution=equal_resolution,
                return_tensors=return_tensors,
            )

        def expected_output_video_shape(self, videos):
            return self.num_frames, self.num_channels, self.crop_size["height"], self.crop_size["width"]

    class VideoProcessorTest(video_processing.VideoProcessingTestMixin, unittest.TestCase):
        fast_video_processing_class = classes.video_processor
        video_processor_dict = PixelsTester.settings

        def setUp(self):
            super().setUp()
            self.video_processor_tester = VideoTester()

    return VideoProcessorTest


def image_processor_suite(modules: dict[str, ModuleType], classes: Classes) -> type[unittest.TestCase]:
    image_processing = modules["image_processing"]

    class ImageTester(PixelsTester):
        batch_size = 7
        min_resolution, max_resolution = 30, 40

        def __init__(self, parent):
            self.image_processing_classes = {"torchvision": classes.image_processor}

        def prepare_image_processor_dict(self):
            return {**self.settings, "image_grid_pinpoints": [[36, 36]]}

        def prepare_image_inputs(self, equal_resolution=False, numpify=False, torchify=False):
            return image_processing.prepare_image_inputs(
                batch_size=self.batch_size,
                min_resolution=self.min_resolution,
                max_resolution=self.max_resolution,
                num_channels=self.num_channels,
                equal_resolution=equal_resolution,
                numpify=numpify,
                torchify=torchify,
            )

        def expected_output_image_shape(self, images):
            num_tiles = 5  # an overview and 2 x 2
            return num_tiles, self.num_channels, self.crop_size["height"], self.crop_size["width"]

    class ImageProcessorTest(image_processing.ImageProcessingTestMixin, unittest.TestCase):
        image_processor_tester_class = ImageTester

        def setUp(self):
            # Of 5.20, where the mixin makes no tester.
            self.image_processor_tester = ImageTester(self)

        @property
        def image_processing_classes(self):
            return self.image_processor_tester.image_processing_classes

        @property
        def image_processor_dict(self):
            return self.image_processor_tester.prepare_image_processor_dict()

    return ImageProcessorTest


def suites(modules: dict[str, ModuleType], classes: Classes, recipe: Recipe) -> list[type[unittest.TestCase]]:
    made = [
        model_suite(modules, classes, recipe),
        processor_suite(modules, classes, recipe),
        video_processor_suite(modules, classes),
        image_processor_suite(modules, classes),
    ]
    for suite in made:
        suite.__qualname__ = suite.__name__  # short ids: `tests.contract.suites.ModelTest.test_...`
    return made
