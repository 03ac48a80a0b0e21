"""Protocols: the split that is evaluated after every epoch, and the epochs that a run's result comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fer.errors import ConfigError
from fer.runs.run_folder import RunFolder

Record = Mapping[str, Any]

LAST_EPOCHS = 5


class Protocol(ABC):
    """A way to get one result from the epochs of a run."""

    name: ClassVar[str]
    """Value of ``protocol`` in the configuration."""
    evaluates: ClassVar[str]
    """``test`` or ``holdout``: the samples that are evaluated after every epoch, and the prefix of their metrics."""
    selects: ClassVar[bool] = False
    """True if held-out training samples select one epoch, which is tested once after training."""
    tests_on_fold: ClassVar[bool] = False
    """True if a fold of the training split takes the place of the test split."""

    @abstractmethod
    def tested_checkpoint(self, folder: RunFolder) -> Path:
        """Name the checkpoint of the epoch that the result stands for."""

    @abstractmethod
    def headline(self, records: Sequence[Record], test: Mapping[str, float] | None) -> dict[str, Any]:
        """Build the part of ``result.json`` that the protocol decides.

        Args:
            records: one per epoch, oldest first, at least one.
            test: metrics of the one test after training, where an epoch is selected.

        Returns:
            ``metrics``, and which epochs they are of.
        """

    @abstractmethod
    def metrics_of_checkpoint(self, result: Mapping[str, Any]) -> Any:
        """Pick from a result the metrics that a test of ``tested_checkpoint`` should find again."""

    def is_best(self, records: Sequence[Record]) -> bool:
        """Tell whether the newest epoch is better than all before it by what selects."""
        is_evaluated = bool(records) and f"{self.evaluates}/acc" in records[-1]
        return self.selects and is_evaluated and self.best_epoch(records) == len(records) - 1

    def best_epoch(self, records: Sequence[Record]) -> int:
        """Find the earliest epoch with the best evaluated accuracy, counted from 0; -1 without records."""
        accuracies = [record.get(f"{self.evaluates}/acc", -1.0) for record in records]
        return accuracies.index(max(accuracies)) if accuracies else -1


class LastEpochs(Protocol):
    """The test after each of the last five epochs, averaged; nothing is selected (EAC's and SCN's protocol)."""

    name = "last5"
    evaluates = "test"

    def tested_checkpoint(self, folder: RunFolder) -> Path:
        return folder.last_checkpoint

    def headline(self, records: Sequence[Record], test: Mapping[str, float] | None) -> dict[str, Any]:
        """Build the result; it includes what selection on the test set would report: ``best_test_epoch_optimistic``."""
        last = records[-LAST_EPOCHS:]
        best = records[self.best_epoch(records)]
        return {
            "metrics": mean_of(last),
            "averaged_epochs": [record["epoch"] for record in last],
            "best_test_epoch_optimistic": {"epoch": best["epoch"], **_with_prefix(best, "test/")},
        }

    def metrics_of_checkpoint(self, result: Mapping[str, Any]) -> Any:
        return result.get("last_epoch")


class Holdout(Protocol):
    """Single test of the epoch that is best on a held-out share of the training set with its given labels."""

    name = "holdout"
    evaluates = "holdout"
    selects = True

    def tested_checkpoint(self, folder: RunFolder) -> Path:
        return folder.best_checkpoint

    def headline(self, records: Sequence[Record], test: Mapping[str, float] | None) -> dict[str, Any]:
        assert test is not None
        selected = records[self.best_epoch(records)]
        return {
            "metrics": dict(test),
            "selected_epoch": {"epoch": selected["epoch"], **_with_prefix(selected, "holdout/")},
        }

    def metrics_of_checkpoint(self, result: Mapping[str, Any]) -> Any:
        return result.get("metrics")


class Folds(Protocol):
    """Cross-validation: the network of the last epoch, tested on the fold of the training split that it has not seen.

    The labels in force of the fold are what it is tested against; the data set's own test split stays unused.
    """

    name = "folds"
    evaluates = "test"
    tests_on_fold = True

    def tested_checkpoint(self, folder: RunFolder) -> Path:
        return folder.last_checkpoint

    def headline(self, records: Sequence[Record], test: Mapping[str, float] | None) -> dict[str, Any]:
        return {"metrics": _with_prefix(records[-1], "test/")}

    def metrics_of_checkpoint(self, result: Mapping[str, Any]) -> Any:
        return result.get("metrics")


PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (LastEpochs(), Holdout(), Folds())}


def protocol_named(name: object) -> Protocol:
    """Look a protocol up.

    Raises:
        ConfigError: there is none of that name.
    """
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise ConfigError(f"protocol is {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def run_result(
    protocol: Protocol,
    records: Sequence[Record],
    test: Mapping[str, float] | None,
    *,
    choices: Mapping[str, str | None],
    seed: int,
    noise_ratio: Any,
    lam: Any,
    evaluation: Mapping[str, Any],
    memorization: Mapping[str, float],
    skipped: Mapping[str, int],
) -> dict[str, Any]:
    """Build what ``result.json`` holds.

    Args:
        protocol: of the run.
        records: one per epoch, oldest first, at least one.
        test: metrics of the one test after training, where the protocol selects an epoch.
        choices: chosen option of every group.
        seed, noise_ratio, lam: settings that tables of runs show; ``None`` where there is none.
        evaluation: settings of how it was evaluated.
        memorization: shares of the wrong labels, measured on the finished network without augmentation.
        skipped: images of each split that were left out because they cannot be decoded.

    Returns:
        ``metrics`` is the headline.
    """
    return {
        "choices": dict(choices),
        "noise_ratio": noise_ratio,
        "lam": lam,
        "seed": seed,
        "protocol": protocol.name,
        "evaluation": dict(evaluation),
        "epochs": len(records),
        **protocol.headline(records, test),
        "last_epoch": dict(records[-1]),
        "after_training": dict(memorization),
        "skipped_images": dict(skipped),
    }


def result_row(result: Mapping[str, Any], *, lr: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Build a run's row in a table of runs: the few settings that matter, and its result under ``result/<metric>``."""
    settings = {
        **{key: result["choices"][key] for key in ("method", "backbone", "data", "noise")},
        "noise_ratio": result["noise_ratio"],
        "lambda": result["lam"],
        "lr": lr,
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
