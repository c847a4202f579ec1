import os
import subprocess
import sys
from pathlib import Path

import pytest


FILES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if not path.stem.startswith("test_"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_attacks_end_in_the_documented_error_in_time_and_in_little_memory(name):
    # One arena: the address space that glibc reserves for each thread is not memory.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.run(
        [sys.executable, "-m", "tests.attacks", name], env=environment, capture_output=True, text=True, timeout=600
    )
    assert child.returncode == 0, child.stdout + child.stderr[-3000:]
