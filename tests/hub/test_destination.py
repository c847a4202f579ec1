"""Where checkpoints are written: folders that exist already, disks that are full, runs that meet or are killed."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration, export_for_hub
from llava_next_video.conversion.convert import convert
from llava_next_video.conversion.plan import plan_conversion
from llava_next_video.hub import destination
from llava_next_video.hub.destination import (
    FILES,
    OWNER,
    WORK,
    WritingError,
    appearing_at_once,
    check_destination,
)
from tests.golden_data import Recording


NAMES = ["config.json", "merges.txt", "model-00001-of-00001.safetensors", "model.safetensors.index.json"]

# Writes a small checkpoint to argv[1]; says "writing" and waits for a line where argv[2] says so.
CHILD = f"""
import sys
from pathlib import Path
from llava_next_video.hub import destination
place, stop = Path(sys.argv[1]), sys.argv[2]
def wait(when):
    if when == stop:
        print(when, flush=True)
        sys.stdin.readline()
rename = Path.rename
def slow_rename(self, target):
    wait("moving " + self.name)
    return rename(self, target)
Path.rename = slow_rename
try:
    with destination.appearing_at_once(place) as folder:
        for name in {NAMES}:
            (folder / name).write_text("of the process " + str(__import__("os").getpid()))
        wait("writing")
except destination.WritingError as error:
    sys.exit(str(error))
print("verified")
"""


@pytest.fixture
def start():
    """Starts a process that writes to a destination and stops where it is told to."""
    children = []

    def run(place: Path, stop: str = "", cwd: Path | None = None) -> subprocess.Popen:
        command = [sys.executable, "-c", CHILD, str(place), stop]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = subprocess.Popen(command, text=True, cwd=cwd, **pipes)
        children.append(child)
        if stop:
            assert child.stdout.readline() == f"{stop}\n", child.communicate()
        return child

    yield run
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def write(place: Path, meanwhile: Callable[[Path], object] = lambda folder: None):
    with appearing_at_once(place) as folder:
        for name in NAMES:
            (folder / name).write_text("mine")
        meanwhile(folder)


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(params=["new", "empty", "link", "working folder"])
def place(request, tmp_path, monkeypatch) -> Path:
    """Destinations as they may be named."""
    if request.param == "new":
        return tmp_path / "made"
    (tmp_path / "made").mkdir()
    if request.param == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "link").symlink_to("../made")
        return tmp_path / "elsewhere" / "link"
    if request.param == "working folder":
        monkeypatch.chdir(tmp_path / "made")
        return Path()
    return tmp_path / "made"


def test_destination_becomes_the_files_and_nothing_else(place, tmp_path):
    check_destination(place, 10)
    inode = (tmp_path / "made").stat().st_ino if (tmp_path / "made").exists() else None
    write(place)
    assert names_in(tmp_path / "made") == NAMES
    assert [name for name in names_in(tmp_path) if name != "elsewhere"] == ["made"]
    if inode is not None:  # the folder itself stays: it may be a mount
        assert (tmp_path / "made").stat().st_ino == inode


def test_checkpoint_is_converted_and_exported_into_an_existing_folder(place, tmp_path):
    recording = Recording("qwen_grid_avg")
    plan = plan_conversion(str(recording.checkpoint), vision_tower=recording.vision_tower)
    assert "written and verified" in str(convert(plan, place))
    LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path / "made")
    for path in (tmp_path / "made").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    export = export_for_hub(DEMO_CHECKPOINT, place)
    assert sorted(export.files) == names_in(tmp_path / "made")


def test_failure_leaves_an_empty_folder_empty(place, tmp_path):
    existed = (tmp_path / "made").exists()
    with pytest.raises(ZeroDivisionError):
        write(place, lambda folder: 1 / 0)
    assert (tmp_path / "made").exists() == existed
    assert not existed or names_in(tmp_path / "made") == []
    write(place)


def test_destination_behind_a_folder_that_is_not_there(tmp_path, monkeypatch):
    """The files were written, and reported as none."""
    monkeypatch.chdir(tmp_path)
    export = export_for_hub(DEMO_CHECKPOINT, "missing/../exported")
    assert export.destination == tmp_path / "exported"
    assert set(export.files) == {path.name for path in (tmp_path / "exported").iterdir()}
    recording = Recording("qwen_grid_avg")
    plan = plan_conversion(str(recording.checkpoint), vision_tower=recording.vision_tower)
    assert convert(plan, "missing/../converted").destination == tmp_path / "converted"
    assert (tmp_path / "converted" / "config.json").exists()
    assert names_in(tmp_path) == ["converted", "exported"]


def test_system_without_locks_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(destination, "fcntl", None)
    with pytest.raises(WritingError, match=r"checkpoints are converted and exported on Linux and macOS, .* WSL"):
        export_for_hub(DEMO_CHECKPOINT, tmp_path / "exported")


def test_module_loads_on_a_system_without_locks():
    """Converting and exporting ended in ModuleNotFoundError."""
    code = (
        "import sys; sys.modules['fcntl'] = None; import llava_next_video.hub.destination as d; assert d.fcntl is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_two_runs_one_gets_the_destination(place, tmp_path, start):
    """Both said "written and verified", and the destination did not load: the second deleted the first one's folder."""
    first = start(place, "writing")
    second = start(place)
    told = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "verified" not in told[0]
    assert (
        f"Another run is writing to {os.path.realpath(place)} at this moment. Wait for it, or name another destination."
        in told[1]
    )
    with pytest.raises(WritingError, match="Another run is writing to"):
        write(place)
    assert first.communicate("go on\n", timeout=60)[0] == "verified\n"
    assert names_in(tmp_path / "made") == NAMES
    assert {path.read_text() for path in (tmp_path / "made").iterdir()} == {f"of the process {first.pid}"}


