"""The questions of a benchmark, their media, and the cheapest order to ask them in.

Tasks of lmms-eval give as a medium the path of a video or a picture, a PIL image, frames, or a dictionary
`{"type": ..., "url": ...}`.
"""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from llava_next_video.inference.video_fingerprints import digest, fingerprint
from llava_next_video.reading.addresses import is_web_address


PICTURE_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SOUND_ENDINGS = {".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"}
SOUND_KEYS = {"array", "sampling_rate"}  # of a sound in the library `datasets`


@dataclass(frozen=True)
class Question:
    """One request of a benchmark.

    Args:
        task, document: its source, for reports.
        text: without placeholders for the media.
        media: returns the media. Pictures are in memory only while they are needed.
        media_id: identifies the media and their contents over several runs; `None` if that is not possible.
        videos: paths of the videos among the media, which are read while other questions are answered.
        arguments: of `generate`, see `generation_arguments.py`.
        option: a text whose loss as the answer is wanted, instead of an answer.
        error: why there are no media.
        occurrence: numbers equal questions that are answered several times, with sampling.
    """

    task: str
    document: int
    text: str
    media: Callable[[], list] = list
    media_id: Hashable = ()
    videos: tuple[str, ...] = ()
    arguments: dict = field(default_factory=dict)
    option: str | None = None
    error: Exception | None = None
    occurrence: int = 0

    @property
    def name(self) -> str:
        return f"{self.task}, document {self.document}"

    @property
    def group(self) -> Hashable:
        """A value that is equal for questions about the same media."""
        return (self.task, self.document) if self.media_id is None else self.media_id

    def fits(self, other: "Question") -> bool:
        """Whether both can be answered in one batch: they have the same arguments, or are options of one question."""
        if self.option is None or other.option is None:
            return self.option is other.option and self.arguments == other.arguments
        return (self.group, self.text) == (other.group, other.text)

    def key(self) -> list | None:
        """What the answer depends on apart from the model, in types of JSON: questions with equal keys have equal
        answers. `None` if the media cannot be identified."""
        if self.media_id is None or self.error is not None:
            return None
        arguments = sorted(self.arguments.items())
        return [repr(self.media_id), self.text, repr(arguments), self.option, self.occurrence]


def ordered_by_media(questions: Iterable[Question]) -> list[Question]:
    """The questions with those about the same media together, in the order in which the media first appear."""
    groups: dict[Hashable, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    return [question for group in groups.values() for question in group]


def batches(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    """Up to `size` questions at a time that can be answered together, in order."""
    batch: list[Question] = []
    for question in questions:
        if batch and (len(batch) == size or not question.fits(batch[0])):
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def media_id(media: list) -> Hashable:
    """Identify media over several runs: files by path, size and time of change, others by their contents.

    `None` where that is not possible, as for web addresses, whose contents may change.
    """
    parts = tuple(identity(medium) for medium in media)
    return None if None in parts else parts


def identity(medium) -> Hashable:
    if isinstance(medium, dict):
        parts = [(key, identity(value)) for key, value in sorted(medium.items())]
        return None if any(part is None for _, part in parts) else tuple(parts)
    if isinstance(medium, str | Path):
        if is_web_address(str(medium)):
            return None
        try:
            status = os.stat(medium)
        except (OSError, ValueError):
            return ("text", str(medium)) if isinstance(medium, str) else None
        return str(medium), status.st_size, status.st_mtime_ns
    if isinstance(medium, int | float | bool) or medium is None:
        return ("number", medium)
    found = fingerprint(medium)
    return None if found is None else digest(repr(found).encode()).hex()


def as_parts(media: list) -> list[dict]:
    """Media as parts of a chat message.

    Raises:
        ValueError: one of them is a sound, or of a kind that is not known.
    """
    return [as_part(medium) for medium in media]


def as_part(medium) -> dict:
    if isinstance(medium, Image.Image):
        return {"type": "image", "image": medium}
    if isinstance(medium, dict) and not SOUND_KEYS & medium.keys():
        source = medium.get("url", medium.get("path"))
        kind = medium.get("type", "video")
        if kind in ("image", "video") and source is not None and not {"video_start", "video_end"} & medium.keys():
            return {"type": kind, kind: source}
    if isinstance(medium, str | Path):
        ending = Path(str(medium)).suffix.lower()
        if ending not in SOUND_ENDINGS:
            kind = "image" if ending in PICTURE_ENDINGS else "video"
            return {"type": kind, kind: str(medium)}
    if isinstance(medium, list) or getattr(medium, "ndim", 0) == 4:
        return {"type": "video", "video": medium}
    shown = repr(medium) if isinstance(medium, str) else type(medium).__name__
    shown = f"a dictionary with the keys {sorted(medium)}" if isinstance(medium, dict) else shown
    raise ValueError(
        f"A task gave {shown} as a medium. Videos and pictures are expected: paths, PIL images, arrays of frames, or "
        "{'type': 'video', 'url': ...}; the model hears no sound, and whole files are looked at. Leave the task out."
    )


def as_chat(question: Question) -> list[dict]:
    """A chat of one message: the media, then the question."""
    content = [*as_parts(question.media()), {"type": "text", "text": question.text}]
    return [{"role": "user", "content": content}]
