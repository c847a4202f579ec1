"""Where a checkpoint is written: a folder that appears at once and whole, or an empty one that is filled in place.

Everything goes into a work folder first: `.NAME.incomplete` beside a destination that does not exist yet, `.incomplete`
inside an empty folder that does (a mounted volume, a link, "."), so that it is on the disk where it will stay. Making
the work folder is also the claim to the destination: of two runs one gets it, and the other stops before it writes.

    WORK/owner    the machine that made it; the run that creates this file has the claim
    WORK/files/   the checkpoint, as it will be
    WORK/moving   made before files are moved into a folder that was there before

A run holds a lock on its work folder until it ends. A run that was killed leaves the folder, which does not load. The
next run on that machine gets the lock, so it knows that nobody writes there any more, and uses the folder again.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from platform import node


try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None


WORK, OWNER, FILES, MOVING = ".incomplete", "owner", "files", "moving"
IGNORED_ENTRIES = (WORK, "lost+found")  # what an empty folder may hold: our own, and what ext4 puts into every volume
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")  # of a running Linux kernel, the same in all its containers
# Moved last into a folder that was there before, in this order: without them it does not load.
MOVED_LAST = ("processor_config.json", "*.safetensors", "*.index.json", "config.json")
# Space on the disk for tokenizer and configurations.
OTHER_FILES_BYTES = 64 * 2**20


class WritingError(OSError):
    """A checkpoint could not be written, or does not read back as it was written."""


def readable_size(num_bytes: int) -> str:
    """A number of bytes, for people.

    >>> readable_size(65_530_000_000), readable_size(740_000), readable_size(2_090)
    ('65.53 GB', '0.74 MB', '2.1 kB')
    """
    if num_bytes >= 10**8:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.2f} MB" if num_bytes >= 10**5 else f"{num_bytes / 1e3:.1f} kB"


def check_destination(destination: str | Path, num_bytes: int) -> Path:
    """The destination's real path; raises a WritingError if something is in the way, or its disk is too small."""
    if fcntl is None:
        raise WritingError(
            f"{destination} cannot be written on this system: checkpoints are converted and exported on Linux and "
            "macOS, whose locks keep two runs apart. Do it there, or in WSL on Windows; the result loads everywhere."
        )
    destination = Path(os.path.realpath(destination))  # also past `..` after a folder that does not exist
    check_vacant(destination)
    disk = next(folder for folder in (destination, *destination.parents) if folder.is_dir())
    free = shutil.disk_usage(disk).free
    if free < num_bytes + OTHER_FILES_BYTES:
        raise WritingError(
            f"The result takes {readable_size(num_bytes)}, and {disk} has {readable_size(free)} free. "
            "Make room, or name a destination on another disk."
        )
    return destination


def check_vacant(destination: Path):
    """Raise a WritingError if a destination exists and is not an empty folder."""
    if not destination.exists():
        return
    if destination.is_dir() and all(entry.name in IGNORED_ENTRIES for entry in destination.iterdir()):
        return
    if (destination / WORK / MOVING).exists():
        raise WritingError(
            f"{destination} holds a part of a checkpoint, because a run was killed while it moved its files there. "
            f"Delete what is in it, {WORK} too, and run again."
        )
    raise WritingError(f"{destination} exists already; name another destination, or delete it.")


@contextmanager
def appearing_at_once(destination: Path) -> Iterator[Path]:
    """A folder to write into that becomes `destination` when the block ends, and is removed when it fails.

    A destination that exists has to be empty, and gets the files themselves; config.json, without which they do not
    load, comes last.

    Raises:
        WritingError: something is in the way, another run writes to the destination, or its disk is full.
    """
    destination = Path(os.path.realpath(destination))
    is_filled = destination.is_dir()
    work = destination / WORK if is_filled else destination.with_name(f".{destination.name}{WORK}")
    work.parent.mkdir(parents=True, exist_ok=True)
    with claimed_work_folder(work, destination):
        check_vacant(destination)
        remove(work / FILES, work / MOVING)  # of a run that was killed
        files = work / FILES
        files.mkdir()
        try:
            yield files
            if is_filled:
                move_to_destination(files, work / MOVING, destination)
            else:
                rename_to_destination(files, destination)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise WritingError(
                    f"{destination} could not be written, because its disk became full; nothing was kept. "
                    "Make room, and run again."
                ) from error
            raise