def test_of_many_runs_one_says_that_it_has_written(place, tmp_path, start):
    children = [start(place) for _ in range(6)]
    outputs = [child.communicate(timeout=120) for child in children]
    [(_, winner)] = [(out, child) for (out, _), child in zip(outputs, children) if out == "verified\n"]
    assert sorted(child.returncode for child in children) == [0, 1, 1, 1, 1, 1]
    assert names_in(tmp_path / "made") == NAMES
    assert {path.read_text() for path in (tmp_path / "made").iterdir()} == {f"of the process {winner.pid}"}


def kill(child: subprocess.Popen):
    child.kill()
    child.wait(timeout=60)


def test_next_run_takes_the_place_of_one_that_was_killed_while_writing(place, tmp_path, start):
    kill(start(place, "writing"))
    with pytest.raises((OSError, ValueError)):
        LlavaNextVideoForConditionalGeneration.from_pretrained(tmp_path / "made")
    check_destination(place, 10)
    write(place)
    assert names_in(tmp_path / "made") == NAMES
    assert [name for name in names_in(tmp_path) if name != "elsewhere"] == ["made"]


@pytest.mark.parametrize("last", NAMES)
def test_folder_in_which_a_run_was_killed_while_moving_does_not_load_and_says_what_to_delete(tmp_path, start, last):
    place = tmp_path / "made"
    place.mkdir()
    kill(start(place, f"moving {last}"))
    assert "config.json" not in names_in(place)  # it is moved last
    message = rf"{place} holds a part of a checkpoint, because a run was killed .* Delete what is in it, {WORK} too"
    if names_in(place) == [WORK]:  # nothing was moved yet
        write(place)
        return
    before = names_in(place)
    with pytest.raises(WritingError, match=message):
        check_destination(place, 10)
    with pytest.raises(WritingError, match=message):
        write(place)
    assert names_in(place) == before
    for name in before:
        shutil.rmtree(place / name) if name == WORK else (place / name).unlink()
    write(place)
    assert names_in(place) == NAMES


def test_files_are_moved_before_what_makes_them_load(tmp_path, monkeypatch):
    moved = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (moved.append(self.name), rename(self, target)))
    place = tmp_path / "made"
    place.mkdir()
    write(place)
    assert moved == [
        "merges.txt",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "config.json",
    ]


def test_failure_while_moving_takes_everything_back(tmp_path, monkeypatch):
    place = tmp_path / "made"
    place.mkdir()
    rename = Path.rename

    def failing(self, target):
        if self.name == "config.json":
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="input/output error"):
        write(place)
    assert names_in(place) == []


def test_what_others_put_there_meanwhile_is_left_alone(tmp_path):
    filled, new = tmp_path / "filled", tmp_path / "new"
    filled.mkdir()

    def by_somebody_else(folder):
        place.mkdir(exist_ok=True)
        (place / "merges.txt").write_text("theirs")

    for place, message in (
        (filled, r"merges\.txt was made by somebody else meanwhile; nothing was kept"),
        (new, "new was made by somebody else meanwhile; nothing was written to it"),
    ):
        with pytest.raises(WritingError, match=message):
            write(place, by_somebody_else)
        assert names_in(place) == ["merges.txt"]
        assert (place / "merges.txt").read_text() == "theirs"
    assert names_in(tmp_path) == ["filled", "new"]


def test_destination_that_appears_before_a_run_has_its_claim_is_left_alone(tmp_path, monkeypatch):
    place = tmp_path / "made"
    claim = destination.claim

    def late(work, is_locked):
        place.mkdir()
        (place / "mine.txt").write_text("mine")
        return claim(work, is_locked)

    monkeypatch.setattr(destination, "claim", late)
    with pytest.raises(WritingError, match="made exists already; name another destination, or delete it"):
        write(place)
    assert names_in(place) == ["mine.txt"]
    assert names_in(tmp_path) == ["made"]


def make_folder_of_somebody(work: Path):
    work.mkdir()
    (work / "thesis.txt").write_text("mine")


def make_claim_of_another_machine(work: Path):
    (work / FILES).mkdir(parents=True)
    (work / OWNER).write_text("another machine")


