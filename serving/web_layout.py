"""The page in the browser, made with Gradio: a video, the frames that the model sees of it, and a chat about it.

Other features of Gradio are switched off: its API for programs, the record of calls in the browser, conversion of
videos by programs of the system, statistics. Files are checked here, because Gradio inside another application opens
every path that a client names.
"""

import re
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from time import monotonic
from typing import get_args
from urllib.parse import unquote, urlsplit

import gradio as gr  # pyright: ignore[reportMissingImports]
from fastapi import FastAPI
from gradio.data_classes import FileData  # pyright: ignore[reportMissingImports]

from llava_next_video.inference.pipeline_video_text_to_text import VideoTextToTextPipeline
from llava_next_video.modeling.error_texts import quoted
from llava_next_video.processing.frame_sampling import SamplingRule
from llava_next_video.processing.video_inputs import ProcessedVideo
from llava_next_video.reading.addresses import is_web_address
from llava_next_video.reading.errors import VideoReadError
from llava_next_video.reading.video_sources import open_source
from llava_next_video.serving.web_answers import Answer
from llava_next_video.serving.web_door import Door
from llava_next_video.serving.web_frames import frames_as_html
from llava_next_video.serving.web_visits import Visits


EXAMPLES = {  # videos and questions for the embedded checkpoint
    "red_circle_moves_left.mp4": "Which way does the circle move?",
    "green_triangle_moves_right.mp4": "What is moving?",
    "blue_star_then_red_triangle.mp4": "Which shape appears first?",
}
EXAMPLES_FOLDER = Path(__file__).parent / "web_examples"
RULES = {
    "uniform": "spread evenly",
    "uniform_repeated": "spread evenly, repeated in short videos",
    "fps_capped": "one a second, or fewer",
    "legacy": "as the model of transformers itself",
}
READERS_AT_ONCE = 2
MAX_WAITING = 64  # for the readers, or for the model
MOST_FRAMES, MOST_NEW_TOKENS = 128, 2048
MOST_CHARACTERS = 4000  # of a question
CSS = """
#video video {max-height: 18rem}
.frames {display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: 0.4rem}
.frames figure {margin: 0}
.frames img {width: 100%; border-radius: 4px}
.frames figcaption {font-size: 0.8rem; line-height: 1.2; color: var(--body-text-color)}
.about-frames, .seconds {font-size: 0.85rem; color: var(--body-text-color); opacity: 0.8; margin-top: 0.5rem}
.problem {color: var(--error-text-color); border-left: 4px solid var(--error-border-color); padding-left: 0.6rem}
"""


def build_app(pipe: VideoTextToTextPipeline, visits: Visits, model: str | None, host: str) -> Door:
    """The application that shows the page.

    Args:
        model: its folder or Hub id, or None: the embedded one, which knows only moving coloured shapes.
        host: where the server listens.
    """
    max_bytes = pipe.processor.video_processor.limits.max_fetched_bytes
    name = "The embedded demonstration model, which knows only moving coloured shapes." if model is None else model
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        layout_of(Page(pipe, visits), name),
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size=max_bytes,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )
    return Door(app, visits, host, max_bytes)


def take_uploads_only(video: gr.Video, visits: Visits):
    """Let a video component of Gradio take only files that browsers have sent, and convert none.

    These methods are set on the component: for a subclass Gradio would write a file beside its source.
    """

    def checked(path: str) -> str:
        if not visits.is_upload(path):
            raise gr.Error("The video has expired. Send it again.", print_exception=False)
        return path

    async def move_to_cache(path: str | Path | None) -> str | None:
        # Gradio's own method would download addresses, and copy any file of this machine.
        return None if path is None else checked(str(path))

    video.async_move_resource_to_block_cache = move_to_cache
    video.preprocess = lambda payload: None if payload is None else Path(checked(payload.path))
    video.postprocess = lambda file: None if file is None else FileData(path=str(file), orig_name=file.name)


