"""Networks whose losses are not finite."""

from __future__ import annotations

from typing import Any


def spoil(**arguments: Any) -> list[str]:
    given = {"_target_": "test_finite_losses.Spoil", **arguments}
    return [f"+callbacks.spoil.{key}={value}" for key, value in given.items()]
