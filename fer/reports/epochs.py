"""Words for the epochs that numbers of finished runs come from, the same in tables, plots and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fer.runs.protocol import LAST_EPOCHS, PROTOCOLS

_SELECTED = "selected on held-out training samples"


class RunEpochs(NamedTuple):
    """Epochs of a finished run; ``None`` where its result does not say."""

    trained: int | None = None
    averaged: int | None = None
    """Last epochs whose mean the result is under ``last5``: fewer than five where fewer were trained."""
    selected: int | None = None
    """Epoch, counted from 1, whose network was tested under ``holdout``."""


def read_epochs(result: Mapping[str, Any]) -> RunEpochs:
    """Read the epochs from what ``result.json`` holds, which may be a stranger's."""
    averaged, selected = result.get("averaged_epochs"), result.get("selected_epoch")
    position = _whole(selected.get("epoch")) if isinstance(selected, Mapping) else None
    return RunEpochs(
        _whole(result.get("epochs")),
        len(averaged) if isinstance(averaged, list) else None,
        None if position is None else position + 1,
    )


def epochs_of_results(protocol: str, runs: Iterable[RunEpochs]) -> str:
    """Say over which epochs the results of runs under one protocol are: ``mean of the last 5 epochs``."""
    runs = list(runs)
    if protocol not in PROTOCOLS:
        return ""
    if PROTOCOLS[protocol].selects:
        selected = _span(run.selected for run in runs)
        return f"test of the epoch {_SELECTED}" + (f" ({selected})" if selected else "")
    if PROTOCOLS[protocol].tests_on_fold:
        return "every training sample tested by the network that was trained without its fold"
    known = [run for run in runs if run.averaged]
    counts = _span(run.averaged for run in known) or str(LAST_EPOCHS)
    if not known or any(run.averaged != run.trained for run in known):
        return f"mean of the last {counts} epochs"
    return "test after the only epoch" if counts == "1" else f"mean of all {counts} epochs"


def epochs_of_networks(protocol: str, runs: Iterable[RunEpochs]) -> str:
    """Say after which epochs the networks were taken whose predictions and features a figure shows."""
    runs = list(runs)
    is_selected = protocol in PROTOCOLS and PROTOCOLS[protocol].selects
    epochs = _span(run.selected if is_selected else run.trained for run in runs)
    if not epochs:
        return f"after the epoch {_SELECTED}" if is_selected else "after the last epoch"
    if epochs.isdigit():
        return f"after epoch {epochs}, {_SELECTED if is_selected else 'the last'}"
    return f"after epochs {epochs}, " + (f"each {_SELECTED}" if is_selected else "the last of each run")


def span(numbers: Iterable[int]) -> str:
    """Write ``7``, or ``3 to 7`` where numbers differ."""
    least, *others = sorted(set(numbers))
    return f"{least} to {others[-1]}" if others else str(least)


def _span(numbers: Iterable[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    return span(known) if known else ""


def _whole(value: object) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if is_whole else None  # type: ignore[return-value]