class Page:
    """The actions of the page: Gradio calls a method when something is clicked."""

    def __init__(self, pipe: VideoTextToTextPipeline, visits: Visits):
        self.pipe, self.visits = pipe, visits
        settings, processor = pipe.model.generation_config, pipe.processor.video_processor
        # With these settings the checkpoint's own recipe is used.
        self.first_sampling = (processor.num_frames or 32, processor.frame_sampling)
        self.max_new_tokens = min(settings.max_new_tokens or 256, MOST_NEW_TOKENS)
        self.temperature = settings.temperature or 0.0 if settings.do_sample else 0.0
        self.top_p = settings.top_p or 1.0

    def sampling(self, num_frames: float, rule: str) -> dict:
        """Arguments of the processor; none if the settings were not changed."""
        if (int(num_frames), rule) == self.first_sampling:
            return {}
        return {"num_frames": int(num_frames), "frame_sampling": rule}

    def take(self, file: Path | None, num_frames: float, rule: str, request: gr.Request):
        """Take another video, or none. Returns frames, message and chat."""
        visit = self.visits.of(request.session_hash)
        try:
            self.visits.take_video(visit, file)
        except VideoReadError as error:
            return "", problem(error), []
        return *self.look(num_frames, rule, request), []

    def look(self, num_frames: float, rule: str, request: gr.Request) -> tuple[str, str]:
        """The frames that the model sees, and a message."""
        visit = self.visits.of(request.session_hash)
        if visit.video is None:
            return "", ""
        started, sampling = monotonic(), self.sampling(num_frames, rule)
        try:
            video = self.pipe.find_or_read(str(visit.video), sampling)
            seconds = monotonic() - started
            if video.pixels is None:  # encoded, by a question with these settings
                [processed] = self.pipe.processor.process_videos(str(visit.video), **sampling)
            else:
                processed = ProcessedVideo(video.pixels, video.processed.metadata)
            return frames_as_html(self.pipe.processor, processed, seconds), ""
        except (ValueError, OSError) as error:
            return "", problem(visit.named(error))

    def link(self, address: str | None) -> tuple:
        """Fetch a video from the web. Returns the file for the page, and a message."""
        address = (address or "").strip()
        if not is_web_address(address):
            return gr.skip(), problem(f"{quoted(address)} is not the address of a video: it begins with https://.")
        try:
            content = open_source(address, self.pipe.processor.video_processor.limits).getbuffer()
        except (ValueError, OSError) as error:
            return gr.skip(), problem(error)
        return self.visits.put_upload(content, name_in(address)), ""

    def example(self, name: str) -> tuple[Path, str]:
        """An example's video and question."""
        content = (EXAMPLES_FOLDER / name).read_bytes()
        return self.visits.put_upload(content, name), EXAMPLES[name]

    def ask(
        self,
        question: str | None,
        num_frames: float,
        rule: str,
        max_new_tokens: float,
        temperature: float,
        top_p: float,
        request: gr.Request,
    ) -> Iterator[tuple]:
        """Answer a question. Yields chat, field of the question, and message, for each new piece of the answer."""
        visit, question = self.visits.of(request.session_hash), (question or "").strip()
        try:
            check_length(question)
            messages = visit.with_question(question)
            generation = {"max_new_tokens": int(max_new_tokens), "do_sample": temperature > 0}
            generation |= {"temperature": float(temperature) or None, "top_p": float(top_p) if temperature else None}
            answer = visit.answer = Answer(self.pipe, messages, self.sampling(num_frames, rule), generation)
            yield shown(messages, "…"), "", gr.skip()
            for text in answer:
                if visit.answer is not answer:  # but another video, or a new chat
                    return
                yield shown(messages, text or "…"), gr.skip(), gr.skip()
            visit.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer.text}]}]
            text = f"{answer.text} *(stopped)*".strip() if answer.was_stopped else answer.text
            yield shown(messages, text), gr.skip(), f'<p class="seconds">{escape(str(answer.seconds))}</p>'
        except (ValueError, OSError) as error:
            yield shown(visit.messages), question, problem(visit.named(error))
        except Exception as error:  # of the model: out of memory, for example
            traceback.print_exc(file=sys.stderr)
            yield shown(visit.messages), question, problem(f"The model failed with {type(error).__name__}: {error}")

    def stop(self, request: gr.Request):
        """End the answer that is under way."""
        self.visits.of(request.session_hash).stop()

    def begin_anew(self, request: gr.Request) -> tuple[list, str]:
        """Forget the chat and keep the video."""
        self.visits.of(request.session_hash).forget_chat()
        return [], ""

    def leave(self, request: gr.Request):
        """The page was closed."""
        self.visits.leave(request.session_hash)


