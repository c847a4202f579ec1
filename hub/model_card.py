"""The model card of a checkpoint, README.md of its Hub repository, made from the checkpoint's files.

Every number in a card is read from those files or computed from them, and so is whether the built-in can read the
checkpoint. What weights and settings do not show comes from `model_card.json` (`model_card_facts.py`). The text around
the numbers, the tables and the snippets are in `model_card.md.jinja`.
"""

import re
from importlib.metadata import metadata, requires
from pathlib import Path

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llava_next_video.hub.model_card_checks import LIBRARY, PIPELINE_TAG, check_card
from llava_next_video.hub.model_card_facts import CardFacts, facts_of, plain
from llava_next_video.hub.recipes import MODEL_FACTS, RELEASED, VIDEO_FACTS, Recipe, Released, find_released
from llava_next_video.modeling.configuration_llava_next_video import LlavaNextVideoConfig
from llava_next_video.modeling.model_inputs import context_length
from llava_next_video.processing import CHAT_TEMPLATES, LlavaNextVideoProcessor


DISTRIBUTION = "llava-next-video"
PLACEHOLDER_PATH = "path/to/this/folder"  # in snippets, while the checkpoint has no name

# The authors' measurements, for the checkpoints that have some.
PUBLISHED_FIGURES = {
    "LLaVA-NeXT-Video-32B-Qwen": {
        "source": "https://github.com/LLaVA-VL/LLaVA-NeXT/blob/main/docs/LLaVA-NeXT-Video_0716.md",
        "rows": [
            ("NExT-QA-MC ([not zero-shot](https://github.com/LLaVA-VL/LLaVA-NeXT/issues/110))", "77.31"),
            ("Video-MME, without / with subtitles", "60.2 / 63.0"),
            ("EgoSchema", "60.85"),
            ("Perception Test (val)", "59.38"),
        ],
    },
}

NEWLINES = {
    "no_token": "none",
    "one_token": "one at the end of the video",
    "frame": "one after each frame",
    "grid": "one after each row of each frame",
}
SAMPLING = {
    "uniform": "{n}, evenly from the first to the last; a shorter video gives each of its frames once",
    "uniform_repeated": "{n}, evenly from the first to the last; a shorter video gives some of its frames again",
    "fps_capped": "{rate}; where that is more than {n}, {n} evenly from the first to the last",
    "legacy": "{n}, each at the start of an equal share of the video",
}


