"""Groups of parameters that learn at rates of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fer.models.fine_tuning import parameter_factors


def faster(method: nn.Module, parameters: Iterable[nn.Parameter], lr_factor: float) -> list[dict[str, Any]]:
    """Split a method's parameters: ``parameters`` learn at ``lr_factor`` times the learning rate of all others."""
    chosen = [*parameters]
    own = {id(parameter) for parameter in chosen}
    rest = [parameter for parameter in method.parameters() if id(parameter) not in own]
    return [{"params": rest}, {"params": chosen, "lr_factor": lr_factor}]


def by_stage(method: nn.Module, groups: Iterable[Any]) -> Iterable[Any]:
    """Split groups by the stages of the backbones, whose rates ``optim.layer_decay`` scales; without it, return them.

    Args:
        method: with its networks.
        groups: parameters, or groups of them, as ``Method.parameter_groups`` gives them.

    Returns:
        Groups with the same further keys and ``stage_factor``, above 0 and at most 1; of each, the fastest first.
    """
    factors = parameter_factors(method)
    if not factors:
        return groups
    given = [*groups]
    tables = given if given and isinstance(given[0], dict) else [{"params": given}]
    split = []
    for table in tables:
        apart: dict[float, list[nn.Parameter]] = {}
        for parameter in table["params"]:
            apart.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        split += [{**table, "params": apart[factor], "stage_factor": factor} for factor in sorted(apart, reverse=True)]
    return split
