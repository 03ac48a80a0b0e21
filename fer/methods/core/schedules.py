"""Schedules of the learning rate that torch does not have."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fer.ranges import CountFrom0, CountFrom1, Share


def plateaus(
    optimizer: Optimizer,
    *,
    starts: Sequence[int],
    factors: Sequence[float],
    fast_starts: Sequence[int],
    fast_factors: Sequence[float],
) -> LambdaLR:
    """Learning rates that stay until the next start, up or down, with plateaus of their own for faster groups.

    Args:
        optimizer: groups whose ``lr_factor`` is not 1 are the faster ones.
        starts, fast_starts: epochs, ascending, the first 0.
        factors, fast_factors: of a group's initial learning rate, one for each start.

    Raises:
        ValueError: starts and factors do not fit each other.
    """
    for begin, values in ((starts, factors), (fast_starts, fast_factors)):
        if len(begin) != len(values) or list(begin[:1]) != [0] or sorted(set(begin)) != list(begin):
            raise ValueError(f"plateaus that start at {list(begin)} with factors {list(values)}: give ascending epochs "
                             "from 0 on and one factor for each")  # fmt: skip

    def slow(epoch: int) -> float:
        return factors[bisect_right(starts, epoch) - 1]

    def fast(epoch: int) -> float:
        return fast_factors[bisect_right(fast_starts, epoch) - 1]

    return LambdaLR(optimizer, [slow if group.get("lr_factor", 1.0) == 1 else fast for group in optimizer.param_groups])


def cosine(optimizer: Optimizer, *, epochs: CountFrom1, warm_up: CountFrom0 = 0, final_factor: Share = 0.0) -> LambdaLR:
    """Learning rates that rise linearly, then fall by half a cosine, once per epoch.

        factor(e) = (e + 1) / (w + 1)                                 e < w
        factor(e) = f + (1 - f) (1 + cos(pi (e - w) / (E - w))) / 2   w <= e <= E

    Args:
        optimizer: each group's rate is its initial one times the factor.
        epochs: E, of the whole training; epoch E, after the last one, would have the final factor.
        warm_up: w, epochs of the rise, at most E.
        final_factor: f.

    Raises:
        ValueError: the warm-up is longer than the training.
    """
    if warm_up > epochs:
        raise ValueError(f"a warm-up of {warm_up} epochs is longer than the training of {epochs}; choose a shorter one")

    def factor(epoch: int) -> float:
        if epoch < warm_up:
            return (epoch + 1) / (warm_up + 1)
        progress = (epoch - warm_up) / (epochs - warm_up) if epoch < epochs else 1.0
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
