"""Handling of SIGTERM: a training ends after its current step and can be resumed; all else ends at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint
from torch import distributed

from fer.methods.core.method import Method
from fer.runs.run_folder import RunFolder
from fer.training.checkpoints import WholeCheckpoints

log = logging.getLogger(__name__)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class SignalsAsBefore(L.Callback):
    """Puts the handler of SIGTERM back that Lightning replaces whenever it starts to train, test or predict.

    Lightning's own lets an interrupted training exit with status 0, as if it were done, and waits in the handler for
    the other ranks, which may be anywhere.
    """

    def __init__(self) -> None:
        self._before: _Handler = signal.getsignal(signal.SIGTERM)

    def _handle_by(self, handler: _Handler) -> None:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._handle_by(self._before)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._handle_by(self._before)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._handle_by(self._before)


class SaveWhenTerminated(SignalsAsBefore, Checkpoint):
    """Keeps what SIGTERM interrupts: amid an epoch ``checkpoints/interrupted.ckpt``, at its end the usual checkpoint.

    All ranks end at the same step, where any of them has been asked to: gradients have met, so none waits for another.
    An epoch whose last step is done is brought to its end first. (A ``Checkpoint``, because Lightning calls these
    after all others.)

    Raises:
        SystemExit: status 143, from the hooks of a training that was asked to end.
    """

    def __init__(self, folder: RunFolder, checkpoints: WholeCheckpoints) -> None:
        super().__init__()
        self.folder = folder
        self.checkpoints = checkpoints
        self.is_asked = False
        self._epoch_so_far: list[dict[str, Any]] = []
        """State of every rank amid an epoch."""
        self._group: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"epoch_so_far": self._epoch_so_far} if self._epoch_so_far else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epoch_so_far = state_dict["epoch_so_far"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        if self._epoch_so_far:
            pl_module.go_on_with_epoch(self._epoch_so_far[trainer.global_rank])
            self._epoch_so_far = []
        # Ranks ask each other on the CPU, so that none waits for its GPU.
        if trainer.world_size > 1 and distributed.get_backend() != "gloo":
            self._group = distributed.new_group(backend="gloo")
        self._handle_by(self._ask)
        # A signal since Lightning set its own handler, which would end the training with status 0.
        self.is_asked |= trainer.received_sigterm
        trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Method)
        if not trainer.is_last_batch and self._any_rank_is_asked(trainer):
            self._save(trainer, pl_module)
            self._end(trainer, f"amid epoch {trainer.current_epoch + 1}, after step {batch_idx + 1}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._any_rank_is_asked(trainer):
            self._end(trainer, f"after epoch {trainer.current_epoch + 1}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._any_rank_is_asked(trainer):
            self._end(trainer, "after training")
        self._handle_by(self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True

    def _any_rank_is_asked(self, trainer: L.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.is_asked
        asked = torch.tensor(int(self.is_asked))
        distributed.all_reduce(asked, op=distributed.ReduceOp.MAX, group=self._group)
        return bool(asked)

    def _save(self, trainer: L.Trainer, method: Method) -> None:
        so_far = method.epoch_so_far()
        self._epoch_so_far = [so_far] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(self._epoch_so_far, so_far)
        trainer.save_checkpoint(self.folder.interrupted_checkpoint)
        if self.checkpoints.error is not None:
            reason = self.checkpoints.error.strerror or self.checkpoints.error
            log.warning("cannot write %s (%s): this epoch is lost", self.folder.interrupted_checkpoint, reason)

    def _end(self, trainer: L.Trainer, where: str) -> None:
        log.info("ended by SIGTERM %s", where)
        raise SystemExit(128 + signal.SIGTERM)


def cluster_without_requeueing() -> list[SLURMEnvironment]:
    """Plugins of a trainer that keep it from queueing a job of SLURM again by itself."""
    is_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if is_slurm else []
