"""Questions that a pipeline answers as fast as it can: each video is read and encoded once, and read during questions
about the one before. The answers are those of a plain pipeline with the same questions in the same batches.
"""

from contextlib import suppress

from llava_next_video.evaluation.answering import CANNOT_BE_USED, Answerer, chat_or_error
from llava_next_video.evaluation.generation_arguments import up_to_stop_string
from llava_next_video.evaluation.option_losses import option_losses
from llava_next_video.evaluation.questions import Question
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline


class PipelineAnswerer(Answerer):
    """Asks a pipeline.

    Args:
        pipe: made by `pipeline("video-text-to-text", ...)`; its memory is made large enough for three batches.
        processor_kwargs: for every call: `num_frames`, `fps`, `frame_sampling`.
        kwargs: of `Answerer`.
    """

    def __init__(self, pipe: VideoTextToTextPipeline, processor_kwargs: dict, **kwargs):
        super().__init__(**kwargs)
        self.pipe, self.processor_kwargs = pipe, processor_kwargs

    def make_room(self, most_videos: int):
        """Have the pipeline remember the videos of the batch before, this one and the next."""
        self.pipe.memory.max_videos = max(self.pipe.memory.max_videos, 3 * most_videos)

    def read(self, video: str):
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


def answer_of(record: dict, arguments: dict) -> str | Exception:
    """The answer in a record of the pipeline, up to the first stop string."""
    if "error" in record:
        return record["error"]
    return up_to_stop_string(record["generated_text"], arguments.get("stop_strings", [])).strip()
