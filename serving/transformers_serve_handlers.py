"""transformers' own handlers of chat completions and responses, for one model of ours that strangers ask.

What is added, each where transformers has a place for it:

* Fields and chats are checked, videos and pictures are read, and prompts are made of them in other threads before
  transformers' handlers run: these would do it in the server's one event loop, where a slow address stops every client.
  They would also ask for 32 frames of each video, where the checkpoint says how many.
* Generation ends where the model's context ends, and when the client of an answer that is not streamed has left.
"""

import asyncio
from copy import copy
from pathlib import Path

from starlette.responses import Response
from transformers import AutoProcessor, BatchFeature, StoppingCriteriaList
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler, TransformersResponseCreateParamsStreaming
from transformers.cli.serving.utils import BaseGenerateManager, GenerateManager, GenerationState

from llava_next_video.hub.loading import load_model
from llava_next_video.modeling.error_texts import quoted
from llava_next_video.modeling.model_inputs import context_length
from llava_next_video.processing.checked_settings import check_pixel_settings
from llava_next_video.processing.processing_llava_next_video import LlavaNextVideoProcessor
from llava_next_video.reading.limits import ReadingLimits
from llava_next_video.serving.client_left import ClientLeft
from llava_next_video.serving.client_media import ClientMedia
from llava_next_video.serving.request_fields import ChatFields, ResponsesFields, checked_fields


class OneModel(ModelManager):
    """transformers' manager of models, with one model that is loaded at the start and stays.

    Args:
        checkpoint: folder or Hub id.
        name: what clients call it.
        limits: of reading what clients send.
        num_frames: frames of a video, or None: the checkpoint's number.
        loading: how the model is loaded, as by `load_model`.

    Raises:
        ValueError: the checkpoint is of another model, or an argument is impossible.
    """

    def __init__(self, checkpoint: str, name: str, limits: ReadingLimits, num_frames: int | None = None, **loading):
        self.checkpoint, self.limits, self.num_frames, self.loading = checkpoint, limits, num_frames, loading
        super().__init__(force_model=name, attn_implementation=loading.get("attn_implementation"))

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id  # without a revision: the name need not be one of the Hub

    def _load_processor(self, *args, **kwargs) -> LlavaNextVideoProcessor:
        processor = AutoProcessor.from_pretrained(self.checkpoint)
        if not isinstance(processor, LlavaNextVideoProcessor):
            raise ValueError(
                f"{self.checkpoint} is no checkpoint of LLaVA-NeXT-Video: its processor is a "
                f"{type(processor).__name__}. `transformers serve` serves other models."
            )
        processor.video_processor.limits = processor.image_processor.limits = self.limits
        if self.num_frames is not None:
            check_pixel_settings({"num_frames": self.num_frames})
            processor.video_processor.num_frames = self.num_frames
        return processor

    def _load_model(self, *args, **kwargs):
        return load_model(self.checkpoint, **self.loading)

    def list_models(self, cache_dir: str | None = None) -> list[dict]:
        return [{"id": self.force_model, "object": "model", "created": 0, "owned_by": "llava-next-video"}]


class GenerateForClients(GenerateManager):
    """transformers' thread of generation, which no answer occupies beyond the model's context, or when nobody waits.
    `generate` gets the tokenizer in place of the processor, for `stop`.

    Args:
        context: tokens that prompt and answer may have together, or None: any number.
    """

    def __init__(self, context: int | None):
        super().__init__()
        self.context = context

    def generate_streaming(self, model, processor, inputs, gen_config, *args, **kwargs):
        self.end_with_context(inputs, gen_config)
        return super().generate_streaming(model, processor.tokenizer, inputs, gen_config, *args, **kwargs)

    async def generate_non_streaming(self, model, processor, inputs, gen_config, *args, **kwargs):
        self.end_with_context(inputs, gen_config)
        client = ClientLeft()
        inputs = {**inputs, "stopping_criteria": StoppingCriteriaList([client])}
        generating = asyncio.ensure_future(
            super().generate_non_streaming(model, processor.tokenizer, inputs, gen_config, *args, **kwargs)
        )
        try:
            return await asyncio.shield(generating)  # the thread reports to it in any case
        except asyncio.CancelledError:
            client.left.set()
            raise

    def end_with_context(self, inputs: dict, gen_config):
        if self.context is not None:
            tokens_left = self.context - inputs["input_ids"].shape[-1]
            gen_config.max_new_tokens = min(gen_config.max_new_tokens or tokens_left, tokens_left)


