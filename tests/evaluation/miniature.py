"""Data sets of the table's benchmarks in miniature, from synthetic clips, where lmms-eval looks for the real ones:
`python -m tests.evaluation.miniature HF_HOME`. It needs the library `datasets`.

Rows have the columns of the real data sets. `datasets` finds them offline in
HF_HOME/datasets/OWNER___NAME/CONFIGURATION/0.0.0/HASH; the videos lie in HF_HOME, each benchmark's in its own folders.
"""

import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from demo_model.clip_writing import write_clip
from demo_model.clips import COLOURS, DIRECTIONS, SHAPES, Clip, write_mp4


LETTERS = "ABCDE"
SEEDS = (3, 11, 25)  # of clips with one shape
VIDEO_FOLDERS = ("videomme/data", "nextqa/NExTVideo", "egoschema/videos", "perceptiontest_val/videos")
NEVER = ("It sings.", "It reads a book.", "It is asleep.")
# What real rows have, and a careless format would change.
UNUSUAL = ("  \"What\" moves — 'it'?\tOr é, 日本, 🎬 ", "A line\nbreak,  and\u2028another: which {way}? [A] %s \\n ")


def choices(values, right: str, count: int, rng: random.Random) -> tuple[list[str], int]:
    """`count` different values in a random order, and where the right one stands."""
    chosen = [right, *rng.sample([value for value in values if value != right], count - 1)]
    rng.shuffle(chosen)
    return chosen, chosen.index(right)


def unusual(clip: Clip) -> str:
    return UNUSUAL[clip.seed // 2 % len(UNUSUAL)]


def asked(clip: Clip, count: int, rng: random.Random) -> list[tuple[str, list[str], int]]:
    """Questions about a clip: the question, `count` sentences as options, the number of the right one. The last
    question is in unusual characters."""
    [mover] = clip.movers
    facts = (
        (f"Which way does the {mover.shape} move?", f"The {mover.shape} moves {{}}.", DIRECTIONS, mover.direction),
        ("What shape is moving?", "It is a {}.", SHAPES, mover.shape),
        (unusual(clip), f"The {mover.shape} is {{}}.", COLOURS, mover.colour),
    )
    result = []
    for question, sentence, values, right in facts:
        values = [*values, "nothing"] if len(values) < count else list(values)
        options, number = choices(values, right, count, rng)
        result.append((question, [sentence.format(option) for option in options], number))
    return result


def asked_about_order(clip: Clip, count: int, rng: random.Random) -> list[tuple[str, list[str], int]]:
    """One question that only the order of the frames answers: forwards or backwards? The first two options are its
    directions; NExT-QA, which has always five, gets more that nobody would choose."""
    [mover] = clip.movers
    axis = ("left", "right") if mover.direction in ("left", "right") else ("up", "down")
    options, number = choices(axis, mover.direction, 2, rng)
    sentences = [f"The {mover.shape} moves {option}." for option in options]
    return [(f"Which way does the {mover.shape} move?", sentences + list(NEVER)[: 3 * (count == 5)], number)]


def with_every_second_pair_swapped(ask: Callable) -> Callable:
    """As `ask`, but about every second clip the first two options change places, and the answer does not."""

    def wrongly_asked(clip: Clip, count: int, rng: random.Random):
        questions = ask(clip, count, rng)
        if clip.seed % 2:
            return questions
        return [(question, [second, first, *more], right) for question, [first, second, *more], right in questions]

    return wrongly_asked


def tables(clips: dict[str, Clip], ask: Callable = asked) -> dict[tuple[str, str, str], list[dict]]:
    """The rows of each data set, configuration and split; `ask` makes the questions about a clip, as `asked` does."""
    rng = random.Random(0)
    nextqa, videomme, egoschema, perception = [], [], [], []
    for name, clip in clips.items():
        for number, (question, options, right) in enumerate(ask(clip, 5, rng)):
            size = {"frame_count": clip.num_frames, "width": clip.width, "height": clip.height}
            row = {"video": name, **size, "question": question, "answer": right, "qid": str(number), "type": "CW"}
            nextqa.append(row | {f"a{place}": f" {option} " for place, option in enumerate(options)})
        for number, (question, options, right) in enumerate(ask(clip, 4, rng)):
            kinds = {
                "duration": "short",
                "domain": "Knowledge",
                "sub_category": "Geography",
                "task_type": "OCR Problems",
            }
            row = {"video_id": name, **kinds, "url": "", "videoID": name, "question_id": f"{name}-{number}"}
            lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
            lettered[0] += ' It\'s "so".' * (number == 1)
            videomme.append(row | {"question": question, "options": lettered, "answer": LETTERS[right]})
        question, options, right = ask(clip, 5, rng)[0]
        options = [unusual(clip) if "nothing" in option else option for option in options]
        lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options) if option not in NEVER]
        row = {"question_idx": name, "question": question, "video_idx": name, "option": lettered}
        egoschema.append(row | {"answer": str(right)})
        for number, (question, options, right) in enumerate(ask(clip, 3, rng)):
            kinds = {"area": "Physics", "reasoning": "descriptive", "tag": ["motion"]}
            row = {"video_name": name, "question": question, "question_id": str(number), "options": options}
            perception.append(row | {"answer_id": str(right), **kinds})
    without_answers = [row | {"answer": None} for row in egoschema]
    return {
        ("NExTQA", "MC", "test"): nextqa,
        ("Video-MME", "videomme", "test"): videomme,
        ("egoschema", "GENERATION", "test"): without_answers,
        ("egoschema", "Subset", "test"): egoschema[: max(2, len(egoschema) - 1)],
        ("PerceptionTest_Val", "mc_question_val", "validation"): perception,
    }


