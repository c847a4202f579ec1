"""The prompts of the table's benchmarks as they were in July 2024, and where the videos are.

Source: lmms_eval/tasks/{nextqa,videomme,egoschema,perceptiontest}/utils.py of lmms-eval at commit c1993642. The YAML
files in this folder name these functions; a document is a row of a data set. Videos lie where lmms-eval 0.7.3 unpacks
them, in folders of `HF_HOME`.
"""

import os
import re
from pathlib import Path

import av
import numpy as np


LETTERS = "ABCDE"
LETTER_ONLY = "Answer with the option's letter from the given choices directly."
VIDEOMME = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)
SUBTITLE = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
FRAMES_WITH_SUBTITLES = 32
ENDINGS = ("mp4", "MP4", "mkv")


def nextqa(document: dict) -> str:
    """The question and five options, and no instruction."""
    options = [f"{letter}. {document[f'a{number}'].strip()}" for number, letter in enumerate(LETTERS)]
    return "\n".join([document["question"].strip(), *options])


def videomme(document: dict) -> str:
    """The options are a list as Python prints it."""
    return "\n".join([VIDEOMME, document["question"], str(document["options"]), "The best answer is:"])


def videomme_with_subtitles(document: dict) -> str:
    return f"This video's subtitles are listed below: \n{subtitles_of(document)}\n{videomme(document)}"


def egoschema(document: dict) -> str:
    """The options already have their letters."""
    return "\n".join([document["question"], *document["option"], LETTER_ONLY])


def perceptiontest(document: dict) -> str:
    """There are three options; a fourth would be another C."""
    options = [f"{LETTERS[min(number, 2)]}. {option}" for number, option in enumerate(document["options"])]
    return "\n".join([document["question"], *options, LETTER_ONLY])


def nextqa_video(document: dict) -> list[str]:
    return [video_in("nextqa/NExTVideo", str(document["video"]))]


def videomme_video(document: dict) -> list[str]:
    return [video_in("videomme/data", document["videoID"])]


def egoschema_video(document: dict) -> list[str]:
    return [video_in("egoschema/videos", document["video_idx"])]


def perceptiontest_video(document: dict) -> list[str]:
    return [video_in("perceptiontest_val/videos", document["video_name"])]


def hf_home() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def video_in(folder: str, name: str) -> str:
    """The path of a video.

    Raises:
        FileNotFoundError: it is not there.
    """
    paths = [hf_home() / folder / f"{name}.{ending}" for ending in ENDINGS]
    for path in paths:
        if path.exists():
            return str(path)
    raise FileNotFoundError(
        f"There is no video {paths[0]}. Fetch the data set's videos, or set HF_HOME to their place."
    )


def subtitles_of(document: dict) -> str:
    """The subtitles that are shown at any of 32 evenly spread frames, each once.

    Their order is that of a Python set of their numbers, which is not always ascending: as in July, and still today.
    """
    path = hf_home() / "videomme" / "subtitle" / f"{document['videoID']}.srt"
    if not path.exists():
        return "No subtitles available"
    [video] = videomme_video(document)
    fps, num_frames = rate_and_length(video)
    cues = [(int(start * fps), int(end * fps), text) for start, end, text in cues_of(path.read_text(encoding="utf-8"))]
    shown = []
    for frame in np.linspace(0, num_frames - 1, FRAMES_WITH_SUBTITLES, dtype=int).tolist():
        shown += [number for number, (start, end, _) in enumerate(cues) if start <= frame < end]
    marked = [SUBTITLE.search(cues[number][2]) for number in list(set(shown))]
    return "\n".join(match[1] for match in marked if match)


def rate_and_length(video: str) -> tuple[float, int]:
    """Frames per second and number of frames, from the header."""
    with av.open(video) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 0)
        duration = float((stream.duration or 0) * (stream.time_base or 0))
        return fps, stream.frames or int(duration * fps + 0.5)


def cues_of(text: str) -> list[tuple[float, float, str]]:
    """The cues of a file of subtitles (.srt): start and end in seconds, and the text in one line. If several have the
    same times, the last one takes the place of the first."""
    cues = {}
    for section in text.split("\n\n"):
        lines = section.split("\n")
        if section.strip() and len(lines) >= 3:
            start, end = lines[1].split(" --> ")[:2]
            cues[seconds(start), seconds(end)] = " ".join(lines[2:])
    return [(start, end, text) for (start, end), text in cues.items()]


def seconds(clock: str) -> float:
    """
    >>> seconds("01:00:02,500")
    3602.5
    """
    hours, minutes, rest = clock.split(":")
    whole, milliseconds = rest.split(",")
    return int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(milliseconds) / 1000
