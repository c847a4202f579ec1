"""Questions that a server answers over OpenAI's interface: `llava-next-video serve`, vLLM, or another one.

The video's path or its contents are sent, and the server reads it with the checkpoint's recipe. (By default lmms-eval's
own models for servers send frames as single pictures, from which LLaVA-NeXT-Video makes more and other tokens.)
"""

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from llava_next_video.evaluation.answering import CANNOT_BE_USED, Answerer, chat_or_error
from llava_next_video.evaluation.generation_arguments import up_to_stop_string
from llava_next_video.evaluation.questions import Question
from llava_next_video.reading.addresses import scheme_of


# Servers that take arguments of their reader, by the owner of the model in their lists of models.
CAN_BE_TOLD_FRAMES = ("llava-next-video", "vllm")
REFUSED = (400, 413, 422)  # HTTP status of a question that cannot be asked; any other error is the server's
TRIES, SECONDS = 5, 600  # for one question


class Server:
    """A server and one of its models.

    Args:
        address: as in "http://localhost:8000/v1".
        model: its name on the server.
        frames: `num_frames`, `fps`, `frame_sampling`, to replace the server's own.
        send_videos: send the contents of videos and pictures, not their paths, which the server would have to be
            allowed to open.

    Raises:
        ImportError: the library `openai` is not installed.
        ValueError: the server has no such model, or takes no `frames`.
        ConnectionError: it does not answer.
    """

    def __init__(self, address: str, model: str, frames: dict | None = None, send_videos: bool = False):
        import openai

        self.address, self.model, self.send_videos = address, model, send_videos
        # Local servers rarely need a key, but the client needs one.
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.client = openai.OpenAI(base_url=address, api_key=key, max_retries=TRIES - 1, timeout=SECONDS)
        self.owner = self.owner_of_model()
        self.frames, self.fields = frames or {}, self.fields_of(frames or {})

    def owner_of_model(self) -> str:
        """The model's owner in the server's list of models, which tells the kind of server.

        Raises:
            ValueError: the model is not in the list.
        """
        with errors_of_server(self.address):
            models = {model.id: model.owned_by for model in self.client.models.list().data}
        if self.model not in models:
            raise ValueError(
                f"The server at {self.address} was to be asked for {self.model!r}, which it does not have. It has "
                f"{', '.join(map(repr, models)) or 'no model'}; name one as it does."
            )
        return models[self.model]

    def fields_of(self, frames: dict) -> dict:
        if not frames:
            return {}
        if self.owner not in CAN_BE_TOLD_FRAMES:
            raise ValueError(
                f"The server at {self.address} was to be told {frames}, but only {' and '.join(CAN_BE_TOLD_FRAMES)} "
                f"can be told so, and this one is of {self.owner!r}. Start it with these frames, and ask for no other "
                "ones."
            )
        return {"media_io_kwargs": {"video": frames}}

    def answer(self, chat: list[dict], arguments: dict) -> str:
        """The answer to a chat.

        Raises:
            ValueError: the server refuses the question, or something in it cannot be sent.
            ConnectionError: the server fails.
        """
        messages = [
            {**message, "content": [as_openai_part(part, self.send_videos) for part in message["content"]]}
            for message in chat
        ]
        fields = fields_of_generation(arguments)
        with errors_of_server(self.address):
            completion = self.client.chat.completions.create(
                model=self.model, messages=messages, extra_body=self.fields, **fields
            )
        return up_to_stop_string(completion.choices[0].message.content or "", arguments.get("stop_strings", [])).strip()

    def recipe(self) -> dict:
        """What answers depend on, in types of JSON, as far as it is known: the server does not tell its weights."""
        versions = {name: version(name) for name in ("llava-next-video", "openai")}
        server = {"server": self.address, "owner": self.owner, "send_videos": self.send_videos}
        return {"checkpoint": self.model, **server, "frames": self.frames, "versions": versions}


