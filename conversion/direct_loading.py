"""Loading original checkpoints without converting them first: the `from_pretrained` of our configuration, models and
processor call this module for a folder or repository of the original code. They find it by `format_of`.

The model is built from the same plan that `convert` carries out, so it is the same model; `save_pretrained` writes it
in our format. `recipe` and `vision_tower` are those of `plan_conversion`:

    model = LlavaNextVideoForConditionalGeneration.from_pretrained("lmms-lab/LLaVA-NeXT-Video-32B-Qwen")
    processor = LlavaNextVideoProcessor.from_pretrained("lmms-lab/LLaVA-NeXT-Video-32B-Qwen")

Loading a configuration imports this module, so models and processors are imported inside the functions.
"""

from pathlib import Path

from transformers import PreTrainedConfig
from transformers.utils import logging

from llava_next_video.conversion.original_config import is_original
from llava_next_video.hub.checkpoint_folders import SETTINGS_FILES, local_folder
from llava_next_video.hub.pickled_tensors import load_pickle
from llava_next_video.hub.recipes import FROM_DEFAULTS, recipe_named
from llava_next_video.modeling.checkpoint_settings import read_json
from llava_next_video.modeling.configuration_llava_next_video import check_numbers


DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
PLAN_OPTIONS = ("recipe", "vision_tower")

logger = logging.get_logger(__name__)


def recognises(source, kwargs: dict) -> bool:
    """Whether a folder or repository holds a checkpoint of the original code.

    Raises:
        CheckpointError: its settings are damaged.
        UntrustedCheckpoint: the folder holds links to files outside of it.
    """
    if source is None:
        return False
    subfolder, config = kwargs.get("subfolder") or "", Path(source)
    if not config.is_file():
        try:
            config = local_folder(source, SETTINGS_FILES, subfolder, **download_options(kwargs)) / "config.json"
        except FileNotFoundError:
            return False  # transformers' own loading says what is wrong with it
    if not config.is_file():
        return False
    settings = read_json(config)
    # AutoTokenizer ignores the error of our configuration, and then makes so many names of labels.
    check_numbers("config", {"num_labels": settings.get("num_labels")})
    return not subfolder and is_original(settings)


def config_dict(source, kwargs: dict) -> tuple[dict, dict]:
    """The configuration as a dictionary in our format, and the remaining arguments."""
    from llava_next_video.conversion.settings import plan_settings

    download, options, rest = split_options(kwargs)
    return plan_settings(str(source), **options, **download).config.to_dict(), rest


def model(model_class, source, *args, config=None, **kwargs):
    """A model; with `output_loading_info=True` a tuple, as from `from_pretrained`."""
    from llava_next_video.conversion.plan import plan_conversion

    download, options, rest = split_options(kwargs)
    plan = plan_conversion(str(source), **options, **download)
    warn_about_assumptions(str(source), plan.origins)
    if not isinstance(config, PreTrainedConfig):
        config_class = type(plan.config)
        changes = {name: rest.pop(name) for name in list(rest) if name in config_class.__annotations__}
        config = config_class.from_dict(plan.config.to_dict(), **changes)
    rest.setdefault("generation_config", plan.generation_config)
    state_dict = {tensor.name: tensor for tensor in plan.tensors}
    try:
        loaded = model_class.from_pretrained(None, *args, config=config, state_dict=state_dict, **rest)
    finally:
        load_pickle.cache_clear()  # the pages of its file count as this process's memory
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.name_or_path = model.config.name_or_path = str(source)
    return loaded


def processor(source, kwargs: dict):
    """The processor with the checkpoint's recipe; other arguments are settings of it or of its parts."""
    from llava_next_video.conversion.settings import plan_settings

    download, options, rest = split_options(kwargs)
    processor = plan_settings(str(source), **options, **download).processor
    for part in (processor, processor.video_processor, processor.image_processor):
        for name, value in rest.items():
            if hasattr(part, name):
                setattr(part, name, value)
    return processor


def warn_about_assumptions(source: str, origins: dict[str, str]):
    """Warn, once for each checkpoint, about facts that are assumed."""
    assumed = [fact for fact, origin in origins.items() if origin == FROM_DEFAULTS]
    if assumed:
        logger.warning_once(
            f"{source} says nothing about {', '.join(assumed)}, and is not a released checkpoint that is known; what "
            "is usual for its language model is assumed. Pass `recipe`, the name of a released checkpoint or a Recipe."
        )


def download_options(kwargs: dict) -> dict:
    return {name: kwargs[name] for name in DOWNLOAD_OPTIONS if kwargs.get(name) is not None}


def split_options(kwargs: dict) -> tuple[dict, dict, dict]:
    """Sort arguments of `from_pretrained` into those for downloading, those for the plan, and others."""
    options = {name: kwargs[name] for name in PLAN_OPTIONS if kwargs.get(name) is not None}
    if isinstance(options.get("recipe"), str):
        options["recipe"] = recipe_named(options["recipe"])
    rest = {name: value for name, value in kwargs.items() if name not in (*PLAN_OPTIONS, *DOWNLOAD_OPTIONS)}
    return download_options(kwargs), options, rest
