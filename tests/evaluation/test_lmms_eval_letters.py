"""The whole chain by its number: a model that knows letters scores high where everything is right, and as chance would
have it where the order of the frames is lost, or options have changed places. Run by `.ci/engines lmms-eval`."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from demo_model.clips import Clip
from llava_next_video.evaluation.score_table import wilson_interval
from tests.evaluation.letter_model import write_letter_model
from tests.evaluation.lmms_eval_runs import environment_of, run_table
from tests.evaluation.miniature import (
    asked,
    asked_about_order,
    clips_of,
    tables,
    with_every_second_pair_swapped,
    write_miniature,
    write_table,
)


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


def with_questions(folder: Path, home: Path, ask: Callable) -> Path:
    """Data sets in a folder with the videos of `home` and other questions."""
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("datasets"))
    for key, rows in tables(clips_of(SEEDS), ask).items():
        write_table(folder, *key, rows)
    return folder


def asked_about_direction(clip: Clip, count: int, rng: random.Random) -> list[tuple[str, list[str], int]]:
    """One question with `count` options: today's scoring of EgoSchema wants five."""
    return asked(clip, count, rng)[:1]


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


def assert_chance(percents: list[float]):
    """50 % is what 40 questions of two options are likely to show, and 75 % or 25 % is not."""
    for percent in percents:
        low, high = wilson_interval(round(percent / 100 * len(SEEDS)), len(SEEDS))
        assert low <= 50 <= high, percents


def test_scores_are_high_where_everything_is_right(scores, home, tmp_path):
    assert min(scores(home)) >= 95
    # All questions of EgoSchema, whose answers only a server knows: here the miniature's tell them.
    written = json.loads((tmp_path / "out" / "submissions" / "july2024_egoschema.json").read_text())
    clips = clips_of(SEEDS)
    rows = tables(clips, asked_about_order)["egoschema", "GENERATION", "test"]
    chosen = {row["video_idx"]: row["option"][written[row["video_idx"]]] for row in rows}
    right = [chosen[name].endswith(f"moves {clip.movers[0].direction}.") for name, clip in clips.items()]
    assert sum(right) >= 0.95 * len(clips)


def test_scores_are_high_with_todays_prompts(scores, home, tmp_path):
    assert min(scores(with_questions(tmp_path / "home", home, asked_about_direction), "--table", "current")) >= 95


def test_chance_where_frames_are_shuffled(scores, tmp_path):
    shuffled = tmp_path / "home"
    write_miniature(shuffled, SEEDS, asked_about_order, shuffled=True)
    assert_chance(scores(shuffled))


def test_chance_where_options_have_changed_places(scores, home, tmp_path):
    swapped = with_every_second_pair_swapped(asked_about_order)
    assert_chance(scores(with_questions(tmp_path / "home", home, swapped)))
