"""Asks many questions about few media, and loses no answer.

Questions about the same media are asked one after another. While a batch is answered, a thread prepares the videos of
the next one. Answers go into a journal.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from llava_next_video.evaluation.journal import Journal
from llava_next_video.evaluation.questions import Question, as_chat, batches, ordered_by_media


NO_LOSS = [float("inf"), False]  # for an option about media that cannot be read
OPTIONS_AT_ONCE = 16
CANNOT_BE_USED = (ValueError, TypeError, OSError)  # errors of media and prompts


class Answerer(ABC):
    """Answers questions, by a pipeline or a server (the subclasses).

    Args:
        batch_size: how many questions are answered at once.
        journal: keeps answers, and has those of earlier runs.
        on_error: for media that are missing or damaged: "raise", or "empty" for an empty answer.
        progress: called with the number of questions that were just answered; and once, before anything is asked, with
            the number of those in the journal and `in_journal=True`.

    Attributes:
        failures (`dict[str, Exception]`): with "empty", the names of the questions without an answer, and the errors.

    Raises:
        ValueError: `on_error` or `batch_size` is impossible.
    """

    def __init__(
        self,
        batch_size: int | str,
        journal: Journal,
        on_error: str = "raise",
        progress: Callable[..., object] = lambda answered, in_journal=False: None,
    ):
        if on_error not in ("raise", "empty"):
            raise ValueError(f"The evaluation got on_error={on_error!r}; it is 'raise' or 'empty'.")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"The evaluation got batch_size={batch_size!r}; it is a whole number from 1.")
        self.batch_size = int(batch_size)
        self.journal, self.on_error, self.progress = journal, on_error, progress
        self.failures: dict[str, Exception] = {}

    def answers(self, questions: list[Question]) -> list[str]:
        """The answers to questions, in their order.

        Raises:
            ValueError: with `on_error="raise"`, a question cannot be asked; names it.
        """
        return self.results(questions, self.answer_batch, self.batch_size, "")

    def losses(self, questions: list[Question]) -> list[tuple[float, bool]]:
        """For each question, the mean loss of its option's tokens as the answer, and whether each token is the
        likeliest one. Raises as `answers`."""
        results = self.results(questions, self.losses_of_batch, OPTIONS_AT_ONCE, NO_LOSS)
        return [(loss, greedy) for loss, greedy in results]

    def results(self, questions: list[Question], ask: Callable[[list[Question]], list], size: int, empty) -> list:
        """The result of each question, from the journal or from `ask`, which returns an exception for a question that
        cannot be asked; `empty` is the result then."""
        to_ask: dict[object, Question] = {}  # equal questions are asked once
        places = [number if (key := question.key()) is None else str(key) for number, question in enumerate(questions)]
        for place, question in zip(places, questions):
            if question.key() not in self.journal:
                to_ask.setdefault(place, question)
        for question in to_ask.values():
            if question.error is not None and self.on_error == "raise":  # now, not after hours of other questions
                self.kept(question, question.error, empty)
        self.progress(len(questions) - len(to_ask), in_journal=True)
        in_batches = list(batches(ordered_by_media(to_ask.values()), size))
        self.make_room(max((len(videos_of(batch)) for batch in in_batches), default=0))
        asked: dict[int, object] = {}  # by the question's identity
        with ThreadPoolExecutor(1) as reader:
            being_read: dict[str, Future] = {}
            for number, batch in enumerate(in_batches):
                for video in videos_of(batch):
                    if video in being_read:
                        being_read[video].result()
                for video in next_videos(in_batches, number):
                    if video not in being_read:
                        being_read[video] = reader.submit(self.read, video)
                for question, result in zip(batch, ask(batch)):
                    asked[id(question)] = self.kept(question, result, empty)
                self.progress(len(batch))
        return [
            asked[id(to_ask[place])] if place in to_ask else self.journal[question.key()]
            for place, question in zip(places, questions)
        ]

    def kept(self, question: Question, result, empty):
        """Write a result into the journal and return it. A question that could not be asked is asked again in the next
        run."""
        if not isinstance(result, Exception):
            self.journal.write(question.key(), question.name, result)
            return result
        if self.on_error == "raise":
            raise ValueError(
                f"{question.name}, could not be asked: {result} Repair that and run again; answers so far are in the "
                "journal, if there is one. Or pass on_error=empty, which counts an empty answer."
            ) from result
        self.failures[question.name] = result
        return empty

    @abstractmethod
    def make_room(self, most_videos: int):
        """Called before anything is asked, with the largest number of videos in a batch."""

    @abstractmethod
    def read(self, video: str):
        """Prepare a video while other questions are answered. Errors are ignored; they come again with the question."""

    @abstractmethod
    def answer_batch(self, batch: list[Question]) -> list[str | Exception]:
        """The answers to questions that fit together, with an exception for each that cannot be asked."""

    @abstractmethod
    def losses_of_batch(self, batch: list[Question]) -> list[list | Exception]:
        """For each option of one question, the mean loss of its tokens, and whether each token is the likeliest."""


def videos_of(batch: list[Question]) -> list[str]:
    return list(dict.fromkeys(video for question in batch for video in question.videos))


def next_videos(in_batches: list[list[Question]], number: int) -> list[str]:
    """The videos of the next batch that is about other videos than batch `number`."""
    here = set(videos_of(in_batches[number]))
    for later in range(number + 1, len(in_batches)):
        if others := [video for video in videos_of(in_batches[later]) if video not in here]:
            return others
    return []


def chat_or_error(question: Question) -> list[dict] | Exception:
    try:
        return as_chat(question) if question.error is None else question.error
    except CANNOT_BE_USED as error:
        return error


def described_failures(failures: dict[str, Exception], most: int = 20) -> str:
    """The number of questions without an answer, their names, and the reasons."""
    named = [f"  {name}: {error}" for name, error in list(failures.items())[:most]]
    more = [f"  and {len(failures) - most} more"] if len(failures) > most else []
    return "\n".join(
        [f"{len(failures)} questions got an empty answer, because they could not be asked:", *named, *more]
    )
