"""`llava-next-video evaluate CHECKPOINT`: the columns of a table, measured with lmms-eval, next to the published ones.

The Hub's library is offline unless `--fetch` is given, so lmms-eval uses data on this machine only, and sends nothing.
The library reads this setting when it is imported, so everything that uses it is imported inside functions here.
"""

import argparse
import os
import sys
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from llava_next_video.evaluation.published_table import TABLES, Column


TASKS_FOLDER = Path(__file__).parent
SUBMISSION = (
    "The answers to all questions of EgoSchema are in {}; only its server knows which are right. Nothing was sent."
)
SUBSET = "The published score of EgoSchema is of all 5,031 questions; here it is of the 500 whose answers are public."
WITHOUT_OPTION = (
    "Answers without an option are wrong; in NExT-QA each is a guess, which depends on nothing but the question."
)


def run(args: argparse.Namespace):
    """Evaluate a checkpoint, print the table, and write it into the output folder."""
    columns = chosen_columns(args.table, args.tasks)
    check_lmms_eval()
    from llava_next_video.evaluation.data_check import check_data, check_fetching

    data_sets = dict.fromkeys(column.data for column in columns)
    if args.fetch:
        to_fetch = check_fetching(data_sets)
        if to_fetch and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "--fetch was given to several processes. One fetches, and the others would give up waiting for it. Run "
                "the command once without torchrun, with --limit 1."
            )
        for line in to_fetch:
            print(f"llava-next-video: {line}", file=sys.stderr)
    else:
        check_data(data_sets)
        os.environ["HF_HUB_OFFLINE"] = "1"  # the Hub was asked for sizes, if at all
    results, recipe, failures = evaluated(args, [column.task for column in columns])
    if results is not None:  # in the first of several processes
        write_table(args, columns, results, recipe, failures)


def chosen_columns(table: str, tasks: str | None) -> list[Column]:
    """The columns of a table, or only those of some tasks, as in "july2024_videomme,july2024_nextqa_mc".

    Raises:
        ValueError: a task is not in that table.
    """
    columns = {column.task: column for column in TABLES[table]}
    if tasks is None:
        return list(columns.values())
    names = [name.strip() for name in tasks.split(",")]
    if unknown := [name for name in names if name not in columns]:
        raise ValueError(
            f"--tasks names {', '.join(unknown)}, which the table {table} does not have. It has {', '.join(columns)}; "
            "run other tasks with lmms-eval itself: lmms-eval eval --model llava_next_video --tasks ..."
        )
    return [columns[name] for name in dict.fromkeys(names)]


def check_lmms_eval():
    """Raise an ImportError when lmms-eval is not installed."""
    if find_spec("lmms_eval") is None:
        raise ImportError(
            "The evaluation needs lmms-eval, which is not installed. As the two ask for different versions of PyAV, "
            "tests/evaluation/lmms_eval_environment.sh in the repository makes an environment with both."
        )


def evaluated(args: argparse.Namespace, tasks: list[str]) -> tuple[dict | None, dict, dict[str, str]]:
    """The results of lmms-eval (`None` except in the first process), the model's recipe, and the reasons of questions
    that could not be asked."""
    import accelerate
    import torch
    from lmms_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lmms_eval.tasks import TaskManager, get_task_dict  # pyright: ignore[reportMissingImports]

    from llava_next_video.evaluation.lmms_eval_model import LlavaNextVideoForLmmsEval

    in_parallel = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if in_parallel:
        accelerate.PartialState()  # makes the group of processes, as the accelerator wants it
    manager = TaskManager(
        "WARNING",
        include_path=str(TASKS_FOLDER),
        include_defaults=args.table != "july2024",
        model_name="llava_next_video",
    )
    if args.fetch:  # while no model takes memory
        with errors_of_data():
            get_task_dict(tasks, manager)
    model = LlavaNextVideoForLmmsEval(args.checkpoint, **model_arguments(args))
    with errors_of_data():
        results = simple_evaluate(
            model=model,
            tasks=tasks,
            task_manager=manager,
            limit=args.limit,
            bootstrap_iters=0,
            # Arguments of lmms-eval's command line that its tasks and evaluator use.
            cli_args=argparse.Namespace(output_path=str(args.output), process_with_media=False, reasoning_tags=None),
            distributed_executor_backend="torchrun",
        )
    failures = {name: str(error) for name, error in model.answerer.failures.items()}
    if in_parallel:
        of_all: list = [None] * model.world_size
        torch.distributed.all_gather_object(of_all, failures)
        failures = {name: reason for of_rank in of_all for name, reason in of_rank.items()}
    return results, model.recipe, failures


@contextmanager
def errors_of_data():
    """Turn the error of lmms-eval's last try to load data into an OSError."""
    from tenacity import RetryError  # pyright: ignore[reportMissingImports]  # which lmms-eval needs

    try:
        yield
    except RetryError as error:
        reason = error.last_attempt.exception()
        raise OSError(f"lmms-eval could not load the data of a task: {type(reason).__name__}: {reason}") from error


def model_arguments(args: argparse.Namespace) -> dict:
    """Arguments of the model; for the table of July 2024 with its rule for frames, `uniform_repeated`."""
    july = args.table == "july2024" and args.frame_sampling is None and args.fps is None
    return {
        "batch_size": args.batch_size,
        "device": args.device,
        "device_map": args.device_map,
        "dtype": args.dtype,
        "attn_implementation": args.attn_implementation,
        "num_frames": args.num_frames,
        "fps": args.fps,
        "frame_sampling": "uniform_repeated" if july else args.frame_sampling,
        "journal": str(args.output / "answers"),
        "on_error": args.on_error,
        "server": args.server,
        "send_videos": args.send_videos,
    }


def write_table(args: argparse.Namespace, columns: list[Column], results: dict, recipe: dict, failures: dict[str, str]):
    """Write table.md, table.json and every sample into the output folder, and print the table."""
    from llava_next_video.evaluation.score_table import as_json, as_markdown, score_of, write_samples

    recipe = recipe | {"versions": recipe["versions"] | {"lmms-eval": version("lmms_eval")}, "limit": args.limit}
    scores = [score_of(column, results["samples"][column.task], failures) for column in columns]
    tasks = [column.task for column in columns]
    notes = [SUBSET] if any("egoschema_subset" in task for task in tasks) else []
    if "july2024_egoschema" in tasks:
        notes.append(SUBMISSION.format(args.output / "submissions" / "july2024_egoschema.json"))
    if any(score.without_option for score in scores):
        notes.append(WITHOUT_OPTION)
    if args.limit is not None:
        notes.append(f"Only the first {args.limit} questions of each task were asked: this is not a score.")
    write_samples(args.output / "samples", results["samples"])
    text = as_markdown(scores, recipe, notes)
    (args.output / "table.md").write_text(text, encoding="utf-8")
    (args.output / "table.json").write_text(as_json(scores, recipe, notes, failures), encoding="utf-8")
    print(text)
    print(f"llava-next-video: table.md, table.json and samples are in {args.output}", file=sys.stderr)
