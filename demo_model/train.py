"""Rebuild the demonstration checkpoint from nothing: `python -m demo_model.train --output package/demo_checkpoint`.

Two stages, because a model this small stalls at guessing when it starts with clips and words at once:

1. eyes: tower and projector learn, on crowded pictures, what stands where (a throw-away linear probe asks each patch
   and each pooled token for the colour, shape and centre of what it shows);
2. words: the language model learns to answer from what these eyes see; they stay as they are.

Matrices are trained with Muon, which needs a third of the steps that AdamW does here, and places start as waves.

Training may be stopped, and started again with the same `--state`: after `--minutes` it goes on where it was, and after
anything else from what was saved two minutes before or less.

Shapes in comments: B clips, F frames, H = W pixels, P rows and columns of patches, G of the pooled grid, D the language
model's width, L tokens.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast

from benchmarks.models import dtype
from llava_next_video import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)
from llava_next_video.processing import CHAT_TEMPLATES

from .clips import COLOURS, SHAPES
from .lessons import (
    FIRST_TRAINING_SEED,
    GRID,
    IGNORED,
    IMAGE_SIZE,
    MENTIONS,
    MOVEMENTS,
    NUM_FRAMES,
    PATCH_SIZE,
    PATCHES,
    POOL_STRIDE,
    ClipBatches,
    PictureBatches,
)
from .questions import KINDS
from .tokenizer import END, IMAGE, PAD, VIDEO, build_tokenizer, grow_tokenizer


SAVED_EVERY = 120  # seconds
POSITIONS = "embeddings.position_embedding.weight"
MUON_PEAK = 0.02  # rate of learning of matrices; those of other weights are given for each stage
# Without instructions for bfloat16 a processor is a hundred times slower with it.
AUTOCAST = {
    "device_type": "cpu",
    "dtype": torch.bfloat16,
    "enabled": dtype("cpu") == torch.bfloat16,
}


class OutOfTime(Exception):
    """The minutes of this run are over; what was learned is saved."""


def build_model(tokenizer) -> LlavaNextVideoForConditionalGeneration:
    """Return the model with random weights: the 32B Qwen recipe with everything but the recipe made small."""
    config = LlavaNextVideoConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.convert_tokens_to_ids(END),
            "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
        },
        spatial_pool_mode="average",
        spatial_pool_stride=POOL_STRIDE,
        spatial_pool_position="after_projector",
        video_newline_position="grid",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        image_aspect_ratio="square",
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        tie_word_embeddings=False,
    )
    model = LlavaNextVideoForConditionalGeneration(config)
    projector, language_model = model.model.multi_modal_projector, model.model.language_model
    with torch.no_grad():  # with what is usual at the start, nothing but colours is learned for hundreds of steps
        model.model.vision_tower.get_parameter(POSITIONS).copy_(sines_and_cosines(PATCHES, 128))
        for name, weight in (*projector.named_parameters(), *language_model.named_parameters()):
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # added to what is there
                nn.init.normal_(weight, std=0.5 * weight.shape[1] ** -0.5)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def kept_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that training began with, or begin with one: it is grown on the lessons, and they may change
    before training goes on."""
    if not file.exists():
        grow_tokenizer().save(str(file))
    return build_tokenizer(Tokenizer.from_file(str(file)))


def sines_and_cosines(side: int, width: int) -> torch.Tensor:
    """Return a vector for each patch of a square, (side * side, width): waves of the row, and of the column, from one
    as long as the square to one as short as a patch."""
    lengths = torch.logspace(math.log10(2), math.log10(4 * side), width // 4)
    angles = 2 * math.pi * torch.arange(side)[:, None] / lengths
    waves = 0.5 * torch.cat([angles.sin(), angles.cos()], -1)  # (side, width / 2)
    return torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], -1)


