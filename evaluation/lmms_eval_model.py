"""The model `llava_next_video` of lmms-eval. It is imported by lmms-eval, which finds it through `lmms_eval_entry.py`.

`lmms-eval eval --model llava_next_video --model_args pretrained=FOLDER --tasks ...`
"""

from functools import partial

import torch
from lmms_eval.api.instance import GenerationResult  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from loguru import logger  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from llava_next_video.evaluation.answering import NO_LOSS, described_failures
from llava_next_video.evaluation.journal import Journal
from llava_next_video.evaluation.lmms_eval_requests import questions_of, refuse_rounds
from llava_next_video.evaluation.loading import load_pipeline, rank_and_world_size, recipe_of, refuse_with_server
from llava_next_video.evaluation.pipeline_answering import PipelineAnswerer
from llava_next_video.evaluation.server_answering import Server, ServerAnswerer


class LlavaNextVideoForLmmsEval(lmms):
    """A checkpoint as a model of lmms-eval.

    Args:
        pretrained: folder or Hub id of a checkpoint, which is used with its own recipe; with `server`, its name there.
        batch_size: how many questions are answered at once.
        device, device_map, dtype, attn_implementation: as for `load_pipeline`.
        num_frames, fps, frame_sampling: which frames are read, in place of the checkpoint's rule.
        journal: folder for answers; a run that was stopped continues with them.
        on_error: for media that are missing or damaged: "raise", or "empty" for an empty answer.
        server: address of a server that has the checkpoint, as in "http://localhost:8000/v1"; nothing is loaded here.
        send_videos: send it the contents of videos, not their paths.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        frame_sampling: str | None = None,
        journal: str | None = None,
        on_error: str = "raise",
        server: str | None = None,
        send_videos: bool = False,
    ):
        super().__init__()
        self._rank, self._world_size = rank_and_world_size()
        frames = {"num_frames": num_frames, "fps": fps, "frame_sampling": frame_sampling}
        frames = {name: value for name, value in frames.items() if value is not None}
        if server is None:
            pipe = load_pipeline(pretrained, device, device_map, dtype, attn_implementation)
            self.recipe, self.device_of_results = recipe_of(pipe, pretrained, frames), pipe.device
            answerer = partial(PipelineAnswerer, pipe, frames)
        else:
            refuse_with_server(
                device=device, device_map=device_map, dtype=dtype, attn_implementation=attn_implementation
            )
            asked = Server(server, pretrained, frames, send_videos)
            self.recipe, self.device_of_results = asked.recipe(), torch.device("cpu")
            answerer = partial(ServerAnswerer, asked)
        kept = Journal(journal, self.recipe, self._rank)
        self.answerer = answerer(batch_size=batch_size, journal=kept, on_error=on_error)

    @property
    def device(self):
        return self.device_of_results

    def generate_until(self, requests: list) -> list[str]:
        """The answers to requests, in their order."""
        return self.ask(requests, self.answerer.answers, "")

    def loglikelihood(self, requests: list) -> list[GenerationResult]:
        """For each request the mean loss of its option's tokens, and whether they are the likeliest ones. They are
        wrapped, because lmms-eval would turn a bare pair into text."""
        results = self.ask(requests, self.answerer.losses, tuple(NO_LOSS))
        return [GenerationResult(text=result) for result in results]

    def generate_until_multi_round(self, requests: list) -> list[str]:
        """Tasks of several rounds are not supported."""
        return refuse_rounds(requests)

    def ask(self, requests: list, answer, empty) -> list:
        questions = questions_of(requests, self.task_dict)
        asked = [question for question in questions if question is not None]
        with tqdm(total=len(asked), desc="Questions", disable=self.rank != 0) as bar:
            self.answerer.progress = partial(advance, bar)
            results = iter(answer(asked))
        if self.answerer.failures:
            logger.warning(described_failures(self.answerer.failures))
        return [empty if question is None else next(results) for question in questions]


def advance(bar: tqdm, questions: int, in_journal: bool = False):
    """Show questions as answered. Those in the journal do not count for the time that is left."""
    if in_journal:
        bar.initial = questions
    bar.update(questions)
