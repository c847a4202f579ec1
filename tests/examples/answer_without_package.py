"""What `finetune_run.py` runs in a process of its own, which has transformers and not this package:
`python answer_without_package.py FOLDER ANSWERS`, with an exported folder and the `answers.json` of the example. Prints
how many of its questions are answered as they were there."""

import json
import runpy
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    sys.meta_path.insert(0, runpy.run_path(str(ROOT / "tests" / "hub" / "without_package.py"))["Absent"])
    from transformers import pipeline

    folder, answers = sys.argv[1:]
    pipe = pipeline("video-text-to-text", model=folder, trust_remote_code=True)
    assert not any(name.split(".")[0] == "llava_next_video" for name in sys.modules)
    rows = json.loads(Path(answers).read_text())
    said = [pipe(*row["videos"], row["question"])[0]["generated_text"].strip() for row in rows]
    same = sum(words == row["after"] for words, row in zip(said, rows))
    print(f"{same} of {len(rows)}")