@torch.compile  # wants a C++ compiler, and saves a quarter of the time
def see(model: nn.Module, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn uint8 `pictures` (B, H, W, 3) into a vector for each patch, (B, P*P, D), and for each cell of the pooled
    grid, (B, G*G, D)."""
    pixels = pictures.movedim(-1, 1).float() / 127.5 - 1  # (B, 3, H, W), mean and standard deviation 0.5
    patches = model.model.multi_modal_projector(model.model.encode_frames(pixels))  # (B, P, P, D)
    return patches.flatten(1, 2), model.model.vision_resampler(patches).flatten(1, 2)


# --- training ---


class Run:
    """One run of the script: until when, and where the state is kept."""

    def __init__(self, state: Path, minutes: float | None):
        self.state = state
        self.ends = math.inf if minutes is None else time.monotonic() + 60 * minutes
        state.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str, modules: nn.ModuleDict, peak: float, batches: torch.utils.data.Dataset):
        """Go through the batches of a stage that are left: number, batch, and a function that takes a loss and makes a
        step. Nothing is left of a stage that is over. `peak` is the highest rate of learning of what is no matrix of a
        layer."""
        file, steps = self.state / f"{name}.pt", len(batches)
        matrices, others = [], []
        for of, weight in modules.named_parameters():
            (matrices if weight.ndim == 2 and ".layers." in of else others).append(weight)
        optimizers = {
            "of_matrices": torch.optim.Muon(matrices, lr=MUON_PEAK, momentum=0.95, weight_decay=0.01),
            "of_others": torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.98), weight_decay=0.01),
        }
        schedules = {
            f"schedule_{of}": torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * min(1, step / steps)))
            )
            for of, optimizer in optimizers.items()
        }
        kept, begun = {"modules": modules, **optimizers, **schedules}, 0
        if file.exists():
            saved = torch.load(file, weights_only=True)
            begun = saved.pop("step")
            for part, states in saved.items():
                kept[part].load_state_dict(states)

        def save(step: int):
            partial = file.with_suffix(".partial")
            torch.save({"step": step, **{part: of_part.state_dict() for part, of_part in kept.items()}}, partial)
            partial.replace(file)

        def learn(loss: torch.Tensor):
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            for part in (*optimizers.values(), *schedules.values()):
                part.step()
            modules.zero_grad()

        left = torch.utils.data.Subset(batches, range(begun, steps))
        # A process beside the training prepares batches, in order.
        loader = torch.utils.data.DataLoader(left, batch_size=None, num_workers=1, prefetch_factor=4)
        saved_at = time.monotonic()
        for step, batch in enumerate(loader, begun):
            yield step, batch, learn
            if time.monotonic() > min(self.ends, saved_at + SAVED_EVERY):
                save(step + 1)
                saved_at = time.monotonic()
            if saved_at > self.ends:
                raise OutOfTime(f"{name}: {step + 1} of {steps} steps")
        save(steps)


def train_eyes(model: nn.Module, run: Run, steps: int, batch_size: int = 128) -> None:
    """Stage 1: teach tower and projector to say in each patch, and in each pooled token, what it shows."""
    probe = nn.Linear(model.config.text_config.hidden_size, 1 + len(COLOURS) + len(SHAPES) + 2)
    tower = model.model.vision_tower
    eyes = nn.ModuleDict({"tower": tower, "projector": model.model.multi_modal_projector, "probe": probe})
    tower.set_attn_implementation("eager")  # twice as fast as torch's own kernel, whose backward is slow on a CPU
    started = time.monotonic()
    for step, (pictures, labels, centres), learn in run.stage("eyes", eyes, 1.5e-3, PictureBatches(steps, batch_size)):
        with torch.autocast(**AUTOCAST):
            seen = probe(torch.cat(see(model, pictures), 1)).float()  # (B, P*P + G*G, ...)
        there, colour, shape, place = seen.split([1, len(COLOURS), len(SHAPES), 2], -1)
        sure, covered = labels[..., 0] != IGNORED, labels[..., 0] == 1
        is_pooled = torch.arange(labels.shape[1]).expand_as(covered)[covered] >= labels.shape[1] - GRID * GRID
        colour, shape, place = colour[covered], shape[covered], place[covered]
        names, off = labels[covered], place - (4 * centres[covered] - 2)
        losses = (
            functional.binary_cross_entropy_with_logits(there[..., 0][sure], covered[sure].float()),
            functional.cross_entropy(colour, names[:, 1]),
            2 * functional.cross_entropy(shape, names[:, 2]),
            2 * functional.smooth_l1_loss(off, torch.zeros_like(off), beta=0.1),
        )
        learn(sum(losses))
        if step % 50 == 0 or step == steps - 1:
            right = [
                (out.argmax(-1) == names[:, i])[is_pooled].float().mean().item()
                for i, out in enumerate((colour, shape), 1)
            ]
            print(
                f"eyes {step:5d}  loss {sum(losses).item():.3f}  colour {right[0]:.1%}  shape {right[1]:.1%}  "
                f"centre off by {off.abs().mean().item() / 4 * IMAGE_SIZE:.1f} px  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    tower.set_attn_implementation("sdpa")


def read(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return what the model says before each learned token, (learned tokens of all B, vocabulary), and its hidden
    states halfway through the language model: where it sees the cells of the pooled grid, (B, F, G*G, D), or the
    patches of a picture, (B, 1, P*P, D), and before each learned token, (learned tokens of all B, D)."""
    num_clips, num_frames = batch["frames"].shape[:2]
    with torch.no_grad():
        patches, cells = see(model, batch["frames"].flatten(0, 1))
    # The eyes are not trained here, but the newline is: behind each row of a frame, and behind a picture.
    rows = patches if batch["is_picture"] else cells.unflatten(1, (GRID, GRID)).flatten(0, 1)
    newlines = model.model.image_newline.to(rows).expand(len(rows), 1, -1)
    features = torch.cat([rows, newlines], 1)  # (B*F*G, G + 1, D), or (B, P*P + 1, D)
    embeddings = model.get_input_embeddings()(batch["ids"])
    token = model.config.image_token_index if batch["is_picture"] else model.config.video_token_index
    shown = batch["ids"] == token
    embeddings = embeddings.masked_scatter(shown[..., None], features.to(embeddings.dtype))
    outputs = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": batch["mask"]},
        position_ids=batch["positions"],
        use_cache=False,
        output_hidden_states=True,
    )
    halfway = outputs.hidden_states[model.config.text_config.num_hidden_layers // 2]
    cells = halfway[shown].view(*features.shape)[:, :-1].reshape(num_clips, num_frames, -1, halfway.shape[-1])
    speaking = batch["labels"][:, 1:] != IGNORED
    return model.lm_head(outputs.last_hidden_state[:, :-1][speaking]), cells, halfway[:, :-1][speaking]


def train_answers(model: nn.Module, tokenizer, run: Run, steps: int, batch_size: int = 16) -> None:
    """Stage 2: learn to answer, with eyes that stay as they are.

    Two more throw-away probes ask the first half of the language model: in each cell, which way the shape it sees is
    moving and whether it is the first one; in each word of an answer, what the question mentioned. Without them the
    model answers for long as if frames had no order, and about either shape.
    """
    sizes = [len(COLOURS), len(SHAPES), len(MOVEMENTS), 2]
    cell_probe = nn.Linear(model.config.text_config.hidden_size, sum(sizes))
    mention_sizes = [len(group) for group in MENTIONS]
    mention_probe = nn.Linear(model.config.text_config.hidden_size, sum(mention_sizes))
    words = nn.ModuleDict(
        {
            "language_model": model.model.language_model,
            "head": model.lm_head,
            "newline": nn.ParameterList([model.model.image_newline]),
            "cells": cell_probe,
            "mentions": mention_probe,
        }
    )
    unseen = ClipBatches(tokenizer, 4, 32, first_seed=FIRST_TRAINING_SEED // 2)
    checks = [unseen[step] for step in range(len(unseen))]
    started, losses = time.monotonic(), []
    batches = ClipBatches(tokenizer, steps, batch_size, 10 * FIRST_TRAINING_SEED)
    for step, batch, learn in run.stage("words", words, 1.5e-3, batches):
        with torch.autocast(**AUTOCAST):
            logits, cells, speaking = read(model, batch)
            guesses = cell_probe(cells).float().split(sizes, -1)
            recalls = mention_probe(speaking).float().split(mention_sizes, -1)
        targets = batch["labels"][:, 1:]
        loss = functional.cross_entropy(logits.float(), targets[targets != IGNORED])
        seen = []
        for number, guess in enumerate(guesses, 1):
            labels = batch["cells"][..., number]
            if (labels != IGNORED).any():
                seen.append(functional.cross_entropy(guess.flatten(0, 2), labels.flatten(), ignore_index=IGNORED))
        mentions = batch["mentions"][:, 1:][targets != IGNORED]
        recalled = [functional.cross_entropy(recall, mentions[:, i]) for i, recall in enumerate(recalls)]
        learn(loss + sum(seen) + sum(recalled))
        losses.append([loss.item(), sum(seen).item(), sum(recalled).item()])
        if step % 100 == 99 or step == steps - 1:
            recent = np.mean(losses[-100:], 0)
            print(
                f"words {step + 1:5d}  loss {recent[0]:.4f}  probes {recent[1]:.3f} {recent[2]:.3f}  "
                f"{check(model, tokenizer, checks)}  {time.monotonic() - started:.0f} s",
                flush=True,
            )


@torch.no_grad()
def check(model: nn.Module, tokenizer, batches: list[dict[str, torch.Tensor]]) -> str:
    """Report the share of answers that would be said word for word, per kind of question, on clips kept for this."""
    end, right = tokenizer.convert_tokens_to_ids(END), {kind: [] for kind in KINDS}
    for batch in batches:
        targets, kinds = batch["labels"][:, 1:], batch["kinds"][:, 1:]
        learned = targets != IGNORED
        said = read(model, batch)[0].argmax(-1).tolist()
        so_far = True
        for token, target, kind in zip(said, targets[learned].tolist(), kinds[learned].tolist()):
            so_far = so_far and token == target
            if target == end:
                right[KINDS[kind]].append(so_far)
                so_far = True
    return "  ".join(f"{kind} {np.mean(answers):.1%}" for kind, answers in right.items())


def save(model: nn.Module, tokenizer, folder: Path) -> None:
    """Write weights, tokenizer and processor, as transformers loads them."""
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=40,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written readable by its owner only, which a wheel would keep
    pixels = {
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_center_crop": False,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    LlavaNextVideoProcessor.for_model(
        model.config,
        tokenizer,
        pixels=pixels,
        videos={"num_frames": NUM_FRAMES},
        chat_template=(CHAT_TEMPLATES / "qwen_1_5.jinja").read_text(encoding="utf-8"),
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("package/demo_checkpoint"))
    parser.add_argument("--state", type=Path, default=Path("build/demo_training"), help="what was learned so far")
    parser.add_argument("--minutes", type=float, help="stop after so long, and write what there is")
    parser.add_argument("--steps", type=int, nargs=2, default=(1600, 3400), metavar=("EYES", "WORDS"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    run, (eyes, words) = Run(args.state, args.minutes), args.steps
    tokenizer = kept_tokenizer(run.state / "tokenizer.json")
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    try:
        train_eyes(model, run, eyes)
        train_answers(model, tokenizer, run, words)
    except OutOfTime as stopped_at:
        print(f"{stopped_at}; the same command goes on from there")
    save(model, tokenizer, args.output)


if __name__ == "__main__":
    main()
