"""Inputs made from their numbers, what became of them, and odd text to make them of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TypeVar

import pytest

T = TypeVar("T")

SECONDS_FOR_ONE = 2


def few_or(many: int, *, few: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def outcomes(
    count: int, make: Callable[[Random], T], use: Callable[[T], str], *documented: type[Exception]
) -> Counter[str]:
    """Count the outcomes over all inputs: the values that ``use`` returns, and the documented errors that it raises."""
    ends: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        made = make(Random(number))
        started = time.process_time()
        try:
            ends[use(made)] += 1
        except documented as error:
            ends[type(error).__name__] += 1
        except Exception as error:
            raise AssertionError(f"input {number} is not refused as documented: {made!r:.500}") from error
        seconds = time.process_time() - started
        assert seconds < SECONDS_FOR_ONE, f"input {number} took {seconds:.1f} s: {made!r:.500}"
        slowest = max(slowest, seconds)
    counts = ", ".join(f"{end} {number:,}" for end, number in ends.most_common())
    print(f"\n{count:,} inputs, the slowest in {slowest:.3f} s: {counts}")
    return ends


ODD_TEXT = (
    "", " ", "\t", "\n", "\r", "\r\n", "\v", "\x1c", "\x85", "\u2028", "\0", "\ufeff", "\ud800", "\u0663", "²", "１",
    "é", "e\u0301", "🙂", "\u202e", "0", "-1", "+1", "8", "1.0", "1e3", "0x1", "1_0", "nan", "inf", "9" * 20,
    "0" * 5000 + "1", "9" * 5000, "-" + "9" * 5000, "a" * 5000, "../x.jpg", "train_00001.jpg", "test_00001.jpg",
    ".jpg", "#", ",", '"', "'",
)  # fmt: skip
