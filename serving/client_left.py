"""Ends the generation of an answer when its client has left."""

import threading

import torch
from transformers import StoppingCriteria


class ClientLeft(StoppingCriteria):
    """Stops generation when its event `left` is set."""

    def __init__(self):
        self.left = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), self.left.is_set(), device=input_ids.device)  # (B,)
