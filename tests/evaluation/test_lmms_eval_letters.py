"""The whole chain by its number: a model that knows letters scores high. Run by `.ci/engines lmms-eval`."""

import json
from pathlib import Path

import pytest

from tests.evaluation.letter_model import write_letter_model
from tests.evaluation.lmms_eval_runs import environment_of, run_table
from tests.evaluation.miniature import asked_about_order, clips_of, tables, write_miniature


pytest.importorskip("lmms_eval", reason="runs in the environment that tests/evaluation/lmms_eval_environment.sh makes")
pytestmark = pytest.mark.slow

SEEDS = range(100, 140)  # none of the clips that the embedded checkpoint was trained on
SCORED = 5  # tasks of a table that have scores


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("letters")
    write_letter_model(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_miniature(folder, SEEDS, asked_about_order)
    return folder


@pytest.fixture
def scores(checkpoint, tmp_path):
    """Makes the table of the data in a folder: the percents of the tasks that have some."""

    def of_data(home: Path, *words: str) -> list[float]:
        environment = environment_of(home, tmp_path)
        table = run_table(environment, tmp_path / "out", "--batch-size", "8", *words, checkpoint=str(checkpoint))
        assert not Path(environment["CONNECTIONS"]).exists()
        assert not table["not_asked"]
        assert not any(score["without_option"] for score in table["scores"])
        found = [score["percent"] for score in table["scores"] if score["percent"] is not None]
        assert len(found) == SCORED
        return found

    return of_data


def test_scores_are_high_where_everything_is_right(scores, home, tmp_path):
    assert min(scores(home)) >= 95
    # All questions of EgoSchema, whose answers only a server knows: here the miniature's tell them.
    written = json.loads((tmp_path / "out" / "submissions" / "july2024_egoschema.json").read_text())
    clips = clips_of(SEEDS)
    rows = tables(clips, asked_about_order)["egoschema", "GENERATION", "test"]
    chosen = {row["video_idx"]: row["option"][written[row["video_idx"]]] for row in rows}
    right = [chosen[name].endswith(f"moves {clip.movers[0].direction}.") for name, clip in clips.items()]
    assert sum(right) >= 0.95 * len(clips)
