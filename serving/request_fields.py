"""Checks of a request's fields, besides the chat itself.

transformers' server converts some fields, ignores others and lets clients replace a checkpoint's settings. Here a value
of another type is an error that names the field, and so is a field that would be ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava_next_video.modeling.error_texts import quoted
from llava_next_video.processing.frame_sampling import SamplingRule


class Sampling(BaseModel):
    """Arguments of the processor that clients may choose. Others are sizes, and templates, which are code."""

    model_config = ConfigDict(strict=True, extra="forbid")

    num_frames: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    frame_sampling: SamplingRule | None = None
    time_instruction: bool | None = None


class RequestFields(BaseModel):
    """Fields of both interfaces. Of fields with the type None or one value, other values are not supported."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    tools: list[dict] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Sampling | None = None  # as transformers' server has it
    media_io_kwargs: dict[Literal["video"], Sampling] | None = None  # the same as vLLM has it
    generation_config: None = None


Tokens = Annotated[int, Field(ge=1, lt=2**31)]


class ChatFields(RequestFields):
    """A request to /v1/chat/completions."""

    messages: list[dict]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    frequency_penalty: Annotated[float, Field(gt=-1, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    stop: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=16)] | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None


class ResponsesFields(RequestFields):
    """A request to /v1/responses."""

    input: str | list[dict]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    previous_response_id: None = None
    background: Literal[False] | None = None


def checked_fields(body: Any, fields: type[RequestFields]) -> dict:
    """Check the body of a request; returns it without fields that are null, and the sampling of videos as
    `chat_template_kwargs`.

    Raises:
        ValueError: it is not a JSON object, a field is wrong, or the sampling is given twice; names the field.
    """
    if not isinstance(body, dict):
        raise ValueError(f"The request is a JSON {type(body).__name__}. It has to be an object with fields.")
    try:
        fields.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"The request has {quoted(first['input'])} where {place} belongs: {first['msg']}.") from None
    given = {name: value for name, value in body.items() if value is not None}
    if "media_io_kwargs" in given:
        if "chat_template_kwargs" in given:
            raise ValueError(
                "The request has chat_template_kwargs and media_io_kwargs, which both say how videos are sampled. Send "
                "one of them."
            )
        given["chat_template_kwargs"] = given.pop("media_io_kwargs").get("video", {})
    return given
