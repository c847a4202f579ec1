"""The command `web`: a page in the browser, where a video is looked at, asked about and talked about.

`web_layout.py` is the page, made with Gradio; `web_visits.py` keeps visitors apart; `web_answers.py` answers them;
`web_door.py` stands in front.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llava_next_video.serving.transformers_serve import limits_of


if TYPE_CHECKING:
    import uvicorn


SECONDS_TO_STOP = 2  # for browsers, which keep a connection open


def web(args: argparse.Namespace):
    """Load a checkpoint and show the page until the process is told to stop."""
    # By default this signal ends a process at once, and videos would stay behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with page_of(args) as server:
        server.run()


@contextmanager
def page_of(args: argparse.Namespace) -> Iterator["uvicorn.Server"]:
    """The server of the page of a checkpoint, which is loaded, ready to be run. The videos that are sent to it lie in a
    folder that is removed at the end.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: an argument is wrong, or the checkpoint is of another model.
        OSError: the checkpoint is missing.
    """
    if find_spec("gradio") is None:
        raise ImportError("`web` needs Gradio: pip install 'llava-next-video[web]'")
    limits = limits_of(args)
    # Gradio reads these when it is imported: where uploads go, and that it tells nobody that it runs.
    with tempfile.TemporaryDirectory(prefix="llava-next-video-web-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"GRADIO_TEMP_DIR": f"{folder}/uploads", "GRADIO_ANALYTICS_ENABLED": "False"}
        import uvicorn

        from llava_next_video.serving.web_layout import build_app
        from llava_next_video.serving.web_visits import Visits

        visits, stopped = Visits(Path(folder)), threading.Event()
        app = build_app(load_pipeline(args, limits), visits, args.model, args.host)
        threading.Thread(target=visits.sweep_until, args=[stopped], name="web-sweep", daemon=True).start()
        name = f"[{args.host}]" if ":" in args.host else args.host
        print(f"llava-next-video: the page is at http://{name}:{args.port}", file=sys.stderr, flush=True)
        try:
            yield uvicorn.Server(
                uvicorn.Config(
                    app,
                    host=args.host,
                    port=args.port,
                    log_level="warning",
                    timeout_graceful_shutdown=SECONDS_TO_STOP,
                )
            )
        finally:
            stopped.set()
            visits.close()


def load_pipeline(args: argparse.Namespace, limits):
    """The pipeline of a checkpoint, which reads videos within limits.

    Raises:
        ValueError: it is a checkpoint of another model.
    """
    from transformers import AutoProcessor, pipeline

    from llava_next_video.hub.loading import load_model
    from llava_next_video.processing.processing_llava_next_video import LlavaNextVideoProcessor

    checkpoint = args.model or args.demo_checkpoint
    processor = AutoProcessor.from_pretrained(checkpoint)
    if not isinstance(processor, LlavaNextVideoProcessor):
        raise ValueError(
            f"{checkpoint} is no checkpoint of LLaVA-NeXT-Video: its processor is a {type(processor).__name__}."
        )
    processor.video_processor.limits = processor.image_processor.limits = limits
    model = load_model(checkpoint, args.device, args.device_map, args.dtype, args.quantize, args.attn_implementation)
    return pipeline("video-text-to-text", model=model, processor=processor)
