"""CRC-32C of every block of a file, for a quick look whether it still holds what was written."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 18
"""Bytes read at once: they stay in a core's own cache until they are summed."""


def block_sum(block: NDArray[np.uint8], before: int = 0) -> int:
    """CRC-32C of an array's bytes, which continues the sum of those ``before`` them.

    The library takes contiguous arrays without a copy and lets no other thread run Python meanwhile, so arrays should
    be short.
    """
    return int(google_crc32c.extend(before, block))


def first_damaged(
    descriptor: int, *, offset: int, length: int, block: int, sums: Sequence[int], workers: int
) -> int | None:
    """Compare ``length`` bytes of a file from ``offset`` on with their sums, one for every ``block`` bytes.

    They are read, not mapped: what the disk cannot give is then an error and not a fatal signal.

    Returns:
        The number of the first block with another sum or that cannot be read, or ``None``.
    """
    buffers = threading.local()

    def fits(number: int) -> bool:
        if not hasattr(buffers, "piece"):
            buffers.piece = np.empty(_PIECE, dtype=np.uint8)
        position, end, total = number * block, min((number + 1) * block, length), 0
        while position < end:
            piece = buffers.piece[: end - position]
            try:
                count = os.preadv(descriptor, [piece], offset + position)
            except OSError:
                return False
            if not count:
                return False
            total = block_sum(piece[:count], total)
            position += count
        return total == sums[number]

    with ThreadPoolExecutor(workers) as pool:
        for number, is_whole in enumerate(pool.map(fits, range(len(sums)))):
            if not is_whole:
                pool.shutdown(wait=False, cancel_futures=True)
                return number
    return None
