"""Seeds of every random generator, derived from non-negative integers such as (seed, epoch, step, rank)."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*entropy: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices) from non-negative integers."""
    words = np.random.SeedSequence(entropy).generate_state(4, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002, libraries still draw from it
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))
