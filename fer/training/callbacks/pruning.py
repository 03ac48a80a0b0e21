"""Stops a trial of a search after an epoch in which it is worse than others were."""

from __future__ import annotations

import lightning.pytorch as L

from fer.config.instantiate import instantiate_node
from fer.config.settings import SearchSettings
from fer.errors import Pruned
from fer.methods.core.method import Method
from fer.training.study import open_storage


class Pruning(L.Callback):
    """Reports the accuracy of each epoch that selects, and ends the training before the next where the study says so.

    The run can be resumed then as after any interruption.

    Raises:
        Pruned: on every rank, at the start of an epoch.
    """

    def __init__(self, search: SearchSettings) -> None:
        import optuna

        self._pruner = instantiate_node(search.pruner, "search.pruner")
        study = optuna.load_study(study_name=search.study, storage=open_storage(search.storage), pruner=self._pruner)
        frozen = study.get_trials()[search.trial]
        self._trial = optuna.trial.Trial(study, frozen._trial_id)
        self._known = {*frozen.intermediate_values}
        self._is_worse = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.broadcast(self._is_worse):
            raise Pruned(f"stopped by the search after epoch {trainer.current_epoch}: others were better by then")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        epoch = trainer.current_epoch
        if trainer.is_global_zero and epoch not in self._known:
            self._trial.report(float(pl_module.epoch_record[f"{pl_module.evaluated_split}/acc"]), epoch)
            self._is_worse = self._trial.should_prune()
