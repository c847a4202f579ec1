"""Rebuild the demonstration checkpoint from nothing: `python -m demo_model.train --output package/demo_checkpoint`.

Two stages, because a model this small stalls at guessing when it starts with clips and words at once:

1. eyes: tower and projector learn, on single frames, what stands where (a throw-away linear probe asks each pooled
   token for the colour, shape and centre of what it shows);
2. words: the language model learns to answer from what these eyes see; they stay as they are.

Shapes in comments: B clips, F frames, H = W pixels, G rows and columns of the pooled grid, D the language model's
width, L tokens.
"""

import argparse
import math
import random
import re
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationConfig

from llava_next_video import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)
from llava_next_video.processing import CHAT_TEMPLATES

from .clips import COLOURS, DIRECTIONS, KINDS, SHAPES, Clip, ask, kinds_of, sample_indices
from .tokenizer import END, IMAGE, PAD, VIDEO, build_tokenizer, prompt_before, turn


IMAGE_SIZE, PATCH_SIZE, POOL_STRIDE = 64, 8, 2
GRID = IMAGE_SIZE // PATCH_SIZE // POOL_STRIDE
TOKENS_PER_FRAME = GRID * (GRID + 1)  # one newline closes each row
NUM_FRAMES = 8
FIRST_TRAINING_SEED = 1_000_000  # seeds below are left for evaluation
# What a question may mention, in groups that a probe asks for; the last of each stands for none of the others.
MENTIONS = ((*COLOURS, ""), (*SHAPES, "shape", "it", ""), ("first", "second", "last", ""))
IGNORED = -100  # label of the tokens that are not learned


def build_model(tokenizer) -> LlavaNextVideoForConditionalGeneration:
    """Return the model with random weights: the 32B Qwen recipe with everything but the recipe made small."""
    config = LlavaNextVideoConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 320,
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
    return LlavaNextVideoForConditionalGeneration(config)


