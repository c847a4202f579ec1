"""The README's snippets: the first runs and prints what it says; the others need a released checkpoint and compile."""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_first_snippet_prints_its_comment():
    result = subprocess.run([sys.executable, "-c", SNIPPETS[0]], capture_output=True, text=True, check=True, cwd=ROOT)
    expected = [line.removeprefix("# ") for line in SNIPPETS[0].splitlines() if line.startswith("# ")]
    assert result.stdout.splitlines() == expected != []


def test_other_snippets_compile():
    assert len(SNIPPETS) > 1
    for snippet in SNIPPETS[1:]:
        compile(snippet, "README.md", "exec")
