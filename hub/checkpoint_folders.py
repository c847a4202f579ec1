"""Folders of checkpoints: fetched from the Hub if they are not on this machine, and checked before they are used.

They come from strangers. Folders with links to files outside of them are refused, except for the Hub's cache, which
consists of links to its own `blobs`. Settings have to be JSON.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from llava_next_video.modeling.checkpoint_settings import CheckpointError, UntrustedCheckpoint, read_json
from llava_next_video.modeling.error_texts import first_line


# Formats of weights, the preferred one first, and the file of a checkpoint in one piece.
WHOLE_FILES = {"*.safetensors": "model.safetensors", "*.bin": "pytorch_model.bin"}
# Files of settings that Python reads; `tokenizer.json` and vocabularies are not among them.
SETTINGS_FILES = (
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
SETTINGS_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt")  # these, vocabularies and chat templates
ORIGINAL_FOLDER = "original"  # in a converted checkpoint: the original's configuration and tokenizer
INNER_FOLDERS = (ORIGINAL_FOLDER, "additional_chat_templates")  # whose files are read too


def local_folder(source: str | Path, patterns: Sequence[str], subfolder: str = "", **download) -> Path:
    """Check a folder, or fetch and check the files of a Hub repository that match `patterns`; returns the folder.

    Args:
        subfolder: the checkpoint's place in the folder or repository.
        download: `revision`, `cache_dir`, `token` and the like, as for `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: it is neither.
        CheckpointError: its settings are damaged.
        UntrustedCheckpoint: it holds links to files outside of it.
    """
    folder = Path(source)
    if not folder.is_dir():
        patterns = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=patterns, **download))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{str(source)!r} is not a folder, and could not be fetched from the Hugging Face Hub: "
                f"{first_line(error)}"
            ) from error
    check_entries(folder / subfolder)
    return folder / subfolder


def folder_with_weights(source: str | Path, **download) -> Path:
    """As `local_folder`, for the files of weights; from a repository with both formats only safetensors are fetched."""
    for pattern in WHOLE_FILES:
        folder = local_folder(source, [pattern, f"{pattern}.index.json"], **download)
        if any(folder.glob(pattern)):
            break
    return folder


def read_config(folder: Path) -> dict:
    """The names and values in a checkpoint's config.json.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json.")
    return read_json(folder / "config.json")


def check_entries(folder: Path):
    """Check that a checkpoint's folder holds only files of its own, and that its settings are JSON.

    Raises:
        UntrustedCheckpoint: something is a link to outside the folder, or neither file nor folder (a pipe, a device).
        CheckpointError: settings are damaged.
    """
    own = Path(os.path.realpath(folder))
    # A snapshot in the Hub's cache: REPOSITORY/snapshots/REVISION/FILE is a link to REPOSITORY/blobs/HASH.
    homes = [own, *(place.with_name("blobs") for place in own.parents if place.name == "snapshots")]
    inner = [folder / name for name in INNER_FOLDERS if (folder / name).is_dir()]
    for path in (entry for place in (folder, *inner) if place.is_dir() for entry in place.iterdir()):
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(home) for home in homes):
            raise UntrustedCheckpoint(
                f"{path} is a link to {target}, outside the checkpoint's folder, and was not opened. Copy the file "
                "there if you trust it, or delete the link."
            )
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise UntrustedCheckpoint(f"{path} is neither a file nor a folder, and was not opened. Delete it.")
    for name in SETTINGS_FILES:
        if (folder / name).is_file():
            read_json(folder / name)