def visual_tokens(model: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """Turn uint8 `frames` (B, F, H, W, 3) into what the language model reads of them, (B, F*G*(G+1), D)."""
    pixels = frames.movedim(-1, 2).float() / 127.5 - 1  # (B, F, 3, H, W), mean and standard deviation 0.5
    features = model.get_video_features(pixels).pooler_output
    return torch.stack(tuple(features))


# --- data ---


def render_for_training(clip: Clip, frames: list[int], rng: np.random.Generator) -> np.ndarray:
    """Paint `frames` at the model's size, with a little of what cameras and codecs do to brightness and grain."""
    pictures = clip.render(frames, (IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    pictures = pictures * rng.uniform(0.92, 1.08) + rng.uniform(-8, 8)
    pictures += rng.uniform(0, 4) * rng.standard_normal(pictures.shape, np.float32)
    return pictures.round().clip(0, 255).astype(np.uint8)


def cell_targets(clip: Clip, frames: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return what each cell of the pooled grid shows, frame by frame.

    Returns:
        (F, G*G, 4) numbers of colour, shape, direction and place in the order of appearance, `IGNORED` in empty cells;
        the direction also in the first frame that shows the shape, which cannot tell it.
        (F, G*G, 2) centre of the shape, y and x.
    """
    labels = np.full((len(frames), GRID, GRID, 4), IGNORED)
    centres = np.zeros((len(frames), GRID, GRID, 2), np.float32)
    edges = np.arange(GRID + 1) / GRID
    for nth, mover in enumerate(clip.movers):
        names = [list(COLOURS).index(mover.colour), SHAPES.index(mover.shape), IGNORED, nth]
        radii = [mover.radius * min(clip.height, clip.width) / side for side in (clip.height, clip.width)]
        for number, frame in enumerate(frames):
            centre = mover.centre(frame / (clip.num_frames - 1))
            if centre is None:
                continue
            rows, columns = (
                np.clip(np.minimum(edges[1:], c + r) - np.maximum(edges[:-1], c - r), 0, None) * GRID
                for c, r in zip(centre, radii)
            )
            cells = np.outer(rows, columns) > 0.2  # covered by a fifth at least
            cells[tuple(int(c * GRID) for c in centre)] = True
            labels[number, cells] = names
            centres[number, cells] = centre
            names[2] = list(DIRECTIONS).index(mover.direction)
    return labels.reshape(len(frames), -1, 4), centres.reshape(len(frames), -1, 2)


class FrameBatches(torch.utils.data.Dataset):
    """Batches of single frames, and for each cell of the pooled grid the colour, shape and centre of what it shows."""

    def __init__(self, steps: int, batch_size: int):
        self.steps, self.batch_size = steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng(step)
        frames, labels, centres = [], [], []
        for seed in range(step * self.batch_size, (step + 1) * self.batch_size):
            clip = Clip.from_seed(FIRST_TRAINING_SEED + seed)
            frame = int(rng.integers(clip.num_frames))
            frames.append(render_for_training(clip, [frame], rng))
            label, centre = (of_frames[0] for of_frames in cell_targets(clip, [frame]))
            labels.append(label)
            centres.append(centre)
        return tuple(torch.from_numpy(np.stack(arrays)) for arrays in (frames, labels, centres))


class ClipBatches(torch.utils.data.Dataset):
    """Batches of clips with several conversations each.

    The conversations of a clip stand in one sequence behind its visual tokens, but none sees the others: positions
    start anew and the mask hides them. To the model each is alone with the clip, as in use, and the clip is paid once.
    """

    def __init__(self, tokenizer, steps: int, batch_size: int, first_seed: int, conversations: int = 6):
        self.tokenizer, self.steps, self.batch_size = tokenizer, steps, batch_size
        self.first_seed, self.conversations = first_seed, conversations

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng, noise = random.Random(self.first_seed + step), np.random.default_rng(self.first_seed + step)
        num_frames = NUM_FRAMES if rng.random() < 0.7 else rng.randint(4, 12)
        prompt = self.tokenizer(prompt_before(num_frames * TOKENS_PER_FRAME)).input_ids
        frames, cells, rows = [], [], []
        for seed in range(step * self.batch_size, (step + 1) * self.batch_size):
            clip = Clip.from_seed(self.first_seed + seed)
            sampled = sample_indices(clip.num_frames, num_frames)
            frames.append(render_for_training(clip, sampled, noise))
            cells.append(cell_targets(clip, sampled)[0])
            rows.append(self.pack(clip, prompt, rng))
        length = max(len(row[0]) for row in rows)
        pads = self.tokenizer.pad_token_id, IGNORED, 0, -1, -1, [IGNORED] * len(MENTIONS)
        ids, labels, positions, conversations, kinds, mentions = (
            torch.tensor([row[i] + [pad] * (length - len(row[i])) for row in rows]) for i, pad in enumerate(pads)
        )
        same = conversations[:, :, None] == conversations[:, None, :]
        mask = torch.tril(same | (conversations == 0)[:, None, :])  # everyone sees the prompt (0) and its own past
        return {
            "frames": torch.from_numpy(np.stack(frames)),  # (B, F, H, W, 3)
            "cells": torch.from_numpy(np.stack(cells)),  # (B, F, G*G, 4)
            "ids": ids, "labels": labels, "positions": positions, "kinds": kinds,  # each (B, L)
            "mentions": mentions,  # (B, L, groups)
            "mask": mask[:, None],  # (B, 1, L, L)
        }  # fmt: skip

    def pack(self, clip: Clip, prompt: list[int], rng: random.Random) -> tuple[list[int], ...]:
        """Return, token by token: id, label, position, conversation (0 is the prompt), kind of the answer (elsewhere
        -1), and what the question of that answer mentions."""
        ids, labels, positions = list(prompt), [IGNORED] * len(prompt), list(range(len(prompt)))
        conversations, kinds, nothing = [0] * len(prompt), [-1] * len(prompt), [IGNORED] * len(MENTIONS)
        mentions = [nothing] * len(prompt)
        for conversation in range(1, self.conversations + 1):
            start = len(ids)
            turns = 1 if rng.random() < 0.8 else rng.randint(2, 3)
            for number in range(turns):
                question = ask(clip, rng.choice([*kinds_of(clip), "direction", "shape"]), rng)
                asked, answered = self.tokenizer(list(turn(question.text, question.answer, number == 0))).input_ids
                ids += asked + answered
                labels += [IGNORED] * len(asked) + answered
                kinds += [-1] * len(asked) + [KINDS.index(question.kind)] * len(answered)
                mentions += [nothing] * len(asked) + [mentioned(question.text)] * len(answered)
            conversations += [conversation] * (len(ids) - start)
            positions += range(len(prompt), len(prompt) + len(ids) - start)
        return ids, labels, positions, conversations, kinds, mentions


def mentioned(question: str) -> list[int]:
    """Return for each group of `MENTIONS` which of its words the question has.

    >>> mentioned("Which way does the red square move?")
    [0, 1, 3]
    """
    words = re.findall("[a-z]+", question.lower())
    return [next(i for i, word in enumerate(group) if word in words or not word) for group in MENTIONS]


def loader(batches: torch.utils.data.Dataset) -> torch.utils.data.DataLoader:
    """Prepare batches in a process beside the training, in order."""
    return torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)


# --- training ---


class Trainer:
    """AdamW over some parameters, with warm-up and a cosine down to nothing."""

    def __init__(self, modules: list[nn.Module | nn.Parameter], steps: int, peak: float, warmup: int = 50):
        parameters = [p for m in modules for p in (m.parameters() if isinstance(m, nn.Module) else [m])]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
        )

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()


def train_eyes(model: nn.Module, steps: int, batch_size: int = 128) -> None:
    """Stage 1: teach tower and projector, on single frames, to say in each pooled token what it shows."""
    probe = nn.Linear(model.config.text_config.hidden_size, 1 + len(COLOURS) + len(SHAPES) + 2)
    trainer = Trainer([model.model.vision_tower, model.model.multi_modal_projector, probe], steps, peak=1.5e-3)
    started = time.monotonic()
    for step, (frames, labels, centres) in enumerate(loader(FrameBatches(steps, batch_size))):
        features = visual_tokens(model, frames).unflatten(1, (GRID, GRID + 1))[:, :, :-1]  # without newlines
        there, colour, shape, place = probe(features.flatten(1, 2)).split([1, len(COLOURS), len(SHAPES), 2], -1)
        covered = labels[..., 0] != IGNORED  # (B, G*G)
        colour, shape, place, labels = colour[covered], shape[covered], place[covered], labels[covered]
        losses = (
            functional.binary_cross_entropy_with_logits(there.squeeze(-1), covered.float()),
            functional.cross_entropy(colour, labels[:, 0]),
            functional.cross_entropy(shape, labels[:, 1]),
            10 * functional.smooth_l1_loss(place, 4 * centres[covered] - 2, beta=0.1),
        )
        trainer.step(sum(losses))
        if step % 50 == 0 or step == steps - 1:
            right = [(out.argmax(-1) == labels[:, i]).float().mean().item() for i, out in enumerate((colour, shape))]
            off = (place / 4 + 0.5 - centres[covered]).abs().mean().item()
            print(
                f"eyes {step:5d}  loss {sum(losses).item():.3f}  colour {right[0]:.1%}  shape {right[1]:.1%}  "
                f"centre off by {off * IMAGE_SIZE:.1f} px  {time.monotonic() - started:.0f} s",
                flush=True,
            )


def read(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return what the model says before each learned token, (learned tokens of all B, vocabulary), and its hidden
    states halfway through the language model: where it sees the cells of the pooled grid, (B, F, G*G, D), and before
    each learned token, (learned tokens of all B, D)."""
    with torch.no_grad():
        features = visual_tokens(model, batch["frames"])
    # The eyes are not trained here, but the newline is.
    rows = features.unflatten(1, (-1, GRID + 1))
    newlines = model.model.image_newline.expand(*rows.shape[:2], 1, -1)
    features = torch.cat([rows[:, :, :-1], newlines], 2).flatten(1, 2)
    embeddings = model.get_input_embeddings()(batch["ids"])
    shown = batch["ids"] == model.config.video_token_index
    embeddings = embeddings.masked_scatter(shown[..., None], features.to(embeddings.dtype))
    outputs = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": batch["mask"]},
        position_ids=batch["positions"],
        use_cache=False,
        output_hidden_states=True,
    )
    halfway = outputs.hidden_states[model.config.text_config.num_hidden_layers // 2]
    cells = halfway[shown].view(len(features), -1, GRID, GRID + 1, halfway.shape[-1])[:, :, :, :-1].flatten(2, 3)
    speaking = batch["labels"][:, 1:] != IGNORED
    return model.lm_head(outputs.last_hidden_state[:, :-1][speaking]), cells, halfway[:, :-1][speaking]


def train_answers(model: nn.Module, tokenizer, steps: int, batch_size: int = 16) -> None:
    """Stage 2: learn to answer, with eyes that stay as they are.

    Two more throw-away probes ask the first half of the language model: in each cell, which way the shape it sees is
    moving and whether it is the first one; in each word of an answer, what the question mentioned. Without them the
    model answers for long as if frames had no order, and about either shape.
    """
    sizes = [len(COLOURS), len(SHAPES), len(DIRECTIONS), 2]
    cell_probe = nn.Linear(model.config.text_config.hidden_size, sum(sizes))
    mention_sizes = [len(group) for group in MENTIONS]
    mention_probe = nn.Linear(model.config.text_config.hidden_size, sum(mention_sizes))
    parts = [model.model.language_model, model.lm_head, model.model.image_newline, cell_probe, mention_probe]
    trainer = Trainer(parts, steps, peak=1.5e-3)
    unseen = ClipBatches(tokenizer, 2, 64, first_seed=FIRST_TRAINING_SEED // 2)
    checks = [unseen[step] for step in range(len(unseen))]
    started, losses = time.monotonic(), []
    for step, batch in enumerate(loader(ClipBatches(tokenizer, steps, batch_size, 10 * FIRST_TRAINING_SEED))):
        with torch.autocast("cpu", torch.bfloat16):
            logits, cells, speaking = read(model, batch)
            guesses = cell_probe(cells).float().split(sizes, -1)
            recalls = mention_probe(speaking).float().split(mention_sizes, -1)
        targets = batch["labels"][:, 1:]
        loss = functional.cross_entropy(logits.float(), targets[targets != IGNORED])
        seen = [
            functional.cross_entropy(guess.flatten(0, 2), batch["cells"][..., i].flatten(), ignore_index=IGNORED)
            for i, guess in enumerate(guesses)
        ]
        mentions = batch["mentions"][:, 1:][targets != IGNORED]
        seen += [functional.cross_entropy(recall, mentions[:, i]) for i, recall in enumerate(recalls)]
        trainer.step(loss + sum(seen))
        losses.append([loss.item(), *(item.item() for item in seen)])
        if step % 100 == 99 or step == steps - 1:
            recent = np.mean(losses[-100:], 0)
            print(
                f"words {step + 1:5d}  loss {recent[0]:.4f}  probes {' '.join(f'{item:.3f}' for item in recent[1:])}  "
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
    parser.add_argument("--steps", type=int, nargs=2, default=(3000, 3000), metavar=("EYES", "WORDS"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    eyes, words = args.steps
    train_eyes(model, eyes)
    train_answers(model, tokenizer, words)
    save(model, tokenizer, args.output)


if __name__ == "__main__":
    main()
