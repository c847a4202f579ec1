"""Types of arguments of the command line: each turns a word into a value, or says what it should have been.

They import nothing of torch or transformers, so that a mistake is reported at once.
"""

import re
from argparse import ArgumentTypeError


SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEVICE_KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa")  # that transformers computes on


def parse_count(text: str) -> int:
    """A whole number of at least 1.

    >>> parse_count("32")
    32
    """
    if not re.fullmatch(r"\+?0*[1-9][0-9]{0,8}", text.strip()):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999999999")
    return int(text)


def parse_device(text: str) -> str:
    """The name of a device, such as "cuda:1"; whether this machine has it is looked up later, with torch.

    >>> parse_device("cuda:1")
    'cuda:1'
    """
    found = re.fullmatch(r"([a-z]+)(:[0-9]{1,3})?", text)
    if not found or found[1] not in DEVICE_KINDS:
        raise ArgumentTypeError(f"torch knows no device {text!r}, but cpu, cuda, cuda:1, mps, xpu, ...")
    return text


def parse_size(text: str) -> int:
    """A number of bytes, with or without a unit.

    >>> parse_size("5GB"), parse_size("200 MiB")
    (5000000000, 209715200)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B|)", text.strip().upper())
    if not match:
        raise ArgumentTypeError(f"{text!r} is not a size; write it like 5GB or 200MiB")
    return int(float(match[1]) * SIZES[match[2]])


def parse_port(text: str) -> int:
    """The number of a port; 0 is one that is free.

    >>> parse_port("8000")
    8000
    """
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r} is not a port, which is a whole number from 0 to 65535")
    return int(text)


def parse_limit(text: str) -> tuple[str, int]:
    """The name of a limit, and its number.

    >>> parse_limit("max_fetched_bytes=50MB")
    ('max_fetched_bytes', 50000000)
    """
    name, equals, number = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r} is not a limit; write it like max_decode_seconds=20")
    return name, parse_size(number)


def parse_factor(text: str) -> float | str:
    """A number of at least 1, or "auto"."""
    if text == "auto":
        return text
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not factor >= 1:
        raise ArgumentTypeError(f"{text!r} is not a factor; write 'auto' or a number of at least 1")
    return factor
