"""Groups of parameters that learn at rates of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def faster(method: nn.Module, parameters: Iterable[nn.Parameter], lr_factor: float) -> list[dict[str, Any]]:
    """Split a method's parameters: ``parameters`` learn at ``lr_factor`` times the learning rate of all others."""
    chosen = [*parameters]
    own = {id(parameter) for parameter in chosen}
    rest = [parameter for parameter in method.parameters() if id(parameter) not in own]
    return [{"params": rest}, {"params": chosen, "lr_factor": lr_factor}]
