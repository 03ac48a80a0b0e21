"""Which epochs make a run's result: the protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

LAST_EPOCHS = 5


def run_result(
    config: Mapping[str, Any],
    records: Sequence[Record],
    test: Mapping[str, float] | None,
    memorization: Mapping[str, float],
    skipped: Mapping[str, int],
) -> dict[str, Any]:
    """What ``result.json`` holds.

    Args:
        config: resolved configuration.
        records: one per epoch, oldest first, at least one.
        test: metrics of the one test under ``holdout``; ``None`` under ``last5``, where every epoch was tested.
        memorization: shares of the wrong labels, measured on the finished network without augmentation.
        skipped: images of each split that were left out because they cannot be decoded.

    Returns:
        ``metrics`` is the headline: under ``last5`` (EAC's and SCN's protocol) the mean over the last five epochs,
        never a selection; under ``holdout`` the test of the epoch with the best holdout accuracy. Under ``last5``
        ``best_test_epoch_optimistic`` is what selection on the test set would have reported.
    """
    result: dict[str, Any] = {
        "choices": dict(config["choices"]),
        "noise_ratio": config["noise"].get("ratio"),
        "lam": config["method"].get("lam"),
        "seed": config["seed"],
        "protocol": config["protocol"],
        "epochs": len(records),
    }
    if test is None:
        last = records[-LAST_EPOCHS:]
        result["metrics"] = mean_of(last)
        result["averaged_epochs"] = [record["epoch"] for record in last]
        best = max(records, key=lambda record: record["test/acc"])
        result["best_test_epoch_optimistic"] = {"epoch": best["epoch"], **_with_prefix(best, "test/")}
    else:
        result["metrics"] = dict(test)
        selected = max(records, key=lambda record: record["holdout/acc"])
        result["selected_epoch"] = {"epoch": selected["epoch"], **_with_prefix(selected, "holdout/")}
    result["last_epoch"] = dict(records[-1])
    result["after_training"] = dict(memorization)
    result["skipped_images"] = dict(skipped)
    return result


def result_row(config: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """A run in a table of runs: its few settings that matter, and its result under ``result/<metric>``."""
    settings = {
        **{key: result["choices"][key] for key in ("method", "backbone", "data", "noise")},
        "noise_ratio": result["noise_ratio"],
        "lambda": result["lam"],
        "lr": config["optim"]["lr"],
        "seed": result["seed"],
    }
    metrics = {name.removeprefix("test/"): value for name, value in result["metrics"].items() if "recall/" not in name}
    known = {key: value for key, value in settings.items() if value is not None}  # cross-entropy has no lambda
    return known, {f"result/{name}": value for name, value in {**metrics, **result["after_training"]}.items()}


def mean_of(records: Sequence[Record]) -> dict[str, float]:
    """Mean of every test metric over epochs."""
    names = _with_prefix(records[0], "test/")
    return {name: sum(record[name] for record in records) / len(records) for name in names}


def _with_prefix(record: Record, prefix: str) -> dict[str, float]:
    return {name: value for name, value in record.items() if name.startswith(prefix)}