@contextmanager
def errors_of_server(address: str):
    """Turn errors of the client into a ValueError about the question, or a ConnectionError about the server."""
    import openai

    try:
        yield
    except openai.OpenAIError as error:
        if isinstance(error, openai.APIStatusError) and error.status_code in REFUSED:
            raise ValueError(f"The server refused it: {error}") from error
        raise ConnectionError(
            f"The server at {address} failed: {type(error).__name__}: {error} See that it runs and that its address is "
            "right (it mostly ends in /v1; a key goes into the environment as OPENAI_API_KEY), and start the same "
            "command again: it goes on where it was, if there is a journal."
        ) from error


class ServerAnswerer(Answerer):
    """Asks a server, `batch_size` questions at a time. Other arguments as in `Answerer`."""

    def __init__(self, server: Server, **kwargs):
        super().__init__(**kwargs)
        self.server = server

    def make_room(self, most_videos: int):
        """Nothing: the server decides what it remembers."""

    def read(self, video: str):
        """Nothing: the server reads."""

    def answer_batch(self, batch: list[Question]) -> list[str | Exception]:
        with ThreadPoolExecutor(len(batch)) as threads:
            return list(threads.map(self.answer_or_error, batch))

    def answer_or_error(self, question: Question) -> str | Exception:
        chat = chat_or_error(question)
        if isinstance(chat, Exception):
            return chat
        try:
            return self.server.answer(chat, question.arguments)
        except ConnectionError:  # not about this question
            raise
        except CANNOT_BE_USED as error:
            return error

    def losses_of_batch(self, batch: list[Question]) -> list[list | Exception]:
        raise NotImplementedError(
            f"{batch[0].task} compares the likelihoods of options, which a server does not say. Leave it out, or ask "
            "the checkpoint itself, without a server."
        )


def fields_of_generation(arguments: dict) -> dict:
    """Arguments of `generate` as fields of OpenAI's interface.

    Raises:
        ValueError: the interface does not have one of them.

    >>> fields_of_generation({"max_new_tokens": 16, "do_sample": False, "stop_strings": ["x"]})
    {'max_tokens': 16, 'temperature': 0, 'stop': ['x']}
    """
    fields = {"max_tokens": arguments["max_new_tokens"], "temperature": 0}
    if arguments["do_sample"]:
        fields["temperature"] = arguments.get("temperature", 1.0)
        fields |= {"top_p": arguments["top_p"]} if "top_p" in arguments else {}
    if "stop_strings" in arguments:
        fields["stop"] = arguments["stop_strings"]
    usual = {"num_beams": 1, "use_cache": True}
    known = {"max_new_tokens", "do_sample", "temperature", "top_p", "stop_strings"}
    others = {name: value for name, value in arguments.items() if name not in known and usual.get(name) != value}
    if others:
        raise ValueError(
            f"The task generates with {others}, which servers are not asked for. Leave the task out, or ask the "
            "checkpoint itself, without a server."
        )
    return fields


def as_openai_part(part: dict, send_videos: bool) -> dict:
    """A part of a chat in OpenAI's form.

    Raises:
        ValueError: it is a video that is not a file.
        OSError: the file cannot be read.
    """
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    source = part[kind]
    if isinstance(source, Image.Image):
        file = BytesIO()
        source.save(file, "PNG")
        source = data_address(file.getvalue(), "image/png")
    elif not isinstance(source, str | Path):
        raise ValueError(
            f"A task gave {type(source).__name__} as a {kind}, and servers take files and addresses. Ask the "
            "checkpoint itself, without a server."
        )
    elif scheme_of(str(source)) is None:
        path = Path(source)
        ending = path.suffix.lower().removeprefix(".")
        source = data_address(path.read_bytes(), f"{kind}/{ending}") if send_videos else file_address(path)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": str(source)}}


def data_address(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def file_address(path: Path) -> str:
    """
    >>> file_address(Path("/data/a b#c.mp4"))
    'file:///data/a%20b%23c.mp4'
    """
    return f"file://{quote(str(path.absolute()))}"
