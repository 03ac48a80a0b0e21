"""Reads the losses of training steps: some for TensorBoard, all to see that they are finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
from torch import Tensor, distributed

from fer.errors import TrainingError
from fer.views.batch import Batch


class _Step(NamedTuple):
    number: int
    """Number of the step in its epoch, from 1."""
    samples: Tensor
    """Positions in the training table, (B,)."""
    losses: Tensor
    """Losses in the order of their names, (P,)."""


class _Fault(NamedTuple):
    step: int
    what: str
    samples: list[int]


class StepLosses(L.Callback):
    """Logs every ``trainer.log_every_n_steps``-th step, and stops a training whose loss is nan or infinite.

    Losses stay on the device until a step is logged or the epoch's last one is done, so that no other step waits.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._unread: list[_Step] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._unread = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._names = tuple(outputs["parts"])
        self._unread.append(_Step(batch_idx + 1, batch.index, torch.stack([*outputs["parts"].values()])))
        is_logged = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if is_logged or trainer.is_last_batch:
            values = dict(zip(self._names, self._read(trainer), strict=True))
            if is_logged:
                for logger in trainer.loggers:
                    logger.log_metrics({f"step/{name}": v for name, v in values.items()}, step=trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check all unread losses first, so that no diverged state is saved."""
        if self._unread:
            self._read(trainer)

    def _read(self, trainer: L.Trainer) -> list[float]:
        """The newest step's losses, once all that are unread have been looked at."""
        losses = torch.stack([step.losses for step in self._unread]).cpu()
        self._stop_where_not_finite(trainer, losses)
        self._unread = []
        newest: list[float] = losses[-1].tolist()
        return newest

    def _stop_where_not_finite(self, trainer: L.Trainer, losses: Tensor) -> None:
        """Look at losses (S, P) of the unread steps.

        Raises:
            TrainingError: on every rank, with the first such step of any of them.
        """
        found = self._first_fault(losses)
        everywhere = [found]
        if trainer.world_size > 1:
            everywhere *= trainer.world_size
            distributed.all_gather_object(everywhere, found)
        faults = [fault for fault in everywhere if fault is not None]
        if not faults:
            return
        first = min(fault.step for fault in faults)
        faults = [fault for fault in faults if fault.step == first]
        samples = " ".join(str(sample) for fault in faults for sample in fault.samples)
        raise TrainingError(
            f"{faults[0].what} in epoch {trainer.current_epoch + 1}, step {first}, of samples {samples} (rows of "
            "noise.csv from 0): training has diverged; try a smaller optim.lr, or trainer.precision=32-true"
        )

    def _first_fault(self, losses: Tensor) -> _Fault | None:
        finite = losses.isfinite()
        if bool(finite.all()):
            return None
        first = int((~finite.all(1)).nonzero()[0])
        step = self._unread[first]
        values = zip(self._names, losses[first].tolist(), finite[first].tolist(), strict=True)
        faulty = [f"{name} is {value}" for name, value, is_finite in values if not is_finite]
        # Name the part: the total is not finite because a part is not.
        return _Fault(step.number, ", ".join(faulty[1:] or faulty), step.samples.tolist())
