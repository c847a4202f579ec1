"""Talk about a video over several turns: `VideoChat` in Python, `llava-next-video chat VIDEO` in a terminal."""

import sys
from collections.abc import Iterator
from contextlib import suppress

from transformers import TextStreamer

from llava_next_video.inference.pipeline_inputs import as_chat
from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline


class VideoChat:
    """A conversation about a video (or several), with a history.

    The video is read and encoded at the first question; in later turns the language model runs only on new tokens. The
    pipeline remembers both (`remembered_videos`), so it may be asked other questions in between.

    Args:
        pipe: made by `pipeline("video-text-to-text", ...)`.
        video: one video in any form that the pipeline takes, or a list of videos.
        kwargs: arguments of every call of the pipeline, such as `num_frames`, `max_new_tokens` or `do_sample`.

    >>> from transformers import pipeline
    >>> import llava_next_video
    >>> pipe = pipeline("video-text-to-text", model=llava_next_video.DEMO_CHECKPOINT)
    >>> chat = llava_next_video.VideoChat(pipe, "demo_model/samples/red_circle_moves_left.mp4")
    >>> chat.ask("What shape is in the video?")
    'It is a circle.'
    >>> chat.ask("Which way does it move?")
    'It moves left.'
    >>> [message["role"] for message in chat.messages]
    ['user', 'assistant', 'user', 'assistant']
    """

    def __init__(self, pipe: VideoTextToTextPipeline, video, **kwargs):
        self.pipe, self.kwargs = pipe, kwargs
        [first] = as_chat("", video)
        self.videos = first["content"][:-1]
        self.messages: list[dict] = []

    def ask(self, question: str, **kwargs) -> str:
        """Ask the next question, and return the answer.

        `kwargs` are arguments of this call of the pipeline, such as `streamer`. When it fails or is interrupted, the
        history stays as it was.
        """
        media = [] if self.messages else self.videos
        message = {"role": "user", "content": [*media, {"type": "text", "text": question}]}
        [result] = self.pipe([*self.messages, message], return_full_text=False, **{**self.kwargs, **kwargs})
        answer = result["generated_text"].strip()
        self.messages += [message, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return answer


def converse(chat: VideoChat):
    """Read questions from standard input, one per line, and stream the answers, until it ends."""
    in_terminal = sys.stdin.isatty()
    if in_terminal:
        with suppress(ImportError):  # missing on some platforms
            import readline  # noqa: F401  # arrow keys in `input`
        print("Ask about the video. Ctrl-C stops an answer, Ctrl-D or an empty line ends.", file=sys.stderr)
    for question in typed_lines() if in_terminal else map(str.strip, sys.stdin):
        if not question:
            continue
        # A new one each time, because an interrupted streamer still has text in it.
        streamer = TextStreamer(chat.pipe.tokenizer, skip_prompt=True, skip_special_tokens=True)
        try:
            chat.ask(question, streamer=streamer)
        except KeyboardInterrupt:
            print("\nStopped: the question and its answer are forgotten.", file=sys.stderr)


def typed_lines() -> Iterator[str]:
    """Lines typed at a prompt, up to an empty one, Ctrl-D or Ctrl-C."""
    with suppress(EOFError, KeyboardInterrupt):
        while line := input("> ").strip():
            yield line
