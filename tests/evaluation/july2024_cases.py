"""Documents and answers that July's prompts and scoring are compared on, drawn from a seed; the outputs of lmms-eval of
July 2024 for them are in `july2024_outputs.json`. To record them again, from a checkout at commit c1993642:

`python -m tests.evaluation.july2024_cases CHECKOUT`
"""

import ast
import json
import random
import re
import sys
from pathlib import Path


OUTPUTS = Path(__file__).with_name("july2024_outputs.json")
NUM_ANSWERS = 10_000
LETTERS = "ABCDE"
WORDS = (
    "the man", "A", "B.", "(C)", "D ", "E", "dog runs", "C is near", "NASA", "é日本🎬", "it's", '"so"', "Because",
    "and then", "washes a car", "a, b", "left.", "Up!", "none", "\n", "The best answer is", "picks C up", "A. ",
    "one", "two words",
)  # fmt: skip
FRAMES = (
    "{}",
    "({})",
    "{}.",
    "{}:",
    " {} ",
    "{}, {}",
    "Answer: {}",
    "The answer is {}.",
    "The best answer is {}",
    "{} {}",
)


def text(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def documents(benchmark: str, rng: random.Random, count: int = 40) -> list[dict]:
    found = []
    for number in range(count):
        options = [text(rng, 1, 4) for _ in range(5)]
        name, question = f"v{number}", text(rng, 1, 8)
        if benchmark == "nextqa":
            row = {"video": name, "qid": str(number), "question": question, "answer": rng.randrange(5)}
            found.append(row | {f"a{place}": option for place, option in enumerate(options)})
        elif benchmark == "videomme":
            lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options[:4])]
            row = {"videoID": name, "question_id": str(number), "question": question, "options": lettered}
            kinds = {"duration": "short", "domain": "d", "sub_category": "s", "task_type": "t"}
            found.append(row | kinds | {"answer": rng.choice("ABCD")})
        elif benchmark == "egoschema":
            ends = [rng.choice(("", ".", ". More.")) for _ in options]
            lettered = [f"{letter}. {option}{end}" for letter, option, end in zip(LETTERS, options, ends)]
            row = {"video_idx": name, "question": question, "option": lettered}
            found.append(row | {"answer": str(rng.randrange(5))})
        else:
            row = {"video_name": name, "question_id": str(number), "question": question, "options": options[:3]}
            found.append(row | {"answer_id": str(rng.randrange(3)), "area": "", "reasoning": "", "tag": []})
    return found


def options_of(document: dict) -> list[str]:
    return document.get("options") or document.get("option") or [document[f"a{place}"] for place in range(5)]


def answers(benchmark: str, docs: list[dict], rng: random.Random) -> list[tuple[dict, str]]:
    """Answers as models give them: a letter in some frame, an option or a part of one, prose, nothing."""
    found = []
    for _ in range(NUM_ANSWERS):
        document = rng.choice(docs)
        option = rng.choice(options_of(document))
        kind = rng.randrange(5)
        if kind == 0:
            frame = rng.choice(FRAMES)
            answer = frame.format(*rng.choices(LETTERS + "abF", k=frame.count("{}")))
        elif kind == 1:
            answer = option + rng.choice(("", ".", " "))
        elif kind == 2:
            answer = re.sub(r"^[A-E]\. ", "", option) + rng.choice(("", "."))
        elif kind == 3:
            answer = f"{text(rng, 0, 5)} {option.lower()} {text(rng, 0, 5)}"
        else:
            answer = text(rng, 0, 9)
        found.append((document, answer.strip()))
    return found


def cases(benchmark: str) -> tuple[list[dict], list[tuple[dict, str]]]:
    rng = random.Random(benchmark)
    docs = documents(benchmark, rng)
    return docs, answers(benchmark, docs, rng)


# --- recording ---

PLACES = {
    "nextqa": ("nextqa/utils.py", "nextqa_doc_to_text_mc"),
    "videomme": ("videomme/utils.py", "videomme_doc_to_text"),
    "egoschema": ("egoschema/utils.py", "egoschema_doc_to_text"),
    "perceptiontest": ("perceptiontest/val/utils.py", "perceptiontest_val_doc_to_text"),
}


class Guessed(Exception):
    pass


def functions_of(path: Path) -> dict:
    """The functions in a file, and its constants, without what it imports and reads."""
    import numpy

    def no_choice(values):
        raise Guessed

    kept = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.Assign) and ast.unparse(node).startswith("OPTIONS"))
    ]
    namespace = {"re": re, "np": numpy, "random": type("Random", (), {"choice": staticmethod(no_choice)})}
    exec(compile(ast.Module(kept, type_ignores=[]), str(path), "exec"), namespace)
    return namespace


def outcome(benchmark: str, functions: dict, document: dict, answer: str) -> str:
    """One character: the option that July found, `-` for none, `?` for a guess."""
    if benchmark == "nextqa":
        texts, letters = functions["get_multi_choice_info"](document)
        try:
            return functions["parse_multi_choice_response"](answer, letters, texts)
        except Guessed:
            return "?"
    if benchmark == "videomme":
        return functions["extract_characters_regex"](answer) or "-"
    if benchmark == "egoschema":
        number = functions["egoschema_process_results_generation"](document, [answer])["score"]["pred"]
    else:
        number = functions["perceptiontest_val_process_results_mc"](document, [answer])["accuracy"]["pred_id"]
    return "-" if number == -1 else LETTERS[number]


def record(checkout: Path):
    recorded = {}
    for benchmark, (place, prompt) in PLACES.items():
        functions = functions_of(checkout / "lmms_eval" / "tasks" / place)
        docs, given = cases(benchmark)
        recorded[benchmark] = {
            "prompts": [functions[prompt](document) for document in docs],
            "outcomes": "".join(outcome(benchmark, functions, *case) for case in given),
        }
    OUTPUTS.write_text(json.dumps(recorded, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
