"""Progress on a terminal; nothing of it goes into files and pipes."""

import sys
import time
from threading import Event, Thread

from tqdm import tqdm
from transformers import TextStreamer


DELAY, REFRESH = 2.0, 0.5  # seconds


def is_shown() -> bool:
    """Whether progress is shown: standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class Waiting:
    """Shows what is being done if it takes longer than `DELAY`, and for how long: `reading the video, 00:12`.

    Use it as a context, and set `doing` when the next step begins. `stop` ends it earlier.
    """

    def __init__(self, doing: str):
        self.doing, self.started, self.stopped = doing, time.time(), Event()
        self.thread = Thread(target=self.show, daemon=True)

    def __enter__(self) -> "Waiting":
        if is_shown():
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Clear the line, so that the next output starts at its beginning."""
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()

    def show(self):
        if self.stopped.wait(DELAY):
            return
        with tqdm(bar_format="{desc}, {elapsed}", leave=False, file=sys.stderr) as line:
            line.start_t = self.started
            while True:
                line.set_description_str(self.doing)
                if self.stopped.wait(REFRESH):
                    return


class AnswerStreamer(TextStreamer):
    """Prints an answer while it is generated, or counts its tokens, and updates a `Waiting`."""

    def __init__(self, tokenizer, waiting: Waiting, prints: bool):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.waiting, self.prints, self.num_tokens = waiting, prints, 0

    def put(self, value):
        """Called with the prompt when the model begins, and then with each token."""
        if self.next_tokens_are_prompt:
            self.waiting.doing = "reading the prompt"
        elif self.prints:
            self.waiting.stop()
        else:
            self.num_tokens += 1
            self.waiting.doing = f"answering, {self.num_tokens} tokens"
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False):
        if self.prints:
            super().on_finalized_text(text, stream_end)