def subtitles(clip: Clip) -> str:
    """Subtitles (.srt): three cues, as those of Video-MME are marked, and one without marks."""
    third = clip.num_frames / clip.fps / 3
    cues = [f'<font color="white" size=".72c">Word {number}</font>' for number in range(3)]
    moments = [(number * third, (number + 1) * third) for number in range(3)]
    lines = [(start, end, cue) for (start, end), cue in zip(moments, cues)] + [(0, third / 2, "no marks")]
    return "\n\n".join(
        f"{number}\n{clock(start)} --> {clock(end)}\n{cue}" for number, (start, end, cue) in enumerate(lines, start=1)
    )


def clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    return f"00:00:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def write_table(home: Path, name: str, configuration: str, split: str, rows: list[dict]):
    """Write rows as `datasets` keeps a prepared data set."""
    from datasets import Dataset, DatasetInfo, Features, Value
    from datasets.arrow_writer import ArrowWriter
    from datasets.naming import camelcase_to_snakecase
    from datasets.splits import SplitDict, SplitInfo

    of_rows = Dataset.from_list(rows).features
    features = Features({key: Value("string") if kind == Value("null") else kind for key, kind in of_rows.items()})
    in_files = camelcase_to_snakecase(name)
    folder = home / "datasets" / f"lmms-eval___{in_files}" / configuration / "0.0.0" / "miniature"
    folder.mkdir(parents=True, exist_ok=True)
    with ArrowWriter(path=str(folder / f"{in_files}-{split}.arrow"), features=features) as writer:
        for row in rows:
            writer.write(row)
        num_examples, num_bytes = writer.finalize()
    splits = SplitDict({split: SplitInfo(split, num_bytes, num_examples, dataset_name=in_files)})
    DatasetInfo(
        features=features, splits=splits, dataset_name=in_files, config_name=configuration, version="0.0.0"
    ).write_to_directory(str(folder))


def clips_of(seeds: Sequence[int]) -> dict[str, Clip]:
    return {f"clip{seed}": Clip.from_seed(seed, num_shapes=1, moves=True, clear=True) for seed in seeds}


def write_videos(home: Path, clips: dict[str, Clip], shuffled: bool = False):
    """Write the clips into every benchmark's folder, and subtitles for all but the last. The frames of `shuffled` ones
    are in a random order."""
    for folder in (*VIDEO_FOLDERS, "videomme/subtitle"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for name, clip in clips.items():
        first, *others = [home / folder / f"{name}.mp4" for folder in VIDEO_FOLDERS]
        if shuffled:
            order = random.Random(clip.seed).sample(range(clip.num_frames), clip.num_frames)
            write_clip(first, clip.render(order), clip.fps, options={"crf": "20"})
        else:
            write_mp4(clip, first)
        for path in others:
            shutil.copyfile(first, path)
    for name, clip in list(clips.items())[:-1]:
        (home / "videomme" / "subtitle" / f"{name}.srt").write_text(subtitles(clip))


def write_miniature(home: Path, seeds: Sequence[int] = SEEDS, ask: Callable = asked, shuffled: bool = False):
    """Write all data sets, about the clips of these seeds; `ask` and `shuffled` as above."""
    clips = clips_of(seeds)
    write_videos(home, clips, shuffled)
    for (name, configuration, split), rows in tables(clips, ask).items():
        write_table(home, name, configuration, split, rows)


if __name__ == "__main__":
    write_miniature(Path(sys.argv[1]))
