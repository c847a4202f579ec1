"""July's tasks: the prompts and the scoring of lmms-eval of July 2024, recorded from it."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from demo_model.clips import Clip, write_mp4
from llava_next_video.evaluation import july2024_prompts as prompts
from llava_next_video.evaluation import july2024_scoring as scoring
from setup import FOLDERS
from tests.evaluation.july2024_cases import LETTERS, NUM_ANSWERS, OUTPUTS, cases


BENCHMARKS = ("nextqa", "videomme", "egoschema", "perceptiontest")
PROMPTS = {name: getattr(prompts, name) for name in BENCHMARKS}
RECORDED = json.loads(OUTPUTS.read_text())
each_benchmark = pytest.mark.parametrize("benchmark", BENCHMARKS)


@each_benchmark
def test_prompts_are_those_of_july_byte_for_byte(benchmark):
    documents, _ = cases(benchmark)
    assert [PROMPTS[benchmark](document) for document in documents] == RECORDED[benchmark]["prompts"]


def is_right_in_july(benchmark: str, document: dict, outcome: str) -> bool:
    """Whether July counted an answer, in which it found this option, as right."""
    if benchmark == "videomme":
        return outcome == document["answer"]
    right = document["answer_id"] if benchmark == "perceptiontest" else document["answer"]
    return outcome in LETTERS and LETTERS.index(outcome) == int(right)


@each_benchmark
def test_scores_are_those_of_july_for_10_000_answers(benchmark):
    _, given = cases(benchmark)
    outcomes = RECORDED[benchmark]["outcomes"]
    assert len(given) == len(outcomes) == NUM_ANSWERS
    assert min(Counter(outcomes).values()) > 40  # each option, and none
    score = getattr(scoring, benchmark)
    for (document, answer), outcome in zip(given, outcomes):
        result = score(document, [answer])
        assert result["no_option_found"] == (outcome in "-?"), answer
        if outcome != "?":
            assert result["accuracy"] == is_right_in_july(benchmark, document, outcome), answer
        else:
            assert result["accuracy"] == (scoring.guess(document) == document["answer"])


def test_prompts_as_they_are_written_in_the_documentation():
    nextqa = {"question": " why did he stop ", "a0": "tired ", "a1": "b", "a2": "c", "a3": "d", "a4": "e"}
    assert prompts.nextqa(nextqa) == "why did he stop\nA. tired\nB. b\nC. c\nD. d\nE. e"
    videomme = {"question": "What?", "options": ["A. One.", "B. It's.", "C. x", "D. y"], "videoID": "v"}
    assert prompts.videomme(videomme) == (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\nWhat?\n"
        "['A. One.', \"B. It's.\", 'C. x', 'D. y']\nThe best answer is:"
    )
    egoschema = {"question": "What?", "option": ["A. One.", "B. Two."]}
    assert prompts.egoschema(egoschema) == (
        "What?\nA. One.\nB. Two.\nAnswer with the option's letter from the given choices directly."
    )
    perceptiontest = {"question": "What?", "options": ["one", "two", "three", "four"]}
    assert prompts.perceptiontest(perceptiontest) == (
        "What?\nA. one\nB. two\nC. three\nC. four\nAnswer with the option's letter from the given choices directly."
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A clip of 3 seconds under the names that the benchmarks look for, and a place for its subtitles."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    clip = Clip.from_seed(3, num_shapes=1, moves=True, clear=True)
    (tmp_path / "videomme" / "subtitle").mkdir(parents=True)
    places = (
        "videomme/data/v.mp4",
        "nextqa/NExTVideo/7.mp4",
        "egoschema/videos/e.MP4",
        "perceptiontest_val/videos/p.mkv",
    )
    for place in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        write_mp4(clip, f"{path}.mp4")
        Path(f"{path}.mp4").rename(path)
    return tmp_path


VIDEOMME = {"question": "What?", "options": ["A. One."], "videoID": "v"}


def marked(text: str) -> str:
    return f'<font color="white" size=".72c">{text}</font>'


def test_subtitles_are_those_at_32_frames_each_once(home):
    cues = [
        ("00:00:00,000 --> 00:00:00,500", marked("first")),
        ("00:00:00,500 --> 00:00:01,000", "without marks"),
        ("00:00:00,500 --> 00:00:01,000", f"{marked('replaces it')}\nnext line {marked('not this')}"),
        ("00:00:01,000 --> 00:00:01,001", marked("too short for a frame")),
        ("01:00:00,000 --> 01:00:09,000", marked("after the end")),
    ]
    file = home / "videomme" / "subtitle" / "v.srt"
    file.write_text(
        "\n\n".join(f"{number}\n{clock}\n{text}" for number, (clock, text) in enumerate(cues)) + "\n\n\nbroken"
    )
    assert prompts.videomme_with_subtitles(VIDEOMME) == (
        f"This video's subtitles are listed below: \nfirst\nreplaces it\n{prompts.videomme(VIDEOMME)}"
    )
    file.write_text("")
    assert prompts.videomme_with_subtitles(VIDEOMME).startswith("This video's subtitles are listed below: \n\nSelect")
    file.unlink()
    assert "below: \nNo subtitles available\nSelect" in prompts.videomme_with_subtitles(VIDEOMME)


def test_videos_are_found_where_lmms_eval_unpacks_them(home):
    assert prompts.videomme_video({"videoID": "v"}) == [str(home / "videomme/data/v.mp4")]
    assert prompts.nextqa_video({"video": 7}) == [str(home / "nextqa/NExTVideo/7.mp4")]
    assert prompts.egoschema_video({"video_idx": "e"}) == [str(home / "egoschema/videos/e.MP4")]
    assert prompts.perceptiontest_video({"video_name": "p"}) == [str(home / "perceptiontest_val/videos/p.mkv")]
    with pytest.raises(FileNotFoundError, match=r"There is no video .*none.mp4. Fetch the data set's videos"):
        prompts.egoschema_video({"video_idx": "none"})


def test_guesses_depend_on_the_question_alone_and_reach_every_option():
    documents = [{"video": number // 3, "qid": number % 3, "question": "What?"} for number in range(200)]
    guesses = [scoring.guess(document) for document in documents]
    assert guesses == [scoring.guess(document) for document in documents]
    assert set(guesses) == set(range(5))


def test_options_without_a_letter_or_a_text():
    """As July's function answers; the real options have both."""
    options = {"option": ["A.", "B. Two.", "Two."]}
    answers = ("A", "A.", "B", "Two.", "B. Two.", "Two", "")
    assert [scoring.egoschema_option(options, answer) for answer in answers] == [0, 0, 1, 2, 1, 2, -1]


