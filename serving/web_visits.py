"""Visits of the page in the browser: each has its own video and its own chat, and both expire.

A visit is one page in one browser. Its video is in a folder that only this process' user can read, under a name that
nobody can guess. Gradio's own copy, which the browser plays, is in a folder beside it and expires too.
"""

import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from llava_next_video.inference.pipeline_inputs import as_chat
from llava_next_video.inference.video_fingerprints import fingerprint_of_file
from llava_next_video.reading.errors import VideoReadError, describe


SECONDS_KEPT = 3600  # after the last question, or the end of an upload
SECONDS_KEPT_WHEN_LEFT = 600  # phones cut the connection of a page in the background
SECONDS_BETWEEN_SWEEPS = 60
MAX_VISITS = 256  # with a video each; the least recently used one is dropped
SECONDS_TO_SETTLE = 3  # until the pipeline can identify a file that was just written


class Visit:
    """One visit: the video, its name for errors, the chat about it, and the answer that is being generated."""

    def __init__(self):
        self.video: Path | None = None
        self.name = ""
        self.messages: list[dict] = []
        self.answer = None  # an `Answer`
        self.expires = time.monotonic() + SECONDS_KEPT

    def with_question(self, question: str) -> list[dict]:
        """The chat so far and a question; the first question has the video.

        Raises:
            ValueError: there is no video.
        """
        if self.video is None:
            raise ValueError("There is no video yet, or it has expired. Drop, record or link one first.")
        [message] = as_chat(question, None if self.messages else str(self.video))
        return [*self.messages, message]

    def named(self, error: Exception) -> Exception:
        """An error, in which the video has the visitor's name for it."""
        if isinstance(error, VideoReadError):
            return type(error)(describe(self.name), error.reason)
        return error

    def stop(self):
        if self.answer is not None:
            self.answer.stop()

    def forget_chat(self):
        self.stop()
        self.answer, self.messages = None, []

    def drop_video(self):
        self.forget_chat()
        if self.video is not None:
            self.video.unlink(missing_ok=True)
        self.video, self.name = None, ""


class Visits:
    """All visits, and the folder of their videos.

    Args:
        folder: an empty folder of this process. `uploads` in it is for files that browsers send and play, `videos` for
            those that the model is asked about.
    """

    def __init__(self, folder: Path):
        self.folder, self.uploads, self.videos = folder, folder / "uploads", folder / "videos"
        for each in (self.uploads, self.videos):
            each.mkdir(mode=0o700)
        self.visits: dict[str, Visit] = {}  # in the order of their last use
        self.lock = threading.Lock()

    def of(self, key: str) -> Visit:
        """The visit of a page; marks it as used now."""
        with self.lock:
            visit = self.visits[key] = self.visits.pop(key, None) or Visit()
            visit.expires = time.monotonic() + SECONDS_KEPT
            too_many = list(self.visits)[: max(len(self.visits) - MAX_VISITS, 0)]
            gone = [self.visits.pop(each) for each in too_many]
        for each in gone:
            each.drop_video()
        return visit

    def leave(self, key: str):
        """A page was closed, or cannot be reached: stop the answer, and keep the video a little longer."""
        with self.lock:
            if (visit := self.visits.get(key)) is None:
                return
            visit.expires = time.monotonic() + SECONDS_KEPT_WHEN_LEFT
        visit.stop()

    def take_video(self, visit: Visit, file: Path | None):
        """Make a file in `uploads` the video of a visit, or remove it with None. The chat is forgotten.

        Raises:
            VideoReadError: the file has expired.
        """
        visit.drop_video()
        if file is None:
            return
        own = self.videos / secrets.token_hex(16)
        try:
            os.link(file, own)  # the upload may expire meanwhile
        except FileNotFoundError as error:
            raise VideoReadError(describe(file.name), "it has expired; send it again") from error
        visit.video, visit.name = own, file.name
        settled = time.monotonic() + SECONDS_TO_SETTLE
        while fingerprint_of_file(str(own)) is None and time.monotonic() < settled:
            time.sleep(0.01)

    def put_upload(self, content: memoryview | bytes, name: str) -> Path:
        """Write a file for the browser to play, in a folder that nobody can guess."""
        folder = self.uploads / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        file = folder / name
        file.write_bytes(content)
        return file

    def is_upload(self, path: str) -> bool:
        """Whether a path leads to a file that a browser has sent, links followed."""
        try:
            file = Path(path).resolve()
            return file.is_relative_to(self.uploads.resolve()) and file.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            return False

    def stored_bytes(self) -> int:
        """Size of all files; those with two names count once."""
        sizes = {}
        for path in self.folder.rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # gone meanwhile
                continue
            if path.is_file():
                sizes[status.st_ino] = status.st_size
        return sum(sizes.values())

    def sweep(self):
        """Remove what has expired."""
        now = time.monotonic()
        with self.lock:
            expired = [key for key, visit in self.visits.items() if visit.expires < now]
            gone = [self.visits.pop(key) for key in expired]
        for visit in gone:
            visit.drop_video()
        for file in self.uploads.rglob("*"):
            try:
                if file.is_file() and file.stat().st_mtime < time.time() - SECONDS_KEPT:
                    file.unlink()
                elif file.is_dir() and file.stat().st_mtime < time.time() - SECONDS_KEPT:
                    file.rmdir()
            except OSError:  # gone meanwhile, or a folder with something in it
                continue

    def sweep_until(self, stopped: threading.Event):
        while not stopped.wait(SECONDS_BETWEEN_SWEEPS):
            self.sweep()

    def close(self):
        for visit in self.visits.values():
            visit.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
