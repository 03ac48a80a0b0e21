"""Rows of per-sample state that ranks share, also of samples that several of them were shown."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from fer.methods.core.sample_states import share_rows


class Sums:
    """Sums over ranks that are threads."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.given: dict[int, Tensor] = {}

    def of(self, rank: int, values: Tensor) -> Tensor:
        self.given[rank] = values
        self.barrier.wait()
        total = torch.stack([*self.given.values()]).sum(0)
        self.barrier.wait()
        return total


def shared(seen: list[list[int]], states: list[list[Tensor]]) -> list[list[Tensor]]:
    """States of all ranks after each has written its number + 1 to the rows that it was shown."""
    sums = Sums(len(seen))

    def run(rank: int) -> None:
        for state in states[rank]:
            state[seen[rank]] = rank + 1
        rows = [torch.tensor(seen[rank])] if seen[rank] else []
        share_rows(states[rank], rows, lambda values: sums.of(rank, values), ranks=(rank, len(seen)))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(seen))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return states


def test_of_several_ranks_the_first_one_that_was_shown_a_sample_counts() -> None:
    seen = [[0, 3, 3], [3, 1, 0], [], [1, 1, 4]]
    states = [[torch.full((6,), -7), torch.full((6, 2), -0.5)] for _ in seen]
    for labels, targets in shared(seen, states):
        assert labels.tolist() == [1, 2, -7, 1, 4, -7]
        assert targets[:, 0].tolist() == [1, 2, -0.5, 1, 4, -0.5]
        assert torch.equal(targets[:, 0], targets[:, 1])
