"""Addresses that are not public, in every notation."""

from pathlib import Path

from llava_next_video import VideoReadError, read_video
from tests.attacks import Attack


def attacks(folder: Path) -> list[Attack]:
    return [
        Attack("this machine", lambda: read_video("http://127.0.0.1:9/x"), VideoReadError, "not a public address"),
    ]
