"""Answers for the page in the browser: streamed, stopped when the visitor leaves, with the seconds of each step."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import StoppingCriteriaList, TextIteratorStreamer

from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.modeling.model_inputs import context_length
from llava_next_video.serving.client_left import ClientLeft


MODEL_IN_USE = threading.Lock()  # one answer is computed at a time


@dataclass
class Seconds:
    """The time of each step of an answer, in seconds.

    Args:
        reading: of the video and the prompt.
        encoding: of the video; None if it was encoded for an earlier question.
        first_token: from then to the first token of the answer.
        others: from then to the last token.
        num_tokens: of the answer.
    """

    reading: float = 0.0
    encoding: float | None = None
    first_token: float = 0.0
    others: float = 0.0
    num_tokens: int = 0

    def __str__(self) -> str:
        encoding = "video encoded before" if self.encoding is None else f"video encoded in {self.encoding:.2f} s"
        tokens = "1 token" if self.num_tokens == 1 else f"{self.num_tokens} tokens"
        return (
            f"Prompt ready in {self.reading:.2f} s · {encoding} · first token after {self.first_token:.2f} s · "
            f"{tokens} in {self.first_token + self.others:.2f} s"
        )


class TimedStreamer(TextIteratorStreamer):
    """Passes on the text of an answer, counts its tokens, and remembers when the first and the last came."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.num_tokens, self.first, self.last = 0, None, None

    def put(self, value: torch.Tensor):
        if not self.next_tokens_are_prompt:
            self.num_tokens, self.last = self.num_tokens + 1, time.monotonic()
            self.first = self.first or self.last
        super().put(value)


class Answer:
    """One answer that is being generated. Iterating computes it in a thread of its own, and yields the text so far.

    Generation ends at the next token when the iteration stops, or `stop` is called. Reading and encoding a video are
    not interrupted.

    Args:
        messages: the chat, which ends in a question; its videos are paths.
        sampling: arguments of the processor, such as `num_frames`.
        generation: arguments of `generate`, `max_new_tokens` among them.
    """

    def __init__(self, pipe: VideoTextToTextPipeline, messages: list[dict], sampling: dict, generation: dict):
        self.pipe, self.messages, self.sampling, self.generation = pipe, messages, sampling, generation
        self.streamer, self.client, self.seconds = TimedStreamer(pipe.tokenizer), ClientLeft(), Seconds()
        self.text, self.error = "", None
        self.thread = threading.Thread(target=self.run, name="web-answer", daemon=True)

    def stop(self):
        self.client.left.set()

    @property
    def was_stopped(self) -> bool:
        return self.client.left.is_set()

    def __iter__(self) -> Iterator[str]:
        """Raises the error of the thread: `VideoReadError`, `ValueError`, or one of the model's."""
        self.thread.start()
        text = ""
        try:
            for piece in self.streamer:
                text += piece
                yield text.strip()
        except GeneratorExit:
            self.stop()  # without waiting for the thread: this may run in the server's event loop
            raise
        self.thread.join()
        if self.error is not None:
            raise self.error
        yield self.text

    def run(self):
        try:
            self.compute()
        except Exception as error:
            self.error = error
        finally:
            self.streamer.end()

    def compute(self):
        pipe, started = self.pipe, time.monotonic()
        sample = pipe.preprocess(self.messages, processor_kwargs=self.sampling)["samples"]
        num_tokens = sample.inputs["input_ids"].shape[-1]
        generation = {**self.generation, "max_new_tokens": self.tokens_left(num_tokens)}
        self.seconds.reading = time.monotonic() - started
        with MODEL_IN_USE:
            if self.was_stopped:
                return
            started = time.monotonic()
            with pipe.device_placement(), pipe.get_inference_context()():
                for video in sample.videos:
                    if video.tokens is None:
                        pipe.encode(video, sample.times_forgotten)
                        wait_for(pipe.device)
                        self.seconds.encoding = time.monotonic() - started
            if self.was_stopped:
                return
            started = time.monotonic()
            stopping = StoppingCriteriaList([self.client])
            generation = {**generation, "streamer": self.streamer, "stopping_criteria": stopping}
            outputs = pipe.forward({"samples": sample}, generate_kwargs=generation)
        [result] = pipe.postprocess(outputs, return_full_text=False)
        self.text = result["generated_text"].strip()
        streamer = self.streamer
        if streamer.first is not None:
            self.seconds.first_token = streamer.first - started
            self.seconds.others = streamer.last - streamer.first  # pyright: ignore[reportOptionalOperand]
            self.seconds.num_tokens = streamer.num_tokens

    def tokens_left(self, num_tokens: int) -> int:
        """The most tokens of an answer to a prompt of `num_tokens`.

        Raises:
            ValueError: there is no room for one.
        """
        context = context_length(self.pipe.model.config.get_text_config(decoder=True))
        if context is not None and num_tokens >= context:
            raise ValueError(
                f"The chat has {num_tokens} tokens, and chat and answer together may have {context}. Choose fewer "
                "frames, or begin a new chat."
            )
        most = self.generation["max_new_tokens"]
        return most if context is None else min(most, context - num_tokens)


def wait_for(device: torch.device):
    """Wait until an accelerator has finished its work, so that it is included in the seconds."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
