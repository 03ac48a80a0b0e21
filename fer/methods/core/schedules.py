"""Schedules of the learning rate that torch does not have."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


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
