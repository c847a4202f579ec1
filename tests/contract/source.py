"""Where the shared tests of the installed transformers come from: its source distribution, through pip, so that mirrors
and proxies are those of pip; pip also compares the file with the hash that the index gives for it."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


CACHE_VARIABLE = "LLAVA_NEXT_VIDEO_CACHE"  # a folder in place of ~/.cache/llava-next-video


class NotFetched(RuntimeError):
    """The source distribution is neither in the cache nor to be had."""


def cache_folder() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "llava-next-video")


def tests_of_transformers() -> Path:
    """The folder `tests` of the source distribution of the installed version; fetched at the first call.

    Raises:
        NotFetched: pip cannot get it; its own words are in the message.
    """
    version = transformers.__version__
    folder = cache_folder() / f"transformers-{version}" / "tests"
    if folder.is_dir():
        return folder
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as work:
        # `--no-binary transformers`: only this one as source; what builds its metadata may come as wheels.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        result = subprocess.run(
            [*command, "--dest", work, f"transformers=={version}"], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise NotFetched(f"The tests of transformers {version} were not fetched: {result.stderr.strip()}")
        [archive] = Path(work).glob("transformers-*.tar.gz")
        unpacked = Path(work) / "unpacked"
        with tarfile.open(archive) as files:
            wanted = [member for member in files if member.name.startswith(f"transformers-{version}/tests/")]
            files.extractall(unpacked, members=wanted, filter="data")
        # Absent from the distribution, and read by `test_configuration_common.py`.
        (unpacked / f"transformers-{version}" / "tests" / "__init__.py").touch()
        try:
            (unpacked / f"transformers-{version}").rename(folder.parent)  # whole or not at all
        except OSError:
            if not folder.is_dir():  # another run was first
                raise
    return folder
