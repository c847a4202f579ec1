"""The table of July 2024: its columns, the tasks that measure them, and the data these need.

Source of the figures: docs/LLaVA-NeXT-Video_0716.md of the original code, branch `inference`.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A data set on the Hub, and the folder of its videos in HF_HOME."""

    repository: str
    videos: str


NEXTQA = DataSet("lmms-eval/NExTQA", "nextqa/NExTVideo")
VIDEOMME = DataSet("lmms-eval/Video-MME", "videomme/data")
EGOSCHEMA = DataSet("lmms-eval/egoschema", "egoschema/videos")
PERCEPTIONTEST = DataSet("lmms-eval/PerceptionTest_Val", "perceptiontest_val/videos")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: for people.
        task: of lmms-eval, which measures it.
        published: the figure of LLaVA-NeXT-Video-32B-Qwen, in percent; `None` if there is none.
        data: that the task reads.
        is_right: whether the answer in a sample that lmms-eval logs is right; `None` for a task whose answers only a
            server knows.
    """

    name: str
    task: str
    published: float | None
    data: DataSet
    is_right: Callable[[dict], bool] | None = lambda sample: sample["accuracy"] == 1.0


def equals_truth(sample: dict) -> bool:
    return str(sample["score"]["pred"]) == str(sample["score"]["ground_truth"])


def is_right_in_videomme(sample: dict) -> bool:
    return sample["videomme_perception_score"]["score"] == 1.0


TABLES = {
    "july2024": (
        Column("NExT-QA (MC)", "july2024_nextqa_mc", 77.31, NEXTQA),
        Column("Video-MME", "july2024_videomme", 60.2, VIDEOMME),
        Column("Video-MME with subtitles", "july2024_videomme_subtitles", 63.0, VIDEOMME),
        Column("EgoSchema (subset)", "july2024_egoschema_subset", None, EGOSCHEMA),
        Column("EgoSchema", "july2024_egoschema", 60.85, EGOSCHEMA, is_right=None),
        Column("Perception Test (val)", "july2024_perceptiontest_mc", 59.38, PERCEPTIONTEST),
    ),
    # Without the task `egoschema`, which sends the answers to a server.
    "current": (
        Column("NExT-QA (MC)", "nextqa_mc_test", 77.31, NEXTQA, lambda sample: bool(sample["exact_match"])),
        Column("Video-MME", "videomme", 60.2, VIDEOMME, is_right_in_videomme),
        Column("Video-MME with subtitles", "videomme_w_subtitle", 63.0, VIDEOMME, is_right_in_videomme),
        Column("EgoSchema (subset)", "egoschema_subset", None, EGOSCHEMA, equals_truth),
        Column(
            "Perception Test (val)",
            "perceptiontest_val_mc",
            59.38,
            PERCEPTIONTEST,
            lambda sample: sample["accuracy"]["correct"] == 1,
        ),
    ),
}
