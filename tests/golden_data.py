"""Reads what was recorded by running the original code (tests/golden/README.md)."""

import json
import os
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from llava_next_video.hub.recipes import Recipe, recipe_named


GOLDEN = Path(os.environ.get("LLAVA_NEXT_VIDEO_GOLDEN", Path(__file__).parent / "golden"))
CASES = ("video", "image", "image2", "image_small", "text", "multiturn", "image_video")
# Which released checkpoint each variant is a miniature of, and how many frames it was recorded with.
RECIPES = {
    "qwen_grid_avg": replace(recipe_named("LLaVA-NeXT-Video-32B-Qwen"), num_frames=8),
    "llama_notoken_avg_before": replace(recipe_named("LLaVA-NeXT-Video-7B"), num_frames=4),
    "qwen_siglip_grid_bilinear": replace(recipe_named("LLaVA-Video-7B-Qwen2"), num_frames=4),
}
VARIANTS = tuple(RECIPES)


class Recording:
    """One variant: its checkpoint, inputs, and what the original computed from them."""

    def __init__(self, variant: str):
        self.folder = GOLDEN / variant
        self.checkpoint = self.folder / "checkpoint"
        self.vision_tower = str(self.folder / "vision_tower")
        self.video = str(self.folder / "inputs" / "video.mp4")
        self.recipe: Recipe = RECIPES[variant]
        self.meta = json.loads((self.folder / "meta.json").read_text())
        self.preprocessing = json.loads((self.folder / "vision_tower" / "preprocessor_config.json").read_text())
        self.vocab_size = self.meta["config"]["vocab_size"]

    @lru_cache  # noqa: B019 - recordings live as long as the tests
    def expected(self, name: str = "expected") -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def pixel_values(self, what: str) -> torch.Tensor:
        """Recorded pixel values of "video" or "image.NAME"."""
        tensors = self.expected()
        if f"{what}.pixel_values" in tensors:
            return tensors[f"{what}.pixel_values"]
        mean, std = (torch.tensor(self.preprocessing[key])[:, None, None] for key in ("image_mean", "image_std"))
        return ((tensors[f"{what}.pixel_levels"].double() * (1 / 255)).float() - mean) / std

    def visuals(self, case: str) -> list[str]:
        """What a case shows, in order: "video", "image.NAME"."""
        return [visual.replace(":", ".") for visual in self.meta["cases"][case]["visuals"]]

    def messages(self, case: str) -> list[dict]:
        """The conversation of a case, as for a chat template; a time sentence in it is left to the processor."""
        messages, visuals = [], self.visuals(case)
        for number, turn in enumerate(self.meta["cases"][case]["turns"]):
            turn = turn.replace(self.meta["time_instruction"] or "\0", "")
            pieces = re.split(r"<image>\n", turn)
            parts = [{"type": visuals.pop(0).split(".")[0]} for _ in pieces[1:]]
            text = {"type": "text", "text": pieces[-1]}
            messages.append({"role": ("user", "assistant")[number % 2], "content": [*parts, text]})
        return messages

    def media(self, *cases: str) -> dict:
        """Files of the images and videos of some cases, as arguments of the processor."""
        visuals = [visual for case in cases for visual in self.visuals(case)]
        images = [str(self.folder / "inputs" / f"{v.split('.')[1]}.png") for v in visuals if v != "video"]
        videos = [self.video for visual in visuals if visual == "video"]
        return {name: files for name, files in (("images", images), ("videos", videos)) if files}

    def pixels(self, *cases: str) -> dict:
        """Recorded pixels of the images and videos of some cases, as arguments of the model."""
        visuals = [visual for case in cases for visual in self.visuals(case)]
        images = [visual for visual in visuals if visual != "video"]
        arguments = {}
        if images:
            sizes = [self.expected()[f"{image}.size_wh"].flip(0) for image in images]
            arguments["pixel_values"] = [self.pixel_values(image) for image in images]
            arguments["image_sizes"] = torch.stack(sizes)
        if "video" in visuals:
            arguments["pixel_values_videos"] = [self.pixel_values("video") for v in visuals if v == "video"]
        return arguments

    def says_times(self, case: str) -> bool:
        """Whether the recorded prompt has the sentence about the frames' times."""
        return "The video lasts for" in self.meta["cases"][case]["prompt"]


def collapsed(ids: list[int], config) -> list[int]:
    """Ids with each run of placeholders as one -200, as the original has them."""
    collapsed_ids = []
    for token, previous in zip(ids, [None, *ids]):
        if token not in (config.image_token_index, config.video_token_index):
            collapsed_ids.append(token)
        elif token != previous:
            collapsed_ids.append(-200)
    return collapsed_ids