def test_a_submission_is_a_file(tmp_path):
    document = {"video_idx": "e", "option": ["A. One.", "B. Two."], "answer": None}
    results = [scoring.egoschema_submission(document | {"video_idx": name}, [name]) for name in ("A", "B", "x")]
    assert [result["no_option_found"] for result in results] == [0, 0, 1]
    submissions = [result["submission"] for result in results]
    assert scoring.write_submission(submissions, SimpleNamespace(output_path=str(tmp_path))) == 2
    written = json.loads((tmp_path / "submissions" / "july2024_egoschema.json").read_text())
    assert written == {"A": 0, "B": 1, "x": -1}


def test_tasks_name_functions_that_exist():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node).split("."))
    folder = OUTPUTS.parents[2] / FOLDERS["llava_next_video.evaluation"]
    modules = {"july2024_prompts": prompts, "july2024_scoring": scoring}
    tasks = {path.stem: yaml.load(path.read_text(), Loader) for path in folder.glob("*.yaml")}
    assert len(tasks) == 6
    for name, task in tasks.items():
        assert (task["task"], task["tag"]) == (name, "july2024")
        functions = [task[key] for key in ("doc_to_visual", "doc_to_text", "process_results")]
        functions += [
            metric["aggregation"] for metric in task["metric_list"] if isinstance(metric["aggregation"], list)
        ]
        for module, function in functions:
            assert callable(getattr(modules[module], function))