def make_file(work: Path):
    work.write_text("mine")


def make_link(work: Path):
    (work.parent / "valuable").mkdir()
    (work.parent / "valuable" / OWNER).write_text("mine")
    work.symlink_to("valuable")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_folder_of_somebody, "is in the way: a run that was killed left it, or one on another machine is writing"),
        (make_claim_of_another_machine, "Delete it unless one is, and run again"),
        (make_file, "is not a folder, and in the way of .*made. Delete it."),
        (make_link, "is not a folder, and in the way of .*made. Delete it."),
    ],
)
def test_what_is_not_known_to_be_a_killed_run_s_is_left_alone(tmp_path, make, message):
    make(tmp_path / f".made{WORK}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WritingError, match=message):
        write(tmp_path / "made")
    assert sorted(tmp_path.rglob("*")) == before


def no_locks(folder, operation):
    raise OSError(errno.ENOLCK, "no locks available")


def test_disk_without_locks(tmp_path, monkeypatch, start):
    """There nobody can tell that a run was killed, so its folder is in the way until somebody deletes it."""
    monkeypatch.setattr(destination.fcntl, "flock", no_locks)
    write(tmp_path / "made")
    assert names_in(tmp_path) == ["made"]
    kill(start(tmp_path / "other", "writing"))
    with pytest.raises(WritingError, match="Delete it unless one is, and run again"):
        write(tmp_path / "other")
    shutil.rmtree(tmp_path / f".other{WORK}")
    write(tmp_path / "other")


def test_run_that_loses_the_race_for_a_name_on_a_disk_without_locks(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / OWNER).write_text("of the other")
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([]))  # it was not there yet
    assert not destination.claim(work, is_locked=True)


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_work_folder_that_its_run_removes_meanwhile_is_made_again(tmp_path, monkeypatch, when):
    work = tmp_path / f".made{WORK}"
    work.mkdir()
    function = "open" if when == "before it is opened" else "fstat"
    real, calls = getattr(os, function), []

    def late(first, *rest):
        if not calls and (function == "fstat" or first == work):
            calls.append(first)
            work.rmdir()
        return real(first, *rest)

    monkeypatch.setattr(destination.os, function, late)
    write(tmp_path / "made")
    assert calls
    assert names_in(tmp_path) == ["made"]


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """An empty mounted disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here, which takes rights of the system's administrator")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_mounted_disk_is_filled_and_measured(small_disk, monkeypatch):
    """It failed when everything was written, and deleted it; free space was that of the disk around it."""
    message = rf"The result takes 5.00 GB, and {small_disk} has 1.05 MB free. Make room"
    with pytest.raises(WritingError, match=message):
        check_destination(small_disk, 5 * 10**9)
    with pytest.raises(WritingError, match=r"free\. Make room"):
        export_for_hub(DEMO_CHECKPOINT, small_disk)
    monkeypatch.setattr(destination, "OTHER_FILES_BYTES", 0)
    check_destination(small_disk, 10)
    write(small_disk)
    assert names_in(small_disk) == NAMES
    assert os.path.ismount(small_disk)


@pytest.mark.parametrize("name", [".", "new"])
def test_disk_that_becomes_full_is_one_error_and_nothing_is_kept(small_disk, name):
    message = "could not be written, because its disk became full; nothing was kept"
    with pytest.raises(WritingError, match=message):
        write(small_disk / name, lambda folder: (folder / "big").write_bytes(bytes(2**21)))
    assert names_in(small_disk) == []


def test_new_volume_of_ext4_counts_as_empty(tmp_path):
    (tmp_path / "lost+found").mkdir()
    write(tmp_path)
    assert names_in(tmp_path) == sorted([*NAMES, "lost+found"])


@pytest.mark.skipif(os.geteuid() != 0, reason="the administrator may write everywhere, and gives rights away to try")
def test_empty_folder_in_one_that_cannot_be_written(tmp_path):
    place = tmp_path / "made"
    place.mkdir()
    os.chown(place, 65534, 65534)
    os.chmod(tmp_path, 0o555)
    for parent in tmp_path.parents[:2]:
        os.chmod(parent, 0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65534)
            write(place)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert names_in(place) == NAMES


def test_killed_many_times_at_any_moment(tmp_path, start):
    """A destination is whole, or absent, or says what to delete; at every moment of a run."""
    for place in (tmp_path / "new", tmp_path / "filled"):
        for step in range(12):
            if place.name == "filled":
                place.mkdir(exist_ok=True)
            child = start(place, "writing")
            child.stdin.write("go on\n")
            child.stdin.flush()
            deadline = time.monotonic() + step * 0.0004
            while time.monotonic() < deadline:
                pass
            kill(child)
            if place.exists() and "config.json" in names_in(place):
                assert set(NAMES) <= set(names_in(place))
            shutil.rmtree(place, ignore_errors=True)
        write(place)
        assert names_in(place) == NAMES
