"""The FFmpeg of PyAV's wheel under the names that torchcodec looks for, for machines without another one."""

import re
from pathlib import Path

import av


def link_libraries(folder: Path) -> Path | None:
    """Fill a folder for LD_LIBRARY_PATH, which the loader reads when a process starts; `None` where PyAV was built with
    an FFmpeg of the system.

    The wheel's libraries carry a checksum in their names (libavcodec-5e6b81c2.so.62.28.102 for libavcodec.so.62).
    """
    bundled = Path(av.__file__).parents[1] / "av.libs"
    if not bundled.is_dir():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for library in bundled.iterdir():
        for name in (library.name, re.sub(r"-[0-9a-f]{8}(\.so\.\d+).*", r"\1", library.name)):
            link = folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(library)
    return folder
