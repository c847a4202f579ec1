"""The long run: `python -m tests.fuzz --mutants 20000`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.corpus import make_corpus
from tests.fuzz.fuzzer import Fuzzer


FAILURES = Path(tempfile.gettempdir()) / "llava_next_video_fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Read mutated videos.")
    parser.add_argument("--mutants", type=int, default=20_000, help="how many (default: 20000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default: 0)")
    parser.add_argument("--save-to", type=Path, default=FAILURES, help=f"folder of what fails (default: {FAILURES})")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        corpus = [path.read_bytes() for path in make_corpus(Path(folder)).values()]
    print(f"{len(corpus)} files in the corpus", flush=True)
    with Fuzzer(corpus) as fuzzer:
        kinds = fuzzer.run(range(args.first, args.first + args.mutants), args.save_to)
    print(f"{args.mutants} mutants in {time.monotonic() - began:.0f} s: {dict(kinds)}")
    failed = set(kinds) - {"frames", "VideoReadError", "VideoLimitError"}
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
