"""Metrics of an epoch: quality on an evaluation split, memorization of wrong labels in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fer.views.batch import Batch

CALIBRATION_BINS = 15
_SAMPLES, _CORRECT, _TRUTH_KNOWN, _CORRECT_CLEAN, _WRONG, _MEMORIZED, _RECOVERED = range(7)


class EvaluationMetrics(Metric):
    """Accuracy, mean class accuracy, macro F1, expected calibration error, recall per class.

    Update with probabilities (B, K) and labels (B,). Classes without a label do not enter the means over classes,
    also where they are predicted.
    """

    full_state_update = False  # torchmetrics: a batch's update does not depend on earlier batches.
    confusion: Tensor
    """Counts (K, K) of label and prediction."""
    calibration: Tensor
    """Per bin of confidence (3, CALIBRATION_BINS): number, summed confidence, number of correct predictions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("calibration", torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        confidence, predicted = probabilities.double().max(1)
        # Not bincount, which makes the host wait for the GPU.
        pairs = labels * self.num_classes + predicted
        self.confusion.view(-1).index_add_(0, pairs, torch.ones_like(pairs))
        # A confidence of 1 belongs to the last bin. NaN has no bin; it still shows in the sums.
        bins = (confidence.nan_to_num() * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        values = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).double()])
        # Under trainer.precision=16-true Lightning makes it float16, which cannot count.
        self.calibration = self.calibration.double().index_add_(1, bins, values)

    def compute(self) -> dict[str, Tensor]:
        """``acc``, ``macro_acc``, ``f1``, ``ece`` and ``recall`` (K,), 0 for a class without labels."""
        hits, support, predicted = self.confusion.diag(), self.confusion.sum(1), self.confusion.sum(0)
        occurs = support > 0
        recall = hits / support.clamp(min=1)
        f1 = 2 * hits / (support + predicted).clamp(min=1)
        number, confidence, correct = self.calibration
        return {
            "acc": hits.sum() / support.sum(),
            "macro_acc": recall[occurs].mean(),
            "f1": f1[occurs].mean(),
            "ece": (confidence - correct).abs().sum() / number.sum(),
            "recall": recall,
        }

    def summary(self, class_names: Sequence[str]) -> dict[str, float]:
        """``acc``, ``macro_acc``, ``f1``, ``ece`` and ``recall/<class>``, all in 0..1; a collective under DDP."""
        values = self.compute()
        summary = {name: float(values[name]) for name in ("acc", "macro_acc", "f1", "ece")}
        return summary | {f"recall/{name}": float(r) for name, r in zip(class_names, values["recall"], strict=True)}


class TrainingStatistics:
    """Sums over a training epoch, held on the device so that no step waits for it.

    Accuracy and memorization are read off the logits with which the samples were trained.
    """

    def __init__(self) -> None:
        self.reset()

    @property
    def is_empty(self) -> bool:
        """Tell whether no sample was trained."""
        return self._counts is None

    def reset(self) -> None:
        self._counts: Tensor | None = None
        self._loss_sums: dict[str, Tensor] = {}

    def update(self, logits: Tensor, batch: Batch, parts: Mapping[str, Tensor]) -> None:
        """Add a batch: logits (B, K) and the scalar, batch-averaged parts of the loss."""
        predicted = logits.detach().argmax(1)
        known = batch.clean_label >= 0
        wrong = known & (batch.label != batch.clean_label)
        right, truly_right = predicted == batch.label, predicted == batch.clean_label
        counts = torch.stack([
            torch.ones_like(right), right, known, known & truly_right, wrong, wrong & right, wrong & truly_right,
        ]).sum(1)  # fmt: skip
        self._counts = counts if self._counts is None else self._counts + counts
        for name, value in parts.items():
            added = value.detach().double() * len(predicted)
            self._loss_sums[name] = self._loss_sums[name] + added if name in self._loss_sums else added

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, on the CPU."""
        counts = None if self._counts is None else self._counts.cpu()
        return {"counts": counts, "losses": {name: value.cpu() for name, value in self._loss_sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from sums."""
        self._counts = None if state["counts"] is None else state["counts"].to(device)
        self._loss_sums = {name: value.to(device) for name, value in state["losses"].items()}

    def compute(self, sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict[str, float]:
        """``acc``, ``acc_clean``, ``memorized``, ``recovered`` in 0..1 and the mean of every part of the loss.

        ``acc_clean`` appears where true labels are known, ``memorized`` and ``recovered`` where some are wrong.
        """
        if self._counts is None:
            return {}
        names = list(self._loss_sums)
        sums = sum_over_ranks(torch.stack([*self._counts.double(), *(self._loss_sums[name] for name in names)]))
        counts, losses = sums[:7].tolist(), sums[7:].tolist()
        summary = {name: value / counts[_SAMPLES] for name, value in zip(names, losses, strict=True)}
        summary["acc"] = counts[_CORRECT] / counts[_SAMPLES]
        if counts[_TRUTH_KNOWN]:
            summary["acc_clean"] = counts[_CORRECT_CLEAN] / counts[_TRUTH_KNOWN]
        if counts[_WRONG]:
            summary["memorized"] = counts[_MEMORIZED] / counts[_WRONG]
            summary["recovered"] = counts[_RECOVERED] / counts[_WRONG]
        return summary