@contextmanager
def claimed_work_folder(work: Path, destination: Path) -> Iterator[None]:
    """Keep a work folder for this run until the block ends, and remove it then, unless moving files was interrupted.

    Raises:
        WritingError: another run has it, or may have it.
    """
    with locked_work_folder(work, destination) as is_locked:
        if not claim(work, is_locked):
            raise WritingError(
                f"{work} is in the way: a run that was killed left it, or one on another machine is writing to "
                f"{destination}. Delete it unless one is, and run again."
            )
        try:
            yield
        finally:
            if not (work / MOVING).exists():
                remove(work / FILES, work / OWNER)
                with suppress(OSError):
                    work.rmdir()


@contextmanager
def locked_work_folder(work: Path, destination: Path) -> Iterator[bool]:
    """Make a work folder if there is none, and hold a lock on it; False if its disk has no locks.

    Raises:
        WritingError: another run holds the lock, or it is not a folder.
    """
    while True:
        with suppress(FileExistsError):
            work.mkdir()
        try:
            folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its run has just removed it
        except NotADirectoryError as error:
            raise WritingError(f"{work} is not a folder, and in the way of {destination}. Delete it.") from error
        try:
            is_locked = lock(folder, destination)
            if is_same(folder, work):  # and was not removed before it was locked
                yield is_locked
                return
        finally:
            os.close(folder)


def lock(folder: int, destination: Path) -> bool:
    """Lock an open folder; False if its disk has no locks.

    Raises:
        WritingError: another run holds the lock.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WritingError(
            f"Another run is writing to {destination} at this moment. Wait for it, or name another destination."
        ) from error
    except OSError:
        return False
    return True


def is_same(folder: int, path: Path) -> bool:
    """Whether a path still leads to the folder that was opened."""
    try:
        return os.path.samestat(os.fstat(folder), path.lstat())
    except FileNotFoundError:
        return False


def claim(work: Path, is_locked: bool) -> bool:
    """Write this machine's name into a work folder; False where the folder may belong to another run.

    A locked folder with this machine's name in it was left by a run that was killed.
    """
    machine = (BOOT_ID_FILE.read_text() if BOOT_ID_FILE.exists() else node()).encode()
    entries = {entry.name for entry in work.iterdir()}
    if not entries:
        try:
            with open(work / OWNER, "xb", buffering=0) as owner:
                owner.write(machine)
        except FileExistsError:
            return False
        return True
    is_ours = OWNER in entries and entries <= {OWNER, FILES, MOVING}
    return is_locked and is_ours and (work / OWNER).read_bytes() == machine


def rename_to_destination(files: Path, destination: Path):
    """Rename the folder of the finished checkpoint.

    Raises:
        WritingError: something has appeared there since.
    """
    try:
        files.rename(destination)  # fails where there is a folder that is not empty
    except OSError as error:
        if not os.path.lexists(destination):
            raise
        raise WritingError(f"{destination} was made by somebody else meanwhile; nothing was written to it.") from error


def move_to_destination(files: Path, moving: Path, destination: Path):
    """Move files into a folder that was there before; the files without which it does not load come last.

    Raises:
        WritingError: something has appeared there since.
    """
    names = [file.name for file in files.iterdir()]
    for pattern in MOVED_LAST:
        names.sort(key=lambda name: fnmatch(name, pattern))  # to the end; the others stay in order
    moving.touch()
    try:
        for name in names:
            if os.path.lexists(destination / name):
                raise WritingError(f"{destination / name} was made by somebody else meanwhile; nothing was kept.")
            (files / name).rename(destination / name)
    except BaseException:
        for name in names:
            if not os.path.lexists(files / name):
                (destination / name).rename(files / name)
        moving.unlink()
        raise
    moving.unlink()


def remove(*paths: Path):
    """Delete files, and folders with all that is in them, where they exist."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