def model_card(folder: str | Path, repository: str | None = None, facts: CardFacts | None = None) -> str:
    """The text of README.md for the checkpoint in a folder.

    Args:
        folder: holds config.json, the processor's settings with a chat template, and the tokenizer.
        repository: Hub id or path that the snippets load. A repository with the name of a released checkpoint gets its
            base models and, with its recipe, the published figures.
        facts: what its files do not show; by default those in its `model_card.json`. Without a license the card says
            so; `base_model` replaces the base models of a released checkpoint.

    Raises:
        ValueError: the processor has no chat template, a name is impossible, or the Hub would refuse the card.
        OSError: a file is missing.
    """
    facts = facts or facts_of(folder)
    for name in (repository, facts.license, facts.license_name, facts.license_link, *facts.base_model):
        check_name(name)
    config = LlavaNextVideoConfig.from_pretrained(folder)
    processor = LlavaNextVideoProcessor.from_pretrained(folder)
    if processor.chat_template is None:
        raise ValueError(
            f"The model card of {folder} cannot be written: its processor has no chat template, without which no "
            "question can be asked. Set `processor.chat_template`, and save the processor."
        )
    released = find_released(repository) if repository else None
    base_models = list(facts.base_model)
    if not base_models and released is not None and "/" in released.language_model:  # a Hub id
        base_models = [released.language_model, released.vision_tower]
    header = ModelCardData(
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        language=list(facts.language) or None,
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        base_model=base_models or None,
        tags=["llava_next_video", "custom_code"],
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(fenced=fenced, code=code, plain=plain)
    card = environment.get_template("model_card.md.jinja").render(
        metadata=header.to_yaml(),
        title=repository.rsplit("/")[-1] if repository else plain(facts.title or "LLaVA-NeXT-Video"),
        name=repository or PLACEHOLDER_PATH,
        base_models=base_models,
        facts=facts,
        config=config,
        processor=processor,
        beyond_built_in=[code(f"{name}={value!r}") for name, value in config.settings_beyond_built_in.items()],
        # Of a frame, for any stride and grid; source: `__call__` in
        # transformers/models/llava_next_video/processing_llava_next_video.py.
        built_in_tokens=config.patches_per_side**2 // 4,
        tokens_per_frame=tokens_per_frame(config, processor),
        requirements=[f'"{line}"' for line in requires(DISTRIBUTION) or () if ";" not in line],
        newlines=NEWLINES[config.video_newline_position],
        sampling=sampling(processor),
        context=context(config),
        template=template_name(processor),
        prompt=example_prompt(processor),
        figures=published_figures(released, config, processor),
        unknown=released.unknown if released else (),
        code_license=metadata(DISTRIBUTION)["License-Expression"],
    )
    check_card(card)
    return card


def check_name(name: str | None):
    """Raise a ValueError if a name has characters that mean something in Markdown, YAML or a snippet."""
    if name is not None and (not name.isprintable() or set(name) & set('"`\\<>[]{}|#')):
        raise ValueError(
            f"The model card cannot name {name!r}; names of repositories and licenses are one line without quotes, "
            "backticks, backslashes, brackets and the like. Write it as the Hub does."
        )


def fenced(text: str, language: str = "text") -> str:
    """A block of code whose fence is longer than any run of backticks in it, so that its text cannot end it."""
    fence = "`" * max(3, 1 + longest_run(text))
    return f"{fence}{language}\n{text}\n{fence}"


def code(text: str) -> str:
    """Code in a line or in a cell of a table, which its text cannot end."""
    text = " ".join(str(text).split()).replace("|", "\\|")
    quotes = "`" * (1 + longest_run(text))
    space = " " if "`" in text else ""
    return f"{quotes}{space}{text}{space}{quotes}"


def longest_run(text: str) -> int:
    """How many backticks in a row a text has."""
    return max(map(len, re.findall("`+", text)), default=0)


def published_figures(
    released: Released | None, config: LlavaNextVideoConfig, processor: LlavaNextVideoProcessor
) -> dict | None:
    """Figures of a released checkpoint, if the files have the recipe that it was measured with."""
    for checkpoint, figures in PUBLISHED_FIGURES.items():
        if released is RELEASED[checkpoint] and matches_recipe(released.recipe, config, processor):
            return {"checkpoint": checkpoint, **figures}
    return None


def matches_recipe(recipe: Recipe, config: LlavaNextVideoConfig, processor: LlavaNextVideoProcessor) -> bool:
    """Whether a checkpoint has the facts of a recipe about pooling, layout and sampling; `None` matches everything."""
    facts = {fact: getattr(config, fact) for fact in MODEL_FACTS}
    facts |= {fact: getattr(processor.video_processor, fact) for fact in VIDEO_FACTS}
    return all(getattr(recipe, fact) in (None, value) for fact, value in facts.items())


def example_prompt(processor: LlavaNextVideoProcessor) -> str:
    """The prompt that the chat template makes of a video and a question."""
    content = [{"type": "video"}, {"type": "text", "text": "What happens in the video?"}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def tokens_per_frame(config: LlavaNextVideoConfig, processor: LlavaNextVideoProcessor) -> int:
    """How many tokens one more frame adds to a video, newlines included; for slow-fast videos, a fast frame."""
    one, two = (processor.count_video_tokens(count, config.vision_config.image_size) for count in (1, 2))
    return two - one


def sampling(processor: LlavaNextVideoProcessor) -> str:
    """Which frames of a video are read."""
    videos = processor.video_processor
    rate = "one a second" if videos.fps is None else f"{videos.fps:g} for each second of the video"
    if videos.fps is not None and videos.frame_sampling != "fps_capped":
        return rate
    return SAMPLING[videos.frame_sampling].format(n=videos.num_frames, rate=rate)


def context(config: LlavaNextVideoConfig) -> str:
    """How long a prompt may be; empty for language models without a limit."""
    trained = getattr(config.text_config, "max_position_embeddings", None)
    rope = getattr(config.text_config, "rope_parameters", None) or {}
    if trained is None:
        return ""
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        stretched = context_length(config.text_config)
        return f"{trained} tokens, stretched {rope['factor']:g} times (RoPE, linear): {stretched}"
    return f"{trained} tokens" + ("" if kind == "default" else f" (RoPE: {code(kind)})")


def template_name(processor: LlavaNextVideoProcessor) -> str:
    """The original code's name of the chat template, if it is one of the original's."""
    for file in CHAT_TEMPLATES.glob("*.jinja"):
        if file.read_text() == processor.chat_template:
            return f"`{file.stem}` of the original code"
    return "its own"
