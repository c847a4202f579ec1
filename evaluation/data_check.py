"""Is the data of a benchmark on this machine? If not: what to fetch, its size, and whether the disk has room for it."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from llava_next_video.evaluation.july2024_prompts import hf_home
from llava_next_video.evaluation.published_table import DataSet


def check_data(data_sets: Iterable[DataSet]):
    """Check that the questions and videos of data sets are where lmms-eval looks for them.

    Raises:
        FileNotFoundError: some are missing; says what to fetch, and how.
    """
    missing = missing_of(data_sets)
    if not missing:
        return
    sizes = ", ".join(f"{data.repository}: {described_size(data)}" for data in missing)
    raise FileNotFoundError(
        f"The data of these benchmarks is not in {hf_home()} (HF_HOME), where {in_gigabytes(free_bytes())} are free: "
        f"{sizes}. Run again with --fetch to have lmms-eval fetch and unpack it, which takes twice its size, or set "
        "HF_HOME to where it is."
    )


def check_fetching(data_sets: Iterable[DataSet]) -> list[str]:
    """Check that lmms-eval can fetch what is missing, and that the disk has room for it.

    Returns:
        A line about each data set that will be fetched.

    Raises:
        FileExistsError: lmms-eval would not fetch videos, because their folder exists.
        ConnectionError: the size of a data set cannot be read from the Hub.
        OSError: the disk has too little space.
    """
    lines, needed = [], 0
    for data in missing_of(data_sets):
        folder = hf_home() / Path(data.videos).parts[0]
        if not has_videos(data) and folder.exists():
            raise FileExistsError(
                f"{data.repository} was to be fetched, but {folder} exists and has no videos in {data.videos}: "
                "lmms-eval fetches them only where there is no such folder. Something may have stopped it earlier. "
                "Remove the folder and start again."
            )
        try:
            num_bytes = size_of(data)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"{data.repository} was to be fetched, but the Hub did not say how large it is: "
                f"{type(error).__name__}: {error} See that the Hub can be reached (HF_ENDPOINT, HF_HUB_OFFLINE)."
            ) from error
        lines.append(f"fetching {data.repository}: {in_gigabytes(num_bytes)}")
        # The archives and their unpacked files, less what an earlier run has fetched.
        needed += max(2 * num_bytes - fetched_bytes(data), 0)
    if needed > (free := free_bytes()):
        raise OSError(
            f"The data of these benchmarks needs {in_gigabytes(needed)} in {hf_home()} (HF_HOME), archives and what is "
            f"unpacked from them, and {in_gigabytes(free)} are free: {', '.join(lines)}. Make room, set HF_HOME to a "
            "larger disk, or take some of the tasks: --tasks."
        )
    return lines


def missing_of(data_sets: Iterable[DataSet]) -> list[DataSet]:
    """The data sets that are not on this machine, by name."""
    return sorted({data for data in data_sets if not is_here(data)}, key=lambda data: data.repository)


def is_here(data: DataSet) -> bool:
    variables = ("LMMS_EVAL_DATASETS_CACHE", "HF_DATASETS_CACHE")
    datasets = next((os.environ[name] for name in variables if os.environ.get(name)), hf_home() / "datasets")
    tables = Path(datasets) / folder_of(data.repository)
    return has_videos(data) and any(tables.glob("*/*/*/*.arrow"))


def has_videos(data: DataSet) -> bool:
    videos = hf_home() / data.videos
    return videos.is_dir() and any(videos.iterdir())


def folder_of(repository: str) -> str:
    """The folder in which the library `datasets` keeps a prepared data set, with an underscore before each word.

    >>> folder_of("lmms-eval/PerceptionTest_Val"), folder_of("lmms-eval/NExTQA")
    ('lmms-eval___perception_test_val', 'lmms-eval___n_ex_tqa')
    """
    owner, name = repository.split("/")
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return f"{owner}___{name.lower()}"


def size_of(data: DataSet) -> int:
    """The size of a data set on the Hub, in bytes.

    Raises:
        OSError, ValueError: there is no connection, or no such data set, or the Hub's library is offline.
    """
    from huggingface_hub import HfApi

    files = HfApi().dataset_info(data.repository, files_metadata=True, timeout=20).siblings or []
    return sum(file.size or 0 for file in files)


def described_size(data: DataSet) -> str:
    """The size of a data set on the Hub, as text."""
    try:
        return in_gigabytes(size_of(data))
    except (OSError, ValueError) as error:
        return f"size not known, the Hub was not reached ({type(error).__name__})"


def fetched_bytes(data: DataSet) -> int:
    """Bytes of a data set that an earlier run left in the cache of the Hub's library."""
    from huggingface_hub import constants

    blobs = Path(constants.HF_HUB_CACHE) / f"datasets--{data.repository.replace('/', '--')}" / "blobs"
    return sum(path.stat().st_size for path in blobs.glob("*"))


def free_bytes() -> int:
    """Free bytes on the disk of HF_HOME, which may not exist yet."""
    home = hf_home()
    place = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    return shutil.disk_usage(place).free


def in_gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
