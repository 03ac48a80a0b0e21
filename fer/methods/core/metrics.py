"""Metrics of an epoch: quality on an evaluation split, memorization of wrong labels in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fer.views.batch import Batch

CALIBRATION_BINS = 15


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


def accepted_label(probabilities: Tensor, label: Tensor, votes: Tensor, share: float) -> Tensor:
    """Take the predicted class (B,) as the label wherever enough annotators chose it, else the label.

    Args:
        probabilities: (B, K).
        label: int64 (B,).
        votes: (B, K), shares of the annotators, 0..1.
        share: what is enough, (0, 1].
    """
    predicted = probabilities.argmax(1)
    enough = votes.gather(1, predicted[:, None])[:, 0] >= share
    return torch.where(enough, predicted, label)


class TrainingStatistics(Metric):
    """Accuracy, memorization and mean losses of a training epoch, read off the logits that the samples were trained by.

    Its sums stay on the device, so that no step waits for it, and meet those of other ranks in ``compute`` alone.
    """

    full_state_update = False
    counts: Tensor
    """int64 (7,), numbers of samples: all, predicted as labeled, of known true label, predicted as that, with a wrong
    label, memorized, recovered."""
    loss_sums: Tensor
    """float64 (P,), a sum over samples for each of ``loss_names``; a scalar 0 before the first batch of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(7, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss_sums", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.loss_names: tuple[str, ...] = ()
        """Names of the parts of the loss, which the first batch of an epoch tells."""

    @property
    def is_empty(self) -> bool:
        """Tell whether this rank has trained no sample."""
        return not self.loss_names

    def reset(self) -> None:
        super().reset()
        self.loss_names = ()

    def update(self, logits: Tensor, batch: Batch, parts: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            logits: (B, K).
            batch: as loaded.
            parts: scalar means over the batch, one or more, by names that stay the same for the epoch.

        Raises:
            ValueError: parts of other names than those before.
        """
        names = tuple(parts)
        if self.loss_names not in ((), names):
            raise ValueError(
                f"the parts of the loss are {', '.join(names)} after {', '.join(self.loss_names)}; a method must "
                "return the same parts in all steps of an epoch"
            )
        self.loss_names = names
        predicted = logits.argmax(1)
        known = batch.clean_label >= 0
        wrong = known & (batch.label != batch.clean_label)
        right, truly_right = predicted == batch.label, predicted == batch.clean_label
        counts = torch.stack([
            torch.ones_like(right), right, known, known & truly_right, wrong, wrong & right, wrong & truly_right,
        ]).sum(1)  # fmt: skip
        self.counts = self.counts + counts
        # Under trainer.precision=16-true Lightning makes the sums float16, which cannot count.
        self.loss_sums = self.loss_sums.double() + torch.stack([*parts.values()]).double() * len(predicted)

    def sums_so_far(self) -> dict[str, Any]:
        """Copy what this rank alone has added up to the CPU, for ``go_on_from``."""
        return {"loss_names": self.loss_names, "counts": self.counts.cpu(), "loss_sums": self.loss_sums.cpu()}

    def go_on_from(self, so_far: Mapping[str, Any]) -> None:
        """Take up, instead of what it holds, what ``sums_so_far`` returned on this rank."""
        self.reset()
        self.loss_names = so_far["loss_names"]
        self.merge_state({name: so_far[name].to(self.device) for name in ("counts", "loss_sums")})

    def compute(self) -> dict[str, float]:
        """``acc``, ``acc_clean``, ``memorized``, ``recovered`` in 0..1 and the mean of every part of the loss.

        ``acc_clean`` appears where true labels are known, ``memorized`` and ``recovered`` where some are wrong. Nothing
        appears where no sample was trained. A collective under DDP.
        """
        if self.is_empty:
            return {}
        sums: list[float] = torch.cat([self.counts.double(), self.loss_sums]).tolist()
        samples, correct, known, correct_clean, wrong, memorized, recovered, *losses = sums
        summary = {name: value / samples for name, value in zip(self.loss_names, losses, strict=True)}
        summary["acc"] = correct / samples
        if known:
            summary["acc_clean"] = correct_clean / known
        if wrong:
            summary["memorized"] = memorized / wrong
            summary["recovered"] = recovered / wrong
        return summary
