"""Run the attacks of one file in this process, which gets little memory: `python -m tests.attacks pictures`.

Prints a line for each attack that did not end as it has to, and how much memory the process took; exit status 1 when
there was any.
"""

import re
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import llava_next_video
from tests.attacks import Attack


MEMORY = 2 * 2**30  # bytes that all attacks together may take above what the process has when they begin


def outcome(attack: Attack) -> str:
    """What is wrong with how an attack ended, or an empty text."""
    start = time.monotonic()
    try:
        attack.run()
        ended = None
    except Exception as error:
        ended = error
    seconds = time.monotonic() - start
    if seconds > attack.seconds:
        return f"took {seconds:.1f} s of {attack.seconds:g}"
    if attack.error is None:
        return f"ended in {ended!r}" if ended is not None else ""
    if not isinstance(ended, attack.error):
        return f"ended in {ended!r} instead of {attack.error}"
    if len(str(ended)) > attack.shows:
        return f"says {len(str(ended))} characters, more than {attack.shows}"
    return "" if re.search(attack.match, str(ended)) else f"says {str(ended)!r} without {attack.match!r}"


def status(name: str) -> int:
    """A value of this process in bytes, as Linux tells it: `VmSize`, `VmRSS`, `VmHWM` (the largest `VmRSS`)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def main(name: str) -> int:
    torch.set_num_threads(1)
    for imported in llava_next_video.__all__:  # the package's own memory is not the attacks'
        getattr(llava_next_video, imported)
    failed = 0
    with TemporaryDirectory() as folder:
        attacks = import_module(f"tests.attacks.{name}").attacks(Path(folder))
        resident = status("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + MEMORY,) * 2)
        for attack in attacks:
            if problem := outcome(attack):
                failed += 1
                print(f"{attack.name}: {problem}")
    grown = (status("VmHWM") - resident) / 2**20
    print(f"{len(attacks)} attacks, {failed} not stopped, {grown:.0f} MiB above the start")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
