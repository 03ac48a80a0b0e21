"""Per-sample state of a method under DDP, where a rank changes the rows of the samples that it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def share_rows(states: Sequence[Tensor], seen: Sequence[Tensor], sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
    """Share changed rows between all ranks, in place; each sample is shown to one rank only.

    Args:
        states: (N, ...), a row per training sample.
        seen: int64 (B,) each, the rows of this rank's batches.
        sum_over_ranks: of a tensor, a collective.
    """
    mine = torch.zeros(len(states[0]), dtype=torch.bool, device=states[0].device)
    if seen:
        mine[torch.cat([*seen])] = True
    anywhere = sum_over_ranks(mine.int()) > 0
    for state in states:
        own = state * mine.view(-1, *[1] * (state.dim() - 1))
        state[anywhere] = sum_over_ranks(own)[anywhere]
