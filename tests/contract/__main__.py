"""`python -m tests.contract`: run transformers' shared tests against our classes and print a table; exit status 1 when
something differs from `differences.py`.

The tests of generation and export are not in the source distribution. `--checkout FOLDER` takes all shared tests from a
checkout of transformers, of the version that is installed: `git clone --depth 1 --branch vVERSION
https://github.com/huggingface/transformers`. That is for running by hand: `differences.py` lists none of those tests,
because ours pass where the built-in passes.
"""

import argparse
import sys
from pathlib import Path

from tests.contract.runs import problems, run_all, table
from tests.contract.source import tests_of_transformers


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description="Run transformers' shared tests.")
    parser.add_argument("--checkout", type=Path, metavar="FOLDER", help="a checkout of transformers")
    args = parser.parse_args(arguments)
    tests = (args.checkout / "tests").resolve() if args.checkout else tests_of_transformers()
    runs = run_all(tests)
    print(table(runs))
    found = problems(runs)
    print("", *found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
