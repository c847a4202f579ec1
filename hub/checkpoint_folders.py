"""Folders of checkpoints: fetched from the Hub where they are not on this machine, and checked before they are used.

They come from strangers. A folder that holds links to files outside of it is refused, except for the Hub's cache, which
consists of links to its own `blobs`, and its settings have to be JSON.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from llava_next_video.modeling.checkpoint_settings import UntrustedCheckpoint, read_json
from llava_next_video.modeling.error_texts import first_line


# Formats of weights, the better one first, and the file that a checkpoint in one piece has.
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
INNER_FOLDERS = ("original", "additional_chat_templates")  # in a checkpoint's folder, whose files are read too


def local_folder(source: str | Path, patterns: Sequence[str], subfolder: str = "", **download) -> Path:
    """A folder, or the local copy of a Hub repository with its files that match `patterns`; its files are checked.

    Args:
        subfolder: where in the folder or repository the checkpoint lies.
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
    """As `local_folder`, for the files of weights; of a repository with both formats only safetensors are fetched."""
    for pattern in WHOLE_FILES:
        folder = local_folder(source, [pattern, f"{pattern}.index.json"], **download)
        if any(folder.glob(pattern)):
            break
    return folder


def check_entries(folder: Path):
    """Check that what lies in a checkpoint's folder is its own, and that its settings are JSON.

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
