"""Generation settings of lmms-eval's tasks as arguments of `generate`, and the end of an answer."""

from transformers import GenerationConfig


LONGEST_ANSWER = 1024  # tokens, if a task sets no limit; as in lmms-eval's own models for LLaVA
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def generation_arguments(of_task: dict) -> tuple[dict, set[str]]:
    """Arguments of `generate`, and the names of settings that it does not have.

    A task samples if it says so (`do_sample`) or has a temperature above 0; otherwise settings for sampling are left
    out. `until` becomes `stop_strings`.

    >>> generation_arguments({"until": ["\\n\\n"], "temperature": 0, "top_p": 1.0, "max_new_tokens": 16})[0]
    {'max_new_tokens': 16, 'do_sample': False, 'stop_strings': ['\\n\\n']}
    """
    given = {name: value for name, value in of_task.items() if value is not None}
    stops = given.pop("until", [])
    stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]
    do_sample = bool(given.pop("do_sample", given.get("temperature", 0) > 0))
    known = set(GenerationConfig._get_default_generation_params()) | set(vars(GenerationConfig()))
    unknown = given.keys() - known
    result = {"max_new_tokens": LONGEST_ANSWER}
    result |= {name: value for name, value in given.items() if name in known and (do_sample or name not in SAMPLING)}
    result["do_sample"] = do_sample
    if stops:
        result["stop_strings"] = stops
    return result, unknown


def up_to_stop_string(answer: str, stops: list[str]) -> str:
    """An answer up to the first stop string in it.

    >>> up_to_stop_string("B\\n\\nBecause", ["\\n\\n"])
    'B'
    """
    return answer[: min((answer.find(stop) for stop in stops if stop in answer), default=len(answer))]
