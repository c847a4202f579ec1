"""Ask questions about many videos with a pool of pipelines on Ray: on one machine, or on all of a cluster.

    pip install "llava-next-video[ray]"
    python examples/ray_batch.py clips/ --question "What happens?" --checkpoint CHECKPOINT --out answers/
    python examples/ray_batch.py table.parquet --checkpoint CHECKPOINT --out s3://bucket/answers
    RAY_ADDRESS=auto python examples/ray_batch.py s3://bucket/clips ...

Answers are Parquet files with the columns `video`, `question`, `answer` and `error`; of the last two one is null.
Started again with the same arguments after it was interrupted, it asks what has no answer yet. Every node needs this
package, and has to see the videos, the checkpoint and the output under the same paths.

The rows are dealt in parts, each of which becomes one file. An actor takes a part, reads its videos and writes its file
by itself, so that no other process needs a processor or holds videos: nothing waits for anything but the actors.
"""

import argparse
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pyarrow.csv
import pyarrow.fs
import pyarrow.json
import pyarrow.parquet
from transformers import pipeline

import llava_next_video
from llava_next_video import ReadingLimits, VideoReadError


VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".gif")
TABLES = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".jsonl": pyarrow.json.read_json,
}
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("video", "question", "answer", "error")])
SETTINGS = "_settings.json"  # readers of Parquet folders pass over names that begin with _ or .
UNFINISHED = ".part"
FILESYSTEMS = {}  # of buckets; a plain dictionary, because Ray sends what this file defines to other processes

