"""Answers many questions about few media, as fast as one pipeline can, and loses none.

Questions about the same media come one after another, so that each video is read and encoded once; while a batch is
answered, a thread reads the videos of the next. Answers go into a journal. They are those of a plain pipeline that is
asked the same questions in the same batches.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from llava_next_video.evaluation.generation_arguments import up_to_stop_string
from llava_next_video.evaluation.journal import Journal
from llava_next_video.evaluation.option_losses import option_losses
from llava_next_video.evaluation.questions import Question, as_chat, batches, ordered_by_media
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline


NO_LOSS = [float("inf"), False]  # of an option about media that cannot be read
OPTIONS_AT_ONCE = 16
CANNOT_BE_USED = (ValueError, TypeError, OSError)  # what the pipeline raises at media and prompts


class Answerer:
    """Answers questions with a pipeline.

    Args:
        pipe: made by `pipeline("video-text-to-text", ...)`; its memory is made large enough for two batches.
        processor_kwargs: of every call: `num_frames`, `fps`, `frame_sampling`.
        batch_size: how many questions are answered at once.
        journal: where answers are kept, and found.
        on_error: what happens at media that are missing or damaged: "raise", or "empty", an empty answer.
        progress: called with the number of questions that were answered just now.

    Attributes:
        failures (`dict[str, Exception]`): with "empty", the names of the questions that got no answer, and why.

    Raises:
        ValueError: `on_error` or `batch_size` is something else.
    """

    def __init__(
        self,
        pipe: VideoTextToTextPipeline,
        processor_kwargs: dict,
        batch_size: int | str,
        journal: Journal,
        on_error: str = "raise",
        progress: Callable[[int], object] = lambda answered: None,
    ):
        if on_error not in ("raise", "empty"):
            raise ValueError(f"The evaluation got on_error={on_error!r}; it is 'raise' or 'empty'.")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"The evaluation got batch_size={batch_size!r}; it is a whole number from 1.")
        self.pipe, self.processor_kwargs, self.batch_size = pipe, processor_kwargs, int(batch_size)
        self.journal, self.on_error, self.progress = journal, on_error, progress
        self.failures: dict[str, Exception] = {}

    def answers(self, questions: list[Question]) -> list[str]:
        """The answers to questions, in their order.

        Raises:
            ValueError: with `on_error="raise"`, a question cannot be asked; names it.
        """
        return self.results(questions, self.answer_batch, self.batch_size, "")

    def losses(self, questions: list[Question]) -> list[tuple[float, bool]]:
        """For each question, the mean loss of its option's tokens as the answer, and whether each of them is the
        likeliest one. Raises as `answers`."""
        results = self.results(questions, self.losses_of_batch, OPTIONS_AT_ONCE, NO_LOSS)
        return [(loss, greedy) for loss, greedy in results]

    def results(self, questions: list[Question], ask: Callable[[list[Question]], list], size: int, empty) -> list:
        """What `ask` returns for each question (an exception where it cannot be asked), which may be in the journal."""
        to_ask: dict[object, Question] = {}  # equal questions are asked once
        places = [number if (key := question.key()) is None else str(key) for number, question in enumerate(questions)]
        for place, question in zip(places, questions):
            if question.key() not in self.journal:
                to_ask.setdefault(place, question)
        for question in to_ask.values():
            if question.error is not None and self.on_error == "raise":  # now, and not after hours of other questions
                self.kept(question, question.error, empty)
        self.progress(len(questions) - len(to_ask))
        in_batches = list(batches(ordered_by_media(to_ask.values()), size))
        most = max((len(videos_of(batch)) for batch in in_batches), default=0)
        self.pipe.memory.max_videos = max(self.pipe.memory.max_videos, 2 * most)  # of this batch, and of a later one
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
        """A result, which the journal now has. A question that could not be asked is asked again by the next run."""
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

    def read(self, video: str):
        """Read a video into the pipeline's memory. One that cannot be read is an error when it is asked about."""
        with suppress(*CANNOT_BE_USED):
            self.pipe.find_or_read(video, self.processor_kwargs)

    def answer_batch(self, batch: list[Question]) -> list[str | Exception]:
        chats = [chat_or_error(question) for question in batch]
        to_ask = [chat for chat in chats if not isinstance(chat, Exception)]
        arguments = {**batch[0].arguments, "on_error": "return", "return_full_text": False}
        records = iter(
            self.pipe(to_ask, batch_size=len(to_ask), processor_kwargs=self.processor_kwargs, **arguments)
            if to_ask
            else []
        )
        return [chat if isinstance(chat, Exception) else answer_of(*next(records), arguments) for chat in chats]

    def losses_of_batch(self, batch: list[Question]) -> list[list | Exception]:
        chat = chat_or_error(batch[0])
        if not isinstance(chat, Exception):
            try:
                options = [question.option for question in batch]
                return [list(result) for result in option_losses(self.pipe, chat, options, self.processor_kwargs)]
            except CANNOT_BE_USED as error:
                chat = error
        return [chat] * len(batch)


def videos_of(batch: list[Question]) -> list[str]:
    return list(dict.fromkeys(video for question in batch for video in question.videos))


def next_videos(in_batches: list[list[Question]], number: int) -> list[str]:
    """The videos of the next batch that is about others than batch `number` is."""
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


def answer_of(record: dict, arguments: dict) -> str | Exception:
    """The answer in a record of the pipeline, which ends before the first stop string."""
    if "error" in record:
        return record["error"]
    return up_to_stop_string(record["generated_text"], arguments.get("stop_strings", [])).strip()


def described_failures(failures: dict[str, Exception], most: int = 20) -> str:
    """How many questions got no answer, which ones, and why."""
    named = [f"  {name}: {error}" for name, error in list(failures.items())[:most]]
    more = [f"  and {len(failures) - most} more"] if len(failures) > most else []
    return "\n".join(
        [f"{len(failures)} questions got an empty answer, because they could not be asked:", *named, *more]
    )
