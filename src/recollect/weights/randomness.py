"""Randomness that can be made again: generators from a text, and the states of what torch draws from."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator_of(text: str) -> torch.Generator:
    """A source of randomness on the CPU that depends on a text only."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number >> 1)


def random_states(device: torch.device) -> list[Tensor]:
    """The states of what torch draws from, on the CPU and on the device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if torch.device(device).type == "cuda" else states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Put back what `random_states` gave."""
    torch.set_rng_state(states[0].cpu())
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1].cpu(), device)
