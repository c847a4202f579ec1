"""Requests of lmms-eval (0.7.3, `lmms_eval/api/instance.py`) as questions.

The arguments of a request are its text, the generation's settings (or the option whose loss is wanted), a function that
returns the media of a document, the document's number, the task, and the split of the task's data.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from llava_next_video.evaluation.generation_arguments import generation_arguments
from llava_next_video.evaluation.questions import Question, as_parts, media_id


logger = logging.get_logger(__name__)


def questions_of(requests: list, documents: dict) -> list[Question | None]:
    """The question of each request; `None` for a request that only gives all ranks the same number, and has no use.

    Args:
        documents: by task, split and number.
    """
    questions, times = [], Counter()
    for request in requests:
        if request.metadata.get("__padding_only__"):
            questions.append(None)
            continue
        question = question_of(request.args, documents)
        if question.arguments.get("do_sample"):
            times[str(question.key())] += 1
            question = replace(question, occurrence=times[str(question.key())] - 1)
        questions.append(question)
    return questions


def question_of(arguments: tuple, documents: dict) -> Question:
    text, target, doc_to_visual, number, task, split = arguments
    document = documents[task][split][number]
    of_generation, option = {}, None
    if isinstance(target, dict):
        of_generation, unknown = generation_arguments(target)
        if unknown:
            logger.warning_once(f"{task} has arguments of the generation that are not used here: {sorted(unknown)}.")
    else:
        option = target if isinstance(target, str) else str(target(document))
    question = Question(task, number, text, arguments=of_generation, option=option)
    try:
        media = list(doc_to_visual(document) or []) if doc_to_visual is not None else []
        videos = tuple(part["video"] for part in as_parts(media) if isinstance(part.get("video"), str))
    except SystemExit as error:  # of a task that misses a video
        return replace(question, error=FileNotFoundError(f"{error.code}."))
    except (ValueError, TypeError, OSError) as error:
        return replace(question, error=error)
    # Pictures are loaded again when they are needed, so that not all of them are in memory.
    in_files = all(isinstance(medium, str | Path) for medium in media)
    again = (lambda: media) if in_files else (lambda: list(doc_to_visual(document)))
    return replace(question, media=again, media_id=media_id(media), videos=videos)


def refuse_rounds(requests: list):
    """Raise a NotImplementedError: what is asked next would depend on the answer."""
    raise NotImplementedError(
        f"{requests[0].task_name} asks in several rounds, which this model of lmms-eval cannot do. Leave it out."
    )
