"""Vision towers: configuration and preprocessing, which are not in original checkpoints but in the tower's repository.

Sources: config.json and preprocessor_config.json of the repositories; in LLaVA-NeXT, clip_encoder.py and
siglip_encoder.py in llava/model/multimodal_encoder/.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from transformers import image_utils

from llava_next_video.hub.checkpoint_folders import local_folder
from llava_next_video.hub.recipes import CLIP, SIGLIP
from llava_next_video.modeling.checkpoint_settings import CheckpointError, read_json
from llava_next_video.modeling.error_texts import quoted


@dataclass(frozen=True)
class VisionTower:
    """A vision tower as LLaVA uses it.

    Args:
        name: Hub id or folder.
        config: `vision_config` of our configuration.
        processor_settings: those that image and video processors share.
    """

    name: str
    config: dict
    processor_settings: dict


MAX_NAME_LENGTH = 256  # of a tower, as a checkpoint names it
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)

KNOWN = {
    CLIP: {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
    },
    SIGLIP: {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}


def find_vision_tower(name: str) -> VisionTower:
    """The tower called `name`: one of the known ones, or a folder or Hub repository with its config.json.

    Raises:
        ValueError: the tower is neither a CLIP nor a SigLIP model.
        OSError: there is no such folder or repository.
    """
    if name in KNOWN and not Path(name).is_dir():
        return make_vision_tower(name, KNOWN[name], {})
    folder = local_folder(name, ["config.json", "preprocessor_config.json"])
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"The vision tower {name!r} has no config.json in {folder}.")
    config = read_json(folder / "config.json")
    preprocessing = folder / "preprocessor_config.json"
    return make_vision_tower(
        name,
        config.get("vision_config", config),
        read_json(preprocessing) if preprocessing.is_file() else {},
        {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}.get(config.get("model_type")),
    )


def tower_of_checkpoint(folder: Path, name: object) -> VisionTower:
    """The tower that an original checkpoint names: a known one, one in its own folder, or one on the Hub.

    Other folders of this machine are opened only when the user names them, because checkpoints come from strangers.

    Raises:
        CheckpointError: it names something else; also what `find_vision_tower` raises.
    """
    if isinstance(name, str) and len(name) < MAX_NAME_LENGTH and name.isprintable():
        own = Path(os.path.realpath(folder / name))
        if name in KNOWN or (HUB_ID.fullmatch(name) and not (own.exists() or Path(name).exists())):
            return find_vision_tower(name)
        if own.is_dir() and own.is_relative_to(os.path.realpath(folder)):
            return find_vision_tower(str(own))
    raise CheckpointError(
        f"{folder / 'config.json'} names the vision tower {quoted(name)}, which is neither a Hub id nor a folder "
        "inside the checkpoint, and was not opened. If it is the right one, name it yourself: vision_tower "
        "(--vision-tower)."
    )


def make_vision_tower(name: str, config: dict, preprocessing: dict, model_type: str | None = None) -> VisionTower:
    """A tower as LLaVA uses it, from the configuration of its own repository."""
    config = {"model_type": model_type, **config}
    if config["model_type"] == "siglip_vision_model":
        # LLaVA deletes the last layer and the pooling head.
        config = {**config, "num_hidden_layers": config["num_hidden_layers"] - 1, "vision_use_head": False}
        usual_colours = (image_utils.IMAGENET_STANDARD_MEAN, image_utils.IMAGENET_STANDARD_STD)
    elif config["model_type"] == "clip_vision_model":
        usual_colours = (image_utils.OPENAI_CLIP_MEAN, image_utils.OPENAI_CLIP_STD)
    else:
        raise ValueError(
            f"The vision tower {name!r} has model_type {quoted(config['model_type'])}; LLaVA-NeXT-Video has a CLIP or "
            "a SigLIP tower. Give the right one with vision_tower (--vision-tower)."
        )
    side, crops = config["image_size"], config["model_type"] == "clip_vision_model"
    square = {"height": side, "width": side}
    mean, std = (preprocessing.get(key, usual) for key, usual in zip(("image_mean", "image_std"), usual_colours))
    processor_settings = {
        "size": {"shortest_edge": side} if crops else square,  # SigLIP squashes to a square
        "crop_size": square,
        "do_center_crop": crops,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    return VisionTower(name, config, processor_settings)
