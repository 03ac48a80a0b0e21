"""Base class of all methods: optimizer and schedule, views, evaluation, metrics, logging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fer.errors import TrainingError
from fer.methods.core.metrics import EvaluationMetrics, TrainingStatistics, accepted_label
from fer.methods.core.parameter_groups import by_stage
from fer.methods.core.sample_states import share_rows
from fer.models.batch_norm import share_statistics
from fer.models.network import FaceNetwork
from fer.views.augmentation import Augmentation
from fer.views.batch import Batch, ViewBatch


class Loss(NamedTuple):
    """Loss of a batch, and what is measured beside it."""

    total: Tensor
    """Scalar to minimise."""
    logits: Tensor
    """(B, K), by which training accuracy and memorization are measured."""
    parts: dict[str, Tensor]
    """Scalars to log by name, such as ``loss_cls``; the same names in all steps of an epoch."""


@dataclass(frozen=True)
class Setting:
    """Surroundings of a method, fixed by the experiment."""

    build_network: Callable[[], FaceNetwork]
    """A freshly initialized network; a method with two networks calls it twice."""
    augmentation: Augmentation
    optimizer: Callable[[Iterable[Any]], Optimizer] | None
    """``None`` where nothing is trained."""
    scheduler: Callable[[Optimizer], LRScheduler] | None
    class_names: tuple[str, ...]
    given_labels: Tensor
    """int64 (N,), the perhaps wrong labels of the training samples, in the order of ``batch.index``."""
    labels_are_clean: bool = False
    """True if no given label is wrong; only for choices that released code makes by the name of its label list."""
    evaluated_split: str = "test"
    """The split that is evaluated after every epoch, and the prefix of its metrics: ``test`` or ``holdout``."""
    soft_labels: bool = False
    """True where training batches carry ``votes``."""
    enough_votes: float | None = None
    """Share of the votes, (0, 1], that makes a class a right answer in tests; ``None``: the label alone is right."""
    samples_repeat: bool = False
    """True if a sample may occur several times in an epoch, on any rank, and also in one batch."""


class Method(L.LightningModule):
    """Base class of methods. A subclass sets ``views`` and implements ``loss``.

    Its constructor takes the setting and, keyword-only, plain Python values: these are saved as hyper-parameters.
    Per-sample state (one row per training sample) is registered with ``register_sample_state`` and indexed by
    ``batch.index``. Under DDP, terms that couple samples see only the local batch of the rank.
    """

    views: int = 1
    """Number of views of a face that ``loss`` gets: 1 or 2."""
    takes_soft_labels: bool = False
    """True if ``loss`` uses ``batch.target`` and so learns from ``votes``; others are refused with soft_labels=true."""
    follows_total_epochs: bool = False
    """True if an epoch depends on the total number of epochs; such a run cannot be continued with more epochs."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        if setting.soft_labels and not self.takes_soft_labels:
            raise ValueError(f"soft_labels=true: {type(self).__name__} learns from one label per face; "
                             "docs/data.md names the methods that take votes")  # fmt: skip
        self.save_hyperparameters(ignore=["setting"], logger=False)
        self.enough_votes = setting.enough_votes
        self.network = setting.build_network()
        self.augmentation = setting.augmentation
        self.class_names = setting.class_names
        self.num_classes = len(setting.class_names)
        self.evaluated_split = setting.evaluated_split
        self.samples_repeat = setting.samples_repeat
        self.evaluation_metrics = EvaluationMetrics(self.num_classes)
        self.training_statistics = TrainingStatistics()
        self.epoch_record: dict[str, float] = {}
        """Metrics of the newest epoch, complete when the epoch ends."""
        self.decided: dict[str, str] = {}
        """Values that the method chose by its data, by key of the configuration; they enter the result."""
        self._sample_states, self._seen = list[str](), list[Tensor]()
        self._make_optimizer = setting.optimizer
        self._make_scheduler = setting.scheduler

    @property
    def total_epochs(self) -> int:
        """The number of epochs of the whole training, for methods that say ``follows_total_epochs = True``."""
        if not self.follows_total_epochs:
            raise TypeError(f"{type(self).__name__} reads total_epochs: it must state follows_total_epochs = True")
        assert self.trainer.max_epochs is not None
        return self.trainer.max_epochs

    def loss(self, batch: ViewBatch) -> Loss:
        """Compute the loss of a batch, whose views ``make_views`` made."""
        raise TypeError(f"{type(self).__name__} must define loss(batch)")

    def make_views(self, image: Tensor) -> tuple[Tensor, ...]:
        """Make the training views, as many as ``views`` says, of uint8 images (B, 3, h, w)."""
        return (self.augmentation.one_view(image),) if self.views == 1 else self.augmentation.two_views(image)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of uint8 images (B, 3, h, w), as evaluated."""
        return self.classify(self.augmentation.test_view(image))

    def classify(self, view: Tensor) -> Tensor:
        """Logits (B, K) of views (B, 3, H, W), as evaluated; a method with other outputs or networks overrides it."""
        logits: Tensor = self.network(view)[1]
        return logits

    def register_sample_state(self, name: str, values: Tensor) -> None:
        """Make ``values`` (N, ...), a row per training sample, the buffer ``self.<name>``, which checkpoints hold.

        A step changes rows of its batch only; after every epoch all ranks have all of them. Where samples repeat, all
        ranks have them after every step. Of a sample that occurs several times in a step, the last row that is written
        stays, of several ranks that of the first.
        """
        self.register_buffer(name, values)
        self._sample_states.append(name)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the backbone, so that weights taken from the checkpoint can be refused where they do not belong."""
        checkpoint["backbone"] = getattr(self.network.backbone, "name", None)

    def parameter_groups(self) -> Iterable[Any]:
        """Group the parameters; by default all are in one group; a group's ``lr_factor`` scales its learning rate."""
        return self.parameters()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        assert self._make_optimizer is not None and self._make_scheduler is not None
        optimizer = self._make_optimizer(by_stage(self, self.parameter_groups()))
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0) * group.get("stage_factor", 1.0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._make_scheduler(optimizer), "interval": "epoch"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        # Not in a transfer hook, because the random generators are seeded after it.
        loss = self.loss(batch.seen_as(*self.make_views(batch.image)))
        parts = {"loss": loss.total, **loss.parts}
        self.training_statistics.update(loss.logits, batch, parts)
        if self.trainer.world_size > 1 and self._sample_states:
            self._seen.append(batch.index)
            if self.samples_repeat:
                self._share_sample_states()
        total = loss.total if self.trainer.world_size == 1 else loss.total * self._share_of_step(len(batch.label))
        return {"loss": total, "parts": {name: value.detach() for name, value in parts.items()}}

    def on_train_epoch_start(self) -> None:
        self.training_statistics.reset()
        self._seen = []
        group = self.trainer.optimizers[0].param_groups[0]
        self.epoch_record = {"lr": group["lr"] / group.get("stage_factor", 1.0)}

    def epoch_so_far(self) -> dict[str, Any]:
        """Collect each rank's own state of an interrupted epoch; a collective under DDP."""
        self._share_sample_states()
        return {"record": self.epoch_record, "statistics": self.training_statistics.sums_so_far()}

    def go_on_with_epoch(self, so_far: dict[str, Any]) -> None:
        """Restore the value that ``epoch_so_far`` returned on this rank."""
        self.epoch_record = so_far["record"]
        self.training_statistics.go_on_from(so_far["statistics"])

    def on_train_epoch_end(self) -> None:
        self._share_sample_states()
        values = self.training_statistics.compute()
        self._record({f"train/{name}": value for name, value in values.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        probabilities = self(batch.image).softmax(1)
        label = batch.label
        if self.enough_votes is not None and batch.votes is not None:
            label = accepted_label(probabilities, label, batch.votes, self.enough_votes)
        self.evaluation_metrics.update(probabilities, label)

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        self._end_evaluation(self.evaluated_split)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_end(self) -> None:
        self._end_evaluation("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Probabilities (B, K) and what identifies the samples; a subclass may add per-sample outputs."""
        return {"index": batch.index, "probabilities": self(batch.image).softmax(1).float()}

    def conclusions(self) -> dict[str, Tensor]:
        """Give what the method concludes about the training labels, by name, each (N,) with a value per sample.

        They become columns of ``predictions.csv``, empty in the rows of the test split. Values of a name that ends in
        ``_label`` are classes, int64 in 0..K-1.
        """
        return {}

    def _start_evaluation(self) -> None:
        if self.trainer.world_size > 1:
            share_statistics(self)
        self.evaluation_metrics.reset()

    def _end_evaluation(self, split: str) -> None:
        values = self.evaluation_metrics.summary(self.class_names)
        self._record({f"{split}/{name}": value for name, value in values.items()})

    def _share_sample_states(self) -> None:
        if self.trainer.world_size > 1 and self._sample_states:
            states = [getattr(self, name) for name in self._sample_states]
            ranks = (self.trainer.global_rank, self.trainer.world_size)
            share_rows(states, self._seen, self.sum_over_ranks, ranks=ranks)
            self._seen = []

    def _share_of_step(self, samples: int) -> Tensor:
        """Compute the weight that turns DDP's mean over ranks into a mean over samples when local batches differ."""
        everywhere = self.sum_over_ranks(torch.tensor(float(samples), device=self.device))
        return samples * self.trainer.world_size / everywhere

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Sum of every rank's tensor, which may be overwritten; without gradient."""
        if self._trainer is None or self.trainer.world_size == 1:
            return values
        return torch.as_tensor(self.trainer.strategy.reduce(values, reduce_op="sum"))

    def _record(self, values: dict[str, float]) -> None:
        """Add metrics of the epoch, which are the same on every rank.

        Raises:
            TrainingError: one is not finite, so that every later epoch would be in vain.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} in epoch {self.current_epoch + 1}: training has diverged; "
                    "try a smaller optim.lr, or trainer.precision=32-true"
                )
        self.epoch_record.update(values)
        self.log_dict(values, logger=False)
