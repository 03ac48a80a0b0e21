"""Per-sample state of a method under DDP, where a rank changes the rows of the samples that it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def share_rows(
    states: Sequence[Tensor],
    seen: Sequence[Tensor],
    sum_over_ranks: Callable[[Tensor], Tensor],
    *,
    ranks: tuple[int, int],
) -> None:
    """Share changed rows between all ranks, in place; of a sample that several ranks were shown, the first one's row.

    Args:
        states: (N, ...), a row per training sample.
        seen: int64 (B,) each, the rows of this rank's batches.
        sum_over_ranks: of a tensor, a collective.
        ranks: this rank and their number.
    """
    rank, world_size = ranks
    shown = torch.zeros(world_size, len(states[0]), dtype=torch.int32, device=states[0].device)
    if seen:
        shown[rank].index_fill_(0, torch.cat([*seen]), 1)
    shown = sum_over_ranks(shown) > 0
    anywhere, mine = shown.any(0), shown[rank] & ~shown[:rank].any(0)
    for state in states:
        own = state * mine.view(-1, *[1] * (state.dim() - 1))
        state[anywhere] = sum_over_ranks(own)[anywhere]
