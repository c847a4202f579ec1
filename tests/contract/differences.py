"""Shared tests that our classes fail, or skip where the built-in passes, on purpose. docs/differences.md says so
to users."""

from dataclasses import dataclass

import transformers
from packaging.specifiers import SpecifierSet

from tests.contract.subjects import RECIPES


@dataclass(frozen=True)
class Difference:
    """A test, a piece of what it says when it fails or is skipped, and the reason.

    `versions` are those of transformers whose test it is, as far as tried: 5.20.2 and 5.24.0.
    """

    test: str
    says: str
    reason: str
    recipes: tuple[str, ...] = tuple(RECIPES)
    versions: str = ">=5.20"

    def applies(self, recipe: str) -> bool:
        return recipe in self.recipes and SpecifierSet(self.versions).contains(transformers.__version__)


AUDIO = "a model without ears refuses `audio`, where the built-in drops it without a word"
LAYERS = "what the tower makes and the features do not need is made only when it is asked for"
RAGGED = "`pixel_values_videos` is a tensor for videos of one shape and else a list; the test knows always or never"

DIFFERENCES = [
    Difference(
        "ModelTest.test_can_init_all_missing_weights",
        "Not a prioritized model",
        "asks the year of a copyright line, which our files have not; can be asked for since",
        versions="<5.24",
    ),
    Difference("ModelTest.test_get_image_features_hidden_states", "['last_hidden_state']", LAYERS, versions=">=5.24"),
    Difference("ModelTest.test_get_video_features_hidden_states", "['last_hidden_state']", LAYERS, versions=">=5.24"),
    Difference("ProcessorTest.test_apply_chat_template_decoded_video_0", "is an instance of", RAGGED),
    Difference("ProcessorTest.test_apply_chat_template_video_0", "is an instance of", RAGGED),
    Difference("ProcessorTest.test_apply_chat_template_video_1", "is an instance of", RAGGED),
    Difference(
        "ProcessorTest.test_apply_chat_template_video_frame_sampling",
        "4 != 3",
        "10 frames a second of 11 at 30 a second are frames 0, 3, 6 and 9, as in the original; the built-in takes 3",
    ),
    Difference("ProcessorTest.test_flat_kwarg_applied_when_modality_dict_lacks_it", "does not hear", AUDIO),
    Difference("ProcessorTest.test_model_input_names", "does not hear", AUDIO),
    Difference(
        "ProcessorTest.test_if_input_has_mismatching_tokens_and_mm_data",
        "placeholders, but 4 images were passed",
        "the error says how many there are of each, in other words than the test looks for",
        versions=">=5.24",
    ),
    Difference(
        "VideoProcessorTest.test_call_sample_frames",
        "3 != 8",
        "a call with `num_frames` gets that many, whatever `do_sample_frames` the processor was saved with; and one "
        "that asks for more than there are gets every frame once",
    ),
    Difference(
        "ModelTest.test_bc_cache_name_forward",
        "False is not true",
        "both names of the cache are taken without a warning, because transformers 5.20 knows the older one only",
        versions=">=5.24",
    ),
    Difference(
        "ProcessorTest.test_chat_template_message_objects",
        "user: image= text=What is this?",
        "behind the door for messages a picture is under the key `image`, sealed, so that no template opens it",
        versions=">=5.24",
    ),
    Difference(
        "ProcessorTest.test_processor_from_and_save_pretrained_as_nested_dict",
        "LlavaNextImageProcessor",
        "`AutoImageProcessor` goes by the class that files name, the built-in's; ours under that name would replace it "
        "for every LLaVA-NeXT model",
    ),
    Difference(
        "ImageProcessorTest.test_call_numpy_4_channels",
        "it has to be three numbers, one for each colour",
        "the tower sees three colours, transparency is dropped; a mean of four is a mistake",
    ),
]