def layout_of(page: Page, name: str) -> gr.Blocks:
    """The page's elements, and the methods that they call."""
    hidden = {"api_visibility": "private", "show_progress": "hidden"}
    busy = {"api_visibility": "private", "concurrency_limit": READERS_AT_ONCE, "concurrency_id": "reading"}
    with gr.Blocks(title="LLaVA-NeXT-Video", analytics_enabled=False) as blocks:
        gr.Markdown(f"# Ask about a video\n{escape(name)}")
        with gr.Row():
            with gr.Column(min_width=320, scale=5):
                video = gr.Video(
                    label="Video: drop, choose or record one",
                    sources=["upload", "webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    include_audio=False,
                    elem_id="video",
                )
                take_uploads_only(video, page.visits)
                with gr.Row():
                    address = gr.Textbox(
                        placeholder="https://… of a video", show_label=False, lines=1, scale=4, elem_id="address"
                    )
                    fetch = gr.Button("Fetch", size="md", scale=1, min_width=80, elem_id="fetch")
                with gr.Row():
                    examples = {
                        file: gr.Button(file.removesuffix(".mp4").replace("_", " "), size="sm", min_width=100)
                        for file in EXAMPLES
                    }
                frames = gr.HTML(elem_id="frames")
                with gr.Accordion("Settings", open=False):
                    num_frames, rule = sampling_settings(page)
                    generation = generation_settings(page)
            with gr.Column(min_width=320, scale=6):
                chat = gr.Chatbot(label="Chat", height=380, buttons=[], allow_tags=False, elem_id="chat")
                question = gr.Textbox(
                    placeholder="What happens in the video?", show_label=False, max_lines=4, elem_id="question"
                )
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", size="md", min_width=80, elem_id="ask")
                    stop = gr.Button("Stop", size="md", min_width=80, elem_id="stop")
                    anew = gr.Button("New chat", size="md", min_width=80, elem_id="anew")
                said = gr.HTML(elem_id="said")
        for file, button in examples.items():
            button.click(partial(page.example, file), None, [video, question], **hidden)
        sampling = [num_frames, rule]
        video.change(page.take, [video, *sampling], [frames, said, chat], show_progress_on=frames, **busy)
        for setting in (num_frames.release, rule.change):
            setting(page.look, sampling, [frames, said], show_progress_on=frames, **busy)
        for fetching in (fetch.click, address.submit):
            fetching(page.link, address, [video, said], show_progress_on=video, **busy)
        for asking in (ask.click, question.submit):
            asking(
                page.ask,
                [question, *sampling, *generation],
                [chat, question, said],
                concurrency_limit=1,
                concurrency_id="model",
                **hidden,
            )
        stop.click(page.stop, concurrency_limit=None, **hidden)
        for beginning in (anew.click, chat.clear):
            beginning(page.begin_anew, None, [chat, said], **hidden)
        blocks.unload(page.leave)
    return blocks.queue(max_size=MAX_WAITING)


def sampling_settings(page: Page) -> tuple[gr.Slider, gr.Dropdown]:
    num_frames, rule = page.first_sampling
    most = max(MOST_FRAMES, num_frames)
    rules = [(RULES[each], each) for each in get_args(SamplingRule)]
    return (
        gr.Slider(1, most, num_frames, step=1, label="Frames that the model sees", elem_id="num_frames"),
        gr.Dropdown(rules, value=rule, label="Which frames"),
    )


def generation_settings(page: Page) -> list:
    return [
        gr.Slider(1, MOST_NEW_TOKENS, page.max_new_tokens, step=1, label="Longest answer, in tokens"),
        gr.Slider(0, 2, page.temperature, step=0.05, label="Temperature (0: always the likeliest token)"),
        gr.Slider(0.05, 1, page.top_p, step=0.05, label="Top p (with a temperature)"),
    ]


def shown(messages: list[dict], answer: str | None = None) -> list[dict]:
    """A chat for the page: its texts, and an answer that is being generated."""
    texts = [(message["role"], message["content"][-1]["text"]) for message in messages]
    texts += [] if answer is None else [("assistant", answer)]
    return [{"role": role, "content": text} for role, text in texts]


def problem(error: Exception | str) -> str:
    return f'<p class="problem" role="alert">{escape(str(error))}</p>'


def check_length(question: str):
    """Raise a ValueError if a question is empty, or longer than `MOST_CHARACTERS`."""
    if not question:
        raise ValueError("There is no question yet. Write one, then ask.")
    if len(question) > MOST_CHARACTERS:
        raise ValueError(f"The question has {len(question)} characters. Ask with {MOST_CHARACTERS} or fewer.")


def name_in(address: str) -> str:
    """A name for the file behind a web address."""
    last = unquote(urlsplit(address).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "_", last).lstrip(".")[-80:] or "video"
