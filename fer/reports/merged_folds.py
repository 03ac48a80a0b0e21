"""Runs of a cross-validation merged into one: every training sample counts once, as its own fold's network sees it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from fer.errors import UserError
from fer.reports.run import Run
from fer.runs.predictions import SplitTable, read_out_of_fold
from fer.runs.protocol import PROTOCOLS
from fer.runs.run_folder import RunFolder

_FOLD = "fold"
_MOST_NAMED = 10


def merge_folds(runs: Sequence[Run], faults: list[str]) -> list[Run]:
    """Replace the runs of each cross-validation by one, at the place of its first fold; others stay as they are.

    The merged run has the metrics of the joined out-of-fold predictions and no key ``fold``. It is incomplete while a
    fold is missing, and ``faults`` then says which.
    """
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        is_fold = _is_fold(run)
        identity = frozenset(pair for pair in run.identity if pair[0] != _FOLD)
        groups[identity if is_fold else run.path].append(run)
    return [_merged(group, faults) if _is_fold(group[0]) else group[0] for group in groups.values()]


def _is_fold(run: Run) -> bool:
    protocol = PROTOCOLS.get(str(run.settings["protocol"]))
    return protocol is not None and protocol.tests_on_fold and isinstance(run.settings.get("folds"), int)


def _merged(group: Sequence[Run], faults: list[str]) -> Run:
    group = sorted(group, key=lambda run: str(run.settings.get(_FOLD)).zfill(9))
    first = group[0]
    merged = replace(
        first,
        settings={key: value for key, value in first.settings.items() if key != _FOLD},
        named=first.named - {_FOLD},
        metrics={},
        records=[],
        folds=tuple(run.path for run in group),
    )
    done = {run.settings.get(_FOLD) for run in group if run.state == "done"}
    folds = first.settings["folds"]
    assert isinstance(folds, int)
    # Not all at once: a stranger's run may claim any number of folds.
    missing = [str(fold) for fold in islice((fold for fold in range(folds) if fold not in done), _MOST_NAMED)]
    if missing:
        failed = next((run for run in group if run.state == "failed"), None)
        faults.append(f"{first.path} and other folds: fold {', '.join(missing)} of {folds} is not finished")
        return replace(merged, state="failed" if failed else "incomplete", error=failed.error if failed else "")
    try:
        metrics = _metrics(read_out_of_fold([RunFolder(path) for path in merged.folds]))
    except UserError as error:
        faults.append(f"left out: {error}")
        return replace(merged, state="incomplete")
    shares = {name: _mean([run.metrics[name] for run in group]) for name in _shares(group)}
    return replace(merged, state="done", metrics={**metrics, **shares}, records=[*_mean_records(group)])


def _metrics(table: SplitTable) -> dict[str, float]:
    """Test metrics against the given labels, in percent."""
    import torch

    from fer.methods.core.metrics import EvaluationMetrics

    metrics = EvaluationMetrics(len(table.class_names))
    metrics.update(torch.from_numpy(table.probabilities), torch.from_numpy(table.given))
    return {f"test/{name}": 100 * value for name, value in metrics.summary(table.class_names).items()}


def _shares(group: Sequence[Run]) -> list[str]:
    """Metrics of training that all folds have, such as ``memorized``."""
    return [name for name in group[0].metrics if "/" not in name and all(name in run.metrics for run in group)]


def _mean_records(group: Sequence[Run]) -> Iterator[Mapping[str, Any]]:
    """Mean over the folds of what each epoch's records share."""
    if len({len(run.records) for run in group}) > 1:
        return
    for records in zip(*(run.records for run in group), strict=True):
        shared = [key for key in records[0] if all(key in record for record in records)]
        yield {key: records[0][key] if key == "epoch" else _mean([r[key] for r in records]) for key in shared}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def out_of_fold(run: Run) -> SplitTable:
    """Join the out-of-fold predictions of a merged run; its ``clean`` are the true labels where they are known.

    Raises:
        RunFolderError: a file of a fold cannot be read, or does not fit the others.
    """
    return read_out_of_fold([RunFolder(Path(path)) for path in run.folds])
