"""What the demonstration model is taught with: batches of pictures, and of clips with conversations, from numbers.

A batch is drawn from its number alone, so that training that was interrupted goes on with the batches it would have
had.
"""

import io
import random
import re

import numpy as np
import torch
from PIL import Image

from .clips import COLOURS, DIRECTIONS, SHAPES, Clip, sample_indices
from .questions import KINDS, ask, kinds_of
from .tokenizer import IMAGE, VIDEO, prompt_before, turn


IMAGE_SIZE, PATCH_SIZE, POOL_STRIDE = 144, 12, 2
PATCHES = IMAGE_SIZE // PATCH_SIZE  # in a row, and rows
GRID = PATCHES // POOL_STRIDE
TOKENS_PER_FRAME = GRID * (GRID + 1)  # one newline closes each row
TOKENS_PER_PICTURE = PATCHES * PATCHES + 1  # a picture is not pooled, and has one newline
NUM_FRAMES = 8
FIRST_TRAINING_SEED = 1_000_000  # seeds below are left for evaluation
MOVEMENTS = (*DIRECTIONS, None)
# What a question may mention, in groups that a probe asks for; the last of each stands for none of the others.
MENTIONS = ((*COLOURS, ""), (*SHAPES, "shape", "it", ""), ("first", "start", "beginning", "second", "last", "end", ""))
# A single frame tells no movement and no order, and few frames may show each of two shapes only once.
TELLABLE = {1: {"moves": False}, 2: {"num_shapes": 1}, 3: {"num_shapes": 1}}
IGNORED = -100  # label of what is not learned


