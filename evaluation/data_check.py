"""Is the data of a benchmark on this machine? If not: what to fetch, how large it is, and whether the disk holds it."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from llava_next_video.evaluation.july2024_prompts import hf_home
from llava_next_video.evaluation.published_table import DataSet


def check_data(data_sets: Iterable[DataSet]):
    """Check that questions and videos of data sets are where lmms-eval looks for them.

    Raises:
        FileNotFoundError: some are not; says which to fetch, and how.
    """
    missing = {data for data in data_sets if not is_here(data)}
    if not missing:
        return
    lines = [f"  {data.repository}: {size_of(data)}" for data in sorted(missing, key=lambda data: data.repository)]
    home = hf_home()
    place = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    raise FileNotFoundError(
        f"The data of these benchmarks is not in {home} (HF_HOME), where {in_gigabytes(shutil.disk_usage(place).free)} "
        "are free:\n"
        + "\n".join(lines)
        + "\nRun again with --fetch to have lmms-eval fetch and unpack it, which takes "
        "twice its size, or set HF_HOME to where it is."
    )


def is_here(data: DataSet) -> bool:
    home = hf_home()
    videos = home / data.videos
    tables = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")) / folder_of(data.repository)
    has_videos = videos.is_dir() and any(videos.iterdir())
    return has_videos and any(tables.glob("*/*/*/*.arrow"))


def folder_of(repository: str) -> str:
    """The folder in which the library `datasets` keeps a prepared data set: words begin with an underscore.

    >>> folder_of("lmms-eval/PerceptionTest_Val"), folder_of("lmms-eval/NExTQA")
    ('lmms-eval___perception_test_val', 'lmms-eval___n_ex_tqa')
    """
    owner, name = repository.split("/")
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return f"{owner}___{name.lower()}"


def size_of(data: DataSet) -> str:
    """How large a data set is on the Hub, for people."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().dataset_info(data.repository, files_metadata=True, timeout=20).siblings or []
    except (OSError, ValueError) as error:  # no connection, offline mode, no such data set
        return f"size not known, the Hub was not reached ({type(error).__name__})"
    return in_gigabytes(sum(file.size or 0 for file in files))


def in_gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
