"""Runs every side with every recipe it can run, and compares what came out with the table of differences."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.contract.child import FAILED, PASSED, SKIPPED
from tests.contract.differences import DIFFERENCES, Difference
from tests.contract.subjects import BUILTIN, OURS, RUNS


ROOT = Path(__file__).parents[2]

Outcomes = dict[str, tuple[str, str]]  # of each test: passed, failed or skipped, and why


def run(side: str, recipe: str, tests: Path) -> Outcomes:
    """What the shared tests in the folder `tests` say, from a process of its own, without a network."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        ended = subprocess.run(
            [sys.executable, "-m", "tests.contract.child", side, recipe, str(tests), str(results)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not results.exists():
            raise RuntimeError(f"The tests of {side} with {recipe} ended without results:\n{ended.stderr[-3000:]}")
        outcomes = json.loads(results.read_text())
    return {name.rpartition("suites.")[2]: tuple(outcome) for name, outcome in outcomes.items()}


def run_all(tests: Path) -> dict[tuple[str, str], Outcomes]:
    with ThreadPoolExecutor(2) as threads:
        outcomes = threads.map(lambda which: run(*which, tests), RUNS)
        return dict(zip(RUNS, outcomes))


def falls_short(test: str, ours: Outcomes, builtin: Outcomes) -> bool:
    """Whether our classes fail a test, or skip one that the built-in passes."""
    outcome = ours[test][0]
    return outcome == FAILED or (outcome == SKIPPED and builtin.get(test, (SKIPPED,))[0] == PASSED)


def problems(runs: dict[tuple[str, str], Outcomes], differences: list[Difference] = DIFFERENCES) -> list[str]:
    """Differences that the table has not, and those that it has and are gone."""
    found = []
    [builtin] = [outcomes for (side, _), outcomes in runs.items() if side == BUILTIN]
    for (side, recipe), ours in runs.items():
        if side != OURS:
            continue
        listed = {difference.test: difference for difference in differences if difference.applies(recipe)}
        for test, (outcome, why) in ours.items():
            if falls_short(test, ours, builtin):
                if test not in listed or listed[test].says not in why:
                    found.append(f"{recipe}: {test} {outcome}, and is not in the table: {why}")
            elif test in listed:
                found.append(f"{recipe}: {test} {outcome}, so the table need not have it")
        found += [f"{recipe}: there is no {test}, which the table has" for test in listed.keys() - ours.keys()]
    return found


def table(runs: dict[tuple[str, str], Outcomes]) -> str:
    """Counts of each run, then every test with which one of ours falls short."""
    lines = ["| classes | recipe | passed | failed | skipped |", "|---|---|---|---|---|"]
    for (side, recipe), outcomes in runs.items():
        counts = [sum(outcome == kind for outcome, _ in outcomes.values()) for kind in (PASSED, FAILED, SKIPPED)]
        lines.append(f"| {side} | {recipe} | {' | '.join(map(str, counts))} |")
    [builtin] = [outcomes for (side, _), outcomes in runs.items() if side == BUILTIN]
    tests = [outcomes for (side, _), outcomes in runs.items() if side == OURS]
    short = sorted({test for ours in tests for test in ours if falls_short(test, ours, builtin)})
    lines += ["", f"| test | {' | '.join(map(' '.join, runs))} |", f"|---|{'---|' * len(runs)}"]
    lines += [
        f"| {test} | {' | '.join(outcomes.get(test, ('absent',))[0] for outcomes in runs.values())} |" for test in short
    ]
    return "\n".join(lines)