Row = tuple[str, str]  # a video and a question


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "videos",
        help="a folder, with its subfolders, or a bucket (s3://…, gs://…); or a table with the columns `video` and "
        "`question`: .parquet, .csv or .jsonl, in which paths count from the table's folder",
    )
    parser.add_argument("--out", required=True, help="a folder or bucket for the answers; one run at a time")
    parser.add_argument("--question", help="about every video; a table may have its own")
    parser.add_argument("--checkpoint", default=llava_next_video.DEMO_CHECKPOINT, help="default: the demonstration's")
    parser.add_argument("--dtype", default="auto", help="number format of the model (default: the checkpoint's)")
    parser.add_argument("--num-frames", type=int, help="of each video (default: the checkpoint's)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="length of an answer (default: %(default)s)")
    parser.add_argument("--actors", type=int, help="pipelines (default: as many as the GPUs allow, or processors)")
    parser.add_argument("--gpus-per-actor", type=float, help="default: 1 if the cluster has GPUs; 0.5 puts two on one")
    parser.add_argument("--batch-size", type=int, default=1, help="questions at once (default: %(default)s)")
    parser.add_argument("--rows-per-file", type=int, default=64, help="what an actor answers before it writes a file")
    args = parser.parse_args(arguments)
    for name in ("num_frames", "max_new_tokens", "actors", "batch_size", "rows_per_file"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}; it has to be 1 or more")
    return args


def filesystem_of(where: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a path or URI, and the path in it. Names in URIs stand as they are, not percent-encoded."""
    if "://" not in where:
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(where)
    root, name = split_uri(where)
    filesystem, folder = opened(root)
    return filesystem, f"{folder.rstrip('/')}/{name}".rstrip("/")


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/a/b.mp4` as `s3://bucket/` and `a/b.mp4`."""
    scheme, _, rest = uri.partition("://")
    host, _, name = rest.partition("/")
    return f"{scheme}://{host}/", name


def opened(root: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A bucket's file system and the path of its root in it; each is looked up once."""
    if root not in FILESYSTEMS:
        FILESYSTEMS[root] = pyarrow.fs.FileSystem.from_uri(root)
    return FILESYSTEMS[root]


def rows_of(videos: str, question: str | None) -> list[Row]:
    """Every video with its question, each pair once, in an order that is always the same.

    Raises:
        SystemExit: there are none, or there is no question.
    """
    ending = os.path.splitext(videos)[1].lower()
    if ending in TABLES:
        rows = rows_of_table(videos, TABLES[ending], question)
    elif question is None:
        raise SystemExit(f"What is to be asked about the videos in {videos}? Pass --question.")
    else:
        rows = [(video, question) for video in videos_in(videos)]
    if not rows:
        raise SystemExit(f"There are no videos in {videos}.")
    return sorted(set(rows))


def videos_in(folder: str) -> list[str]:
    """Paths, or URIs, of the videos in a folder and its subfolders."""
    filesystem, path = filesystem_of(folder)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    names = [info.path for info in found if info.is_file and info.path.lower().endswith(VIDEOS)]
    if "://" not in folder:
        return names
    root, _ = split_uri(folder)
    _, path_of_root = opened(root)
    return [root + name.removeprefix(path_of_root).lstrip("/") for name in names]


def rows_of_table(path: str, read_table, question: str | None) -> list[Row]:
    filesystem, inside = filesystem_of(path)
    with filesystem.open_input_file(inside) as file:
        table = read_table(file)
    wanted = ["video"] if question is not None else ["video", "question"]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise SystemExit(f"The table {path} has the columns {table.column_names}, and no {' and no '.join(missing)}.")
    if any(table[name].null_count for name in wanted):
        raise SystemExit(f"The table {path} has rows without a {' or a '.join(wanted)}. Leave them out.")
    folder = path.rpartition("/")[0] if "://" in path else os.path.dirname(os.path.abspath(path))
    videos = [video if "://" in video else os.path.join(folder, video) for video in table["video"].to_pylist()]
    questions = [question] * len(videos) if question is not None else table["question"].to_pylist()
    return list(zip(videos, questions))


def answered(out: str) -> set[Row]:
    """What has an answer, or an error, in `out`; files that were not finished are removed."""
    filesystem, folder = filesystem_of(out)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    rows = set()
    for info in found:
        if info.path.endswith(UNFINISHED):
            filesystem.delete_file(info.path)
        elif info.path.endswith(".parquet"):
            try:
                table = pyarrow.parquet.read_table(info.path, columns=["video", "question"], filesystem=filesystem)
            except pyarrow.ArrowInvalid:  # cut off, when a machine lost its power
                filesystem.delete_file(info.path)
            else:
                rows.update(zip(*(column.to_pylist() for column in table.columns)))
    return rows


def check_settings(args: argparse.Namespace, has_answers: bool):
    """Note in `out` what the answers depend on; if it has answers, compare it with what is noted there.

    Raises:
        SystemExit: the answers in `out` are another checkpoint's, or were made with other settings.
    """
    settings = {name: getattr(args, name) for name in ("checkpoint", "dtype", "num_frames", "max_new_tokens")}
    filesystem, folder = filesystem_of(args.out)
    filesystem.create_dir(folder)
    path = f"{folder}/{SETTINGS}"
    if has_answers and filesystem.get_file_info(path).is_file:
        with filesystem.open_input_file(path) as file:
            noted = json.loads(file.read())
        if noted != settings:
            raise SystemExit(f"{args.out} has answers with {noted}, not {settings}. Pass another --out.")
    with filesystem.open_output_stream(path) as file:
        file.write(json.dumps(settings).encode())


class Answerer:
    """One pipeline, in a process of its own; asked by Ray for one part after another."""

    def __init__(self, args: argparse.Namespace, gpus: float):
        where = {"device_map": "auto"} if gpus > 1 else {"device": "cuda" if gpus else "cpu"}
        self.pipe = pipeline("video-text-to-text", model=args.checkpoint, dtype=args.dtype, **where)
        frames = {} if args.num_frames is None else {"num_frames": args.num_frames}
        self.arguments = {"batch_size": args.batch_size, "max_new_tokens": args.max_new_tokens, **frames}
        self.out = args.out

    def __call__(self, part: dict) -> dict:
        """Answer and write the rows of one part. Returns how many there were, and how many errors."""
        rows = list(zip(part["videos"], part["questions"]))
        answers, errors = self.answer(rows)
        write_part(self.out, rows, answers, errors)
        return {"rows": len(rows), "errors": len(rows) - errors.count(None)}

    def answer(self, rows: list[Row]) -> tuple[list[str | None], list[str | None]]:
        """An answer or an error of each row."""
        unread = {}

        def requests() -> Iterator[dict]:
            for number, video in enumerate(fetch_ahead([video for video, _ in rows], self.arguments["batch_size"])):
                if isinstance(video, Exception):
                    unread[number] = {"generated_text": None, "error": video}
                else:
                    yield {"videos": video, "text": rows[number][1]}

        asked = iter([answer for [answer] in self.pipe(requests(), on_error="return", **self.arguments)])
        results = [unread.get(number) or next(asked) for number in range(len(rows))]
        errors = [str(result["error"]) if "error" in result else None for result in results]
        return [result["generated_text"] for result in results], errors


def fetch_ahead(videos: list[str], most: int) -> Iterator[str | bytes | Exception]:
    """The videos as the pipeline takes them: paths as they are, and of URIs the bytes, `most` of them ahead."""
    with ThreadPoolExecutor(most) as threads:
        waiting = deque()
        for video in videos:
            waiting.append(threads.submit(fetch, video))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def fetch(video: str) -> str | bytes | Exception:
    if "://" not in video:
        return video
    try:
        filesystem, path = filesystem_of(video)
        most = ReadingLimits().max_fetched_bytes
        if (filesystem.get_file_info(path).size or 0) > most:
            return VideoReadError(repr(video), f"it has more than {most} bytes; store it where all nodes see its path")
        with filesystem.open_input_file(path) as file:
            return file.read()
    except (OSError, ValueError) as error:  # pyarrow's errors
        return VideoReadError(repr(video), str(error).rstrip("."))


def write_part(out: str, rows: list[Row], answers: list[str | None], errors: list[str | None]):
    """Write one file, which is there as a whole or not at all. The same rows give the same name: should Ray ask for a
    part twice, there is still one file."""
    filesystem, folder = filesystem_of(out)
    name = hashlib.blake2b(json.dumps(rows).encode(), digest_size=10).hexdigest() + ".parquet"
    columns = [[video for video, _ in rows], [question for _, question in rows], answers, errors]
    table = pyarrow.table(columns, schema=SCHEMA)
    unfinished = f"{folder}/.{name}{UNFINISHED}"
    pyarrow.parquet.write_table(table, unfinished, filesystem=filesystem)
    filesystem.move(unfinished, f"{folder}/{name}")


def size_of_pool(args: argparse.Namespace, resources: dict[str, float], num_parts: int) -> tuple[int, float, float]:
    """How many actors, and the processors and GPUs of each: together never more than the cluster's `resources`, or Ray
    would wait for ever."""
    cpus, all_gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    gpus = args.gpus_per_actor if args.gpus_per_actor is not None else float(all_gpus > 0)
    if gpus > all_gpus:
        raise SystemExit(f"Each actor was to have {gpus:g} GPUs, but the cluster has {all_gpus:g}.")
    most = int(all_gpus / gpus) if gpus else max(1, int(cpus))
    if gpus and args.actors and args.actors > most:
        raise SystemExit(f"{args.actors} actors with {gpus:g} GPUs each are more than the cluster's {all_gpus:g} GPUs.")
    actors = min(args.actors or most, num_parts)
    return actors, min(1.0, cpus / actors), gpus


def answer_with_pool(parts: list[dict], args: argparse.Namespace) -> Iterator[dict]:
    """What an `Answerer` returns for each part, as they end."""
    import ray
    import ray.data

    ray.init()  # the cluster that RAY_ADDRESS names, or one on this machine
    actors, cpus, gpus = size_of_pool(args, ray.cluster_resources(), len(parts))
    print(f"{actors} actors with {cpus:g} processors and {gpus:g} GPUs each", flush=True)
    results = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
        Answerer,
        fn_constructor_args=(args, gpus),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    return results.iter_rows()


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    rows = rows_of(args.videos, args.question)
    done = answered(args.out)
    check_settings(args, has_answers=bool(done))
    left = [row for row in rows if row not in done]
    print(f"{len(rows)} questions, {len(rows) - len(left)} of them answered before", flush=True)
    if not left:
        return
    starts = range(0, len(left), args.rows_per_file)
    parts = [tuple(zip(*left[start : start + args.rows_per_file])) for start in starts]
    parts = [{"videos": list(videos), "questions": list(questions)} for videos, questions in parts]
    asked = failed = 0
    for result in answer_with_pool(parts, args):
        asked, failed = asked + result["rows"], failed + result["errors"]
    print(f"{asked} answered now, {failed} of them with errors; all are in {args.out}")


if __name__ == "__main__":
    main()
