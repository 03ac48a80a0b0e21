"""Keeps Lightning from handling signals: a run may end at any moment, because the last whole epoch is on disk."""

from __future__ import annotations

import signal
import threading

import lightning.pytorch as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment


class SignalsAsBefore(L.Callback):
    """Puts the handler of SIGTERM back that Lightning replaces whenever it starts to train, evaluate or predict.

    Lightning's own lets an interrupted training exit with status 0, as if it were done, and waits in the handler for
    the other ranks, which may be anywhere.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    on_validation_start = on_predict_start = on_train_start


def cluster_without_requeueing() -> list[SLURMEnvironment]:
    """Plugins of a trainer that keep it from queueing a job of SLURM again, from a checkpoint amid an epoch."""
    is_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if is_slurm else []