def render_for_training(clip: Clip, frames: list[int], rng: np.random.Generator) -> np.ndarray:
    """Paint `frames` at the model's size, with a little of what cameras and codecs do to brightness, sharpness and
    grain."""
    pictures = clip.render(frames, (IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    pictures = pictures * rng.uniform(0.92, 1.08) + rng.uniform(-8, 8)
    pictures = pictures.round().clip(0, 255).astype(np.uint8)
    quality, coarse = int(rng.integers(40, 95)), rng.uniform(0.5, 1)
    loses_details, is_coarse = rng.random() < 0.4, rng.random() < 0.25
    if loses_details or is_coarse:
        side = round(coarse * IMAGE_SIZE) if is_coarse else IMAGE_SIZE  # as from a canvas smaller than the model's
        for picture in pictures:
            image = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
            if loses_details:
                file = io.BytesIO()
                image.save(file, "JPEG", quality=quality)
                image = Image.open(file)
            picture[:] = np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    return pictures


def cell_targets(clip: Clip, frames: list[int], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what each cell of a grid shows, frame by frame.

    Returns:
        (F, grid * grid, 5): whether a shape is there (1, 0, or `IGNORED` where it only reaches into the cell), and the
        numbers of its colour, shape, movement and place in the order of two, `IGNORED` where there is none; the
        movement also in the first frame that shows the shape, which cannot tell it.
        (F, grid * grid, 2): centre of the shape, y and x.
    """
    labels = np.full((len(frames), grid, grid, 5), IGNORED)
    centres = np.zeros((len(frames), grid, grid, 2), np.float32)
    covered = np.zeros((len(frames), grid, grid))
    edges = np.arange(grid + 1) / grid
    for nth, mover in enumerate(clip.movers):
        place = nth if len(clip.movers) == 2 else IGNORED
        names = [1, list(COLOURS).index(mover.colour), SHAPES.index(mover.shape), IGNORED, place]
        radii = [mover.radius * min(clip.height, clip.width) / side for side in (clip.height, clip.width)]
        for number, frame in enumerate(frames):
            centre = mover.centre(clip.time(frame))
            if centre is None:
                continue
            rows, columns = (
                np.clip(np.minimum(edges[1:], c + r) - np.maximum(edges[:-1], c - r), 0, None) * grid
                for c, r in zip(centre, radii)
            )
            cover = np.outer(rows, columns)
            cover[tuple(min(grid - 1, int(c * grid)) for c in centre)] += 0.2
            most = cover > np.maximum(covered[number], 0.2)  # covered by a fifth at least
            labels[number, most] = names
            centres[number, most] = centre
            covered[number] = np.maximum(covered[number], cover)
            names[3] = MOVEMENTS.index(mover.direction)
    labels[..., 0][covered == 0] = 0
    return labels.reshape(len(frames), -1, 5), centres.reshape(len(frames), -1, 2)


class PictureBatches(torch.utils.data.Dataset):
    """Batches of crowded pictures, and what each patch and each cell of the pooled grid shows of what shape."""

    def __init__(self, steps: int, batch_size: int):
        self.steps, self.batch_size = steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng(step)
        first = FIRST_TRAINING_SEED + step * self.batch_size
        clips = [Clip.crowd(first + number) for number in range(self.batch_size)]
        pictures = np.concatenate([render_for_training(clip, [0], rng) for clip in clips])
        targets = [[cell_targets(clip, [0], grid) for clip in clips] for grid in (PATCHES, GRID)]
        # (B, P*P + G*G, 5) and (B, P*P + G*G, 2)
        labels, centres = (
            np.concatenate([np.concatenate([of_clip[i] for of_clip in of_grid]) for of_grid in targets], 1)
            for i in (0, 1)
        )
        return torch.from_numpy(pictures), torch.from_numpy(labels), torch.from_numpy(centres)


class ClipBatches(torch.utils.data.Dataset):
    """Batches of clips with several conversations each; some batches are of pictures in place of videos.

    The conversations of a clip stand in one sequence behind its visual tokens, but none sees the others: positions
    start anew and the mask hides them. To the model each is alone with the clip, as in use, and the clip is paid once.
    """

    def __init__(self, tokenizer, steps: int, batch_size: int, first_seed: int, conversations: int = 12):
        self.tokenizer, self.steps, self.batch_size = tokenizer, steps, batch_size
        self.first_seed, self.conversations = first_seed, conversations

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng, noise = random.Random(self.first_seed + step), np.random.default_rng(self.first_seed + step)
        is_picture, num_frames = rng.random() < 0.1, rng.choice((NUM_FRAMES,) * 8 + (1, 1, 2, 3, 4, 6, 12, 16))
        tokens = IMAGE * TOKENS_PER_PICTURE if is_picture else VIDEO * (num_frames * TOKENS_PER_FRAME)
        prompt = self.tokenizer(prompt_before(tokens)).input_ids
        frames, cells, rows = [], [], []
        for number in range(step * self.batch_size, (step + 1) * self.batch_size):
            clip = Clip.from_seed(self.first_seed + number, **TELLABLE.get(1 if is_picture else num_frames, {}))
            sampled = [0] if is_picture else sample_indices(clip.num_frames, num_frames)
            frames.append(render_for_training(clip, sampled, noise))
            cells.append(cell_targets(clip, sampled, PATCHES if is_picture else GRID)[0])
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
            "is_picture": is_picture,
            "cells": torch.from_numpy(np.stack(cells)),  # (B, F, G*G, 5), or (B, 1, P*P, 5) of pictures
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
        weighted = kinds_of(clip)
        weighted += ["direction", "shape", "describe", "absent"] if clip.movers else ["absent", "absent"]
        weighted += ["describe", "moving"] if len(clip.movers) == 2 else []
        for conversation in range(1, self.conversations + 1):
            start = len(ids)
            turns = 1 if rng.random() < 0.8 else rng.randint(2, 3)
            for number in range(turns):
                question = ask(clip, rng.choice(weighted), rng)
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
    [0, 1, 6]
    """
    words = re.findall("[a-z]+", question.lower())
    return [next(i for i, word in enumerate(group) if word in words or not word) for group in MENTIONS]