class OneThread(GenerationState):
    """transformers' state of generation, with one thread."""

    def __init__(self, context: int | None):
        super().__init__()
        self.manager = GenerateForClients(context)

    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        return self.manager


class AppliedBefore:
    """What transformers' handlers see of the processor when its work for a request is done."""

    def __init__(self, processor: LlavaNextVideoProcessor, inputs: BatchFeature):
        self.tokenizer, self.inputs = processor.tokenizer, inputs

    def apply_chat_template(self, *args, **kwargs) -> BatchFeature:
        return self.inputs


class ReadsInThreads:
    """Goes in front of one of transformers' handlers, which would read videos in the server's one event loop."""

    def __init__(self, media: ClientMedia, **kwargs):
        super().__init__(**kwargs)
        self.media, self.applied = media, None

    async def after_reading(self, body: dict, messages: list[dict]) -> "ReadsInThreads":
        """The handler for one request, with the inputs that the chat in `messages` makes.

        Raises:
            HTTPException: the interface does not have a field, or the request is for another model.
            ValueError: something is wrong with the request; `VideoReadError`, with a video or picture.
        """
        self._validate_request(body)
        _, model, processor = self._resolve_model(body)
        if bias := body.get("logit_bias"):
            body["logit_bias"] = checked_bias(bias, model.config.text_config.vocab_size)
        inputs = await self.media.inputs_of(messages, body.get("chat_template_kwargs", {}), body.get("tools"))
        handler = copy(self)
        handler.applied = AppliedBefore(processor, inputs)
        return handler

    def _resolve_model(self, body: dict):
        name, model, processor = super()._resolve_model(body)
        return name, model, self.applied or processor

    def _build_generation_config(self, body: dict, *args, **kwargs):
        config = super()._build_generation_config(body, *args, **kwargs)
        if body.get("temperature"):  # transformers would leave a checkpoint that does not sample as it is
            config.do_sample = True
        return config


def checked_bias(bias: dict[str, float], vocabulary: int) -> dict[int, float]:
    """How much is added to the scores of tokens, by their ids, as `generate` takes it."""
    if wrong := [token for token in bias if not token.isdecimal() or not int(token) < vocabulary]:
        raise ValueError(
            f"The request has logit_bias for {quoted(wrong)}. Its names have to be ids of tokens, from 0 to "
            f"{vocabulary - 1}."
        )
    return {int(token): float(added) for token, added in bias.items()}


class ChatCompletions(ReadsInThreads, ChatCompletionHandler):
    """/v1/chat/completions."""

    async def answer(self, body: dict, request_id: str) -> Response:
        body = checked_fields(body, ChatFields)
        if "max_completion_tokens" in body:  # transformers 5.20 ignores it under this name
            body["max_tokens"] = body.pop("max_completion_tokens")
        handler = await self.after_reading(body, body["messages"])
        return await handler.handle_request({**body, "messages": []}, request_id)


class ResponsesParameters(TransformersResponseCreateParamsStreaming, total=False):
    """The fields of a request, and how its videos are sampled, which transformers has for chat completions only."""

    chat_template_kwargs: dict


class Responses(ReadsInThreads, ResponseHandler):
    """/v1/responses."""

    _valid_params_class = ResponsesParameters

    async def answer(self, body: dict, request_id: str) -> Response:
        body = {"stream": False, **checked_fields(body, ResponsesFields)}  # OpenAI's default; transformers' is True
        handler = await self.after_reading(body, messages_of(body))
        return await handler.handle_request({**body, "input": []}, request_id)


def messages_of(body: dict) -> list[dict]:
    """The chat in a request to /v1/responses: a text, the parts of one message, or messages.

    Raises:
        ValueError: it has something else in it.
    """
    items = body["input"] if isinstance(body["input"], list) else []
    without_role = [item for item in items if "role" not in item]
    if without_role and len(without_role) < len(items):
        raise ValueError(
            f"The input has an item of type {without_role[0].get('type')!r} among its messages. LLaVA-NeXT-Video calls "
            "no functions; send messages, each with a role."
        )
    return ResponseHandler._normalize_input(body)


def handlers_of(manager: OneModel, allowed_folder: Path | None) -> tuple[ChatCompletions, Responses]:
    """The handlers of a model that is loaded."""
    model, processor = manager.load_model_and_processor(manager.force_model)
    context = context_length(model.config.text_config)
    media = ClientMedia(processor, context, allowed_folder)
    shared = {"media": media, "model_manager": manager, "generation_state": OneThread(context)}
    return ChatCompletions(**shared), Responses(**shared)
