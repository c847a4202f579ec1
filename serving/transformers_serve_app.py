"""The routes of the server, in front of the handlers of `transformers_serve_handlers.py`.

transformers has an application of its own (`build_server`). It is not used, because its routes load any model that a
client names (`/load_model`) and unload the one that is served (`/reset`), it keeps bodies of any size in memory, and
its arguments change with each release.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llava_next_video.serving.transformers_serve_handlers import OneModel, handlers_of


MAX_REQUESTS = 64  # that are received, read or answered at once; clients of more are told to try again
MAX_JSON_VALUES = 200_000  # a body of commas and brackets would take some fifty times its size in memory
BODY_SECONDS = 300  # for the arrival of a body


def build_app(manager: OneModel, allowed_folder: Path | None, max_body_bytes: int) -> Starlette:
    """The application that serves a model.

    Args:
        manager: has the model.
        allowed_folder: the folder whose files clients may name, or None.
        max_body_bytes: size of the largest body of a request.
    """
    chat, responses = handlers_of(manager, allowed_folder)
    door = Door(max_body_bytes)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": manager.list_models()})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", Endpoint(door, chat.answer), methods=["POST"]),
            Route("/v1/responses", Endpoint(door, responses.answer), methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: http_error, Exception: server_error},
    )


class Door:
    """Counts requests, and receives their bodies within limits."""

    def __init__(self, max_body_bytes: int):
        self.max_body_bytes = max_body_bytes
        self.num_inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.num_inside >= MAX_REQUESTS:
            raise HTTPException(
                503, f"The server has {MAX_REQUESTS} requests already. Try again later.", {"Retry-After": "5"}
            )
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    async def json_body(self, request: Request):
        """The body of a request. One that is too large is not received to its end.

        Raises:
            HTTPException: it is too large, too slow or not declared as JSON.
            ValueError: it is not JSON, or has too many values.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a page in a browser cannot send without asking first
            raise HTTPException(415, f"The content-type is {kind[:100]!r}. It has to be application/json.")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                self.check_size(int(request.headers.get("content-length", "0")))
                async for chunk in request.stream():
                    body += chunk
                    self.check_size(len(body))
        except TimeoutError:
            raise HTTPException(408, f"The body took longer than {BODY_SECONDS} seconds. Send it at once.") from None
        if sum(map(body.count, b",[{")) > MAX_JSON_VALUES:
            raise ValueError(f"The body has more than {MAX_JSON_VALUES} values in it. Send fewer messages.")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The body is not JSON: {error}.") from error

    def check_size(self, num_bytes: int):
        if num_bytes > self.max_body_bytes:
            raise HTTPException(
                413,
                f"The body has more than {self.max_body_bytes} bytes. Send shorter videos, or their http(s): URLs; "
                "whoever runs the server can raise --max-body-size.",
            )


class Endpoint:
    """Answers requests with `answer(body, request_id)`, and sends the client its own errors."""

    def __init__(self, door: Door, answer: Callable[[Any, str], Coroutine[Any, Any, Response]]):
        self.door, self.answer = door, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        request = Request(scope, receive)
        request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
        with self.door.entered():  # until the last piece of the answer is sent
            try:
                body = await self.door.json_body(request)
                response = await while_connected(request, self.answer(body, request_id))
            except ValueError as error:
                raise HTTPException(400, str(error)) from error
            except ClientDisconnect:
                return
            response.headers["x-request-id"] = request_id
            await response(scope, receive, send)


async def while_connected(request: Request, answering: Coroutine[Any, Any, Response]) -> Response:
    """The result of a coroutine, which is cancelled if the client leaves before."""
    answer = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(request.receive())  # after the body, only a disconnect can come
    try:
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        leaving.cancel()


async def http_error(request: Request, error: HTTPException) -> Response:
    """An error in the form that OpenAI's clients read."""
    kind = "invalid_request_error" if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    description = {"message": error.detail, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": description}, error.status_code, error.headers)


async def server_error(request: Request, error: Exception) -> Response:
    return await http_error(request, HTTPException(500, "The server failed at this request. Its log says how."))
