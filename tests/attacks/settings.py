"""Settings, chat templates and names of checkpoints from strangers."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from llava_next_video import (
    DEMO_CHECKPOINT,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    export_for_hub,
)
from llava_next_video.conversion.plan import plan_conversion
from llava_next_video.conversion.to_original import plan_conversion_to_original
from llava_next_video.hub.checkpoint_folders import SETTINGS_FILES
from llava_next_video.hub.model_card import model_card
from llava_next_video.modeling.checkpoint_settings import CheckpointError
from tests.attacks import Attack
from tests.golden_data import Recording


ORIGINAL = Recording("qwen_grid_avg")
# What settings of the original code may be damaged to; each ends in an error that says so.
VALUES = ("x", "5", -1, 0, 10**9, 10**400, 1e308, [], {}, [[]], {"a": 1}, True, "é" * 1000)
KEYS = (
    "add_faster_video",
    "architectures",
    "hidden_size",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "max_position_embeddings",
    "mm_newline_position",
    "mm_pooling_position",
    "mm_projector_type",
    "mm_spatial_pool_mode",
    "mm_spatial_pool_stride",
    "mm_vision_tower",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "torch_dtype",
    "vocab_size",
)


def attacks(folder: Path) -> list[Attack]:
    def copy_of(checkpoint: Path | str, name: str, text: str) -> Path:
        number = len(list(folder.iterdir()))
        copy = Path(shutil.copytree(checkpoint, folder / str(number), ignore=shutil.ignore_patterns("*.py")))
        (copy / name).write_text(text)
        return copy

    def of_the_original(name: str, text: str) -> Callable:
        tower = ORIGINAL.vision_tower
        return lambda: plan_conversion(str(copy_of(ORIGINAL.checkpoint, name, text)), vision_tower=tower)

    def with_tower(name: str) -> Callable:
        settings = json.loads((ORIGINAL.checkpoint / "config.json").read_text()) | {"mm_vision_tower": name}
        return lambda: plan_conversion(str(copy_of(ORIGINAL.checkpoint, "config.json", json.dumps(settings))))

    def every_damage():
        """All values in all keys: an error that is documented, or a conversion that can be planned."""
        settings = json.loads((ORIGINAL.checkpoint / "config.json").read_text())
        copy = copy_of(ORIGINAL.checkpoint, "config.json", "{}")
        for key in KEYS:
            for value in VALUES:
                (copy / "config.json").write_text(json.dumps({**settings, key: value}))
                try:
                    plan_conversion(str(copy), vision_tower=ORIGINAL.vision_tower)
                except (ValueError, OSError):
                    continue
                except Exception as error:
                    raise AssertionError(f"{key} = {str(value)[:20]}") from error

    def every_damage_to_a_part(part: str):
        """All values in all settings of the video or image processor, and a text in place of each of its methods: an
        error that is documented, or pixels and a model card."""
        copy = copy_of(DEMO_CHECKPOINT, "preprocessor_config.json", "{}")
        settings = json.loads((copy / "processor_config.json").read_text())
        media = {f"{part.removesuffix('_processor')}s": np.zeros((2, 24, 32, 3), dtype=np.uint8)}
        part_class = type(getattr(LlavaNextVideoProcessor.from_pretrained(copy), part))
        known = {*settings[part], *part_class.valid_kwargs.__annotations__}
        values = {name: (*VALUES, "cuda:9", "meta") if name in known else ("x",) for name in {*known, *dir(part_class)}}
        for name in values:
            for value in values[name]:
                damaged = {**settings, part: {**settings[part], name: value}}
                (copy / "processor_config.json").write_text(json.dumps(damaged))
                try:
                    processor = LlavaNextVideoProcessor.from_pretrained(copy)
                    pixels = next(iter(processor(**media).values()))
                    assert pixels[0].device.type == "cpu"
                    model_card(copy)
                except (ValueError, OSError):
                    continue
                except Exception as error:
                    raise AssertionError(f"{part}: {name} = {str(value)[:20]}") from error

    def of_the_tower(text: str) -> Callable:
        def run():
            tower = Path(shutil.copytree(ORIGINAL.vision_tower, folder / f"tower-{len(text)}"))
            (tower / "config.json").write_text(text)
            plan_conversion(str(ORIGINAL.checkpoint), vision_tower=str(tower))

        return run

    def of_ours(name: str, text: str) -> list[Callable]:
        return [
            lambda: LlavaNextVideoForConditionalGeneration.from_pretrained(copy_of(DEMO_CHECKPOINT, name, text)),
            lambda: LlavaNextVideoProcessor.from_pretrained(copy_of(DEMO_CHECKPOINT, name, text)),
            lambda: LlavaNextVideoConfig.from_pretrained(copy_of(DEMO_CHECKPOINT, name, text)),
            lambda: export_for_hub(copy_of(DEMO_CHECKPOINT, name, text), folder / "made"),
            lambda: plan_conversion_to_original(str(copy_of(DEMO_CHECKPOINT, name, text)), vision_tower="a/b"),
        ]

    def of_the_hub(name: str, text: str, loaded: type) -> Callable:
        def run():
            cache = Path(copy_of(DEMO_CHECKPOINT, name, text))
            repository = folder / f"cache-{cache.name}" / "models--a--b"
            (repository / "refs").mkdir(parents=True)
            (repository / "refs" / "main").write_text("0123")
            shutil.move(cache, repository / "snapshots" / "0123")
            loaded.from_pretrained("a/b", cache_dir=repository.parent, local_files_only=True)

        return run

    def with_setting(key: str, value: object) -> Callable:
        text = json.dumps({**json.loads((Path(DEMO_CHECKPOINT) / "config.json").read_text()), key: value})
        return of_ours("config.json", text)[0]

    def of_the_card(template: str) -> Callable:
        def run():
            copy = copy_of(DEMO_CHECKPOINT, "chat_template.jinja", template)
            card = model_card(copy)
            for evil in ("# Evil", "license: evil"):
                assert f"\n{evil}" not in outside_of_fences(card)

        return run

    deep = "[" * 10**6
    deep_in_names = '{"a":' * 10**5
    names = [name for name in SETTINGS_FILES if (Path(DEMO_CHECKPOINT) / name).is_file()]
    return [
        *(
            Attack(f"{name} of {text[:5]}", of_the_original(name, text), CheckpointError, "damaged: ")
            for name in SETTINGS_FILES
            for text in (deep, deep_in_names, "[]", "7", "null", "{", "")
        ),
        Attack(
            "a tokenizer of lists", of_the_original("tokenizer.json", deep), CheckpointError, "tower|cannot be used"
        ),
        Attack("every damage to config.json", every_damage, None, seconds=300),
        *(
            Attack(f"every damage to the {part}", partial(every_damage_to_a_part, part), None, seconds=300)
            for part in ("video_processor", "image_processor")
        ),
        *(
            Attack(f"the tower {tower[:9]!r}", with_tower(tower), CheckpointError, "nor a folder inside the", shows=500)
            for tower in (
                *("../../../etc", "/etc", str(folder), "..", "a/../../b", "~", "file:///etc", "/proc/self/root"),
                *("\0", "a" * 5000, "\ud800"),
            )
        ),
        Attack("the checkpoint itself as a tower", with_tower("."), ValueError, "CLIP or a SigLIP tower"),
        *(
            Attack(f"a tower's config.json of {text[:9]}", of_the_tower(text), CheckpointError, "damaged")
            for text in (deep, "[]", '{"model_type": "siglip_vision_model"}', '{"vision_config": 7}')
        ),
        *(
            Attack(f"{name} of ours, {text[:5]}, {number}", attempt, CheckpointError, "damaged: ")
            for name in names
            for text in (deep, deep_in_names, "[]", "", "null", "{" + " " * 2**23 + "}")
            for number, attempt in enumerate(of_ours(name, text))
        ),
        *(
            Attack(
                f"{name} from the Hub, {text[:5]}, {loaded.__name__}",
                of_the_hub(name, text, loaded),
                CheckpointError,
                "damaged: ",
            )
            for name in names
            for text in (deep, deep_in_names, "[]", "", "null")
            for loaded in (LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor)
        ),
        *(
            Attack(f"a tokenizer of ours, {text[:5]}, {number}", attempt, ValueError, "cannot be used")
            for text in (deep, "null", "[]", "{}", "\0\1\2")
            for number, attempt in enumerate(of_ours("tokenizer.json", text)[1:4:2])
        ),
        *(
            Attack(f"{key} of ours is {str(value)[:9]}", with_setting(key, value), ValueError, match, shows=1000)
            for key, value, match in (
                ("quantization_config", 5, "cannot be used"),
                ("attn_implementation", 5, "no model can use"),
                ("dtype", 1e308, "no model can use"),
                ("dtype", "x" * 10**6, "cannot be made"),
                ("image_grid_pinpoints", [[336, 336]] * 10**5, "1 to 1000 of them"),
                ("image_grid_pinpoints", [[336, 336]] * 10**6, "damaged: it has"),
                ("spatial_pool_mode", "x" * 10**6, "cannot be used"),
            )
        ),
        *(
            Attack(
                f"a template with {quotes}",
                of_the_card(f"a\n{quotes}\n# Evil\n---\nlicense: evil\n---\n{quotes}"),
                None,
            )
            for quotes in ("`", "```", "`````", "~~~", "```text")
        ),
    ]


def outside_of_fences(card: str) -> str:
    """What of a card is not code, as Markdown reads it."""
    lines, fence = [], None
    for line in card.splitlines():
        run = len(line) - len(line.lstrip("`"))
        if fence is None and run >= 3:
            fence = run
        elif fence is not None and run >= fence and not line.strip("` "):
            fence = None
        elif fence is None:
            lines.append(line)
    return "\n".join(["", *lines])
