"""Training, resuming and testing of a run."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from fer.config.instantiate import call_configured, instantiate_node
from fer.config.settings import Settings
from fer.config.trainer_keys import keys_of_a_trial
from fer.data.loading.datamodule import FaceDataModule
from fer.errors import ConfigError
from fer.files.atomic import write_json
from fer.files.csv_files import write_table
from fer.files.terminal import logging_to
from fer.methods.core.method import Method
from fer.models.batch_norm import synchronize_statistics
from fer.models.weights.weight_file import read_once
from fer.runs.protocol import Record, protocol_named, result_row, run_result
from fer.runs.run_folder import RunFolder
from fer.training import predict_splits
from fer.training.build import build_method, read_data, rehearse, unread_data
from fer.training.callbacks.batch_norm import ReestimatedBatchNorm
from fer.training.callbacks.epoch_records import RunWriter
from fer.training.callbacks.finite_losses import StepLosses
from fer.training.callbacks.progress_bar import EpochBar
from fer.training.callbacks.pruning import Pruning
from fer.training.callbacks.seeding import Seeding
from fer.training.callbacks.termination import SaveWhenTerminated, SignalsAsBefore, cluster_without_requeueing
from fer.training.checkpoints import WholeCheckpoints, read_checkpoint
from fer.training.finished_run import any_fault_named, check_data, load
from fer.training.kept_config import check_data_root
from fer.training.loggers.make import loggers_of, make_loggers
from fer.training.run_inputs import write_inputs
from fer.views.random_seeds import seed_everything

log = logging.getLogger(__name__)


@dataclass
class Experiment:
    """Objects that a configuration describes, built but not yet run."""

    settings: Settings
    datamodule: FaceDataModule
    method: Method
    trainer: L.Trainer


def build(settings: Settings, folder: RunFolder, *, for_training: bool = True) -> Experiment:
    """Build data, method and trainer.

    Args:
        settings: of the run.
        folder: where callbacks and loggers write.
        for_training: ``False`` leaves out what writes to the folder, optimizer and schedule, and loads no pretrained
            weights.

    Raises:
        ConfigError: a value does not fit; the message names it.
        DatasetError: all faults of the data set.
    """
    with read_once():
        return _build(settings, folder, for_training=for_training)


def _build(settings: Settings, folder: RunFolder, *, for_training: bool) -> Experiment:
    if for_training:
        rehearse(settings)
    datamodule = unread_data(settings)
    checkpoints = WholeCheckpoints(folder)
    if for_training:
        callbacks = [Seeding(settings.seed), StepLosses(), RunWriter(folder, checkpoints, datamodule.protocol)]
        if settings.evaluation.batch_norm == "reestimated":
            callbacks.append(ReestimatedBatchNorm(settings.evaluation.batches))
        if settings.search:
            callbacks.append(Pruning(settings.search))
        callbacks += [_callback(name, node, folder) for name, node in settings.callbacks.items()]
        last: list[L.Callback] = [SaveWhenTerminated(folder, checkpoints)]
        loggers = make_loggers(settings.logger, folder, f"{folder.path.parent.name}/{folder.path.name}")
    else:
        callbacks, last, loggers = [], [SignalsAsBefore()], []
    on_terminal = settings.trainer.enable_progress_bar and for_training and sys.stdout.isatty()
    is_distributed = settings.trainer.world_size > 1
    trainer: L.Trainer = instantiate_node(
        {**settings.trainer.node, "enable_progress_bar": on_terminal},
        "trainer",
        # Buffers hold each rank's own samples; a broadcast at every step would overwrite them.
        strategy=DDPStrategy(broadcast_buffers=False) if is_distributed else "auto",
        plugins=[checkpoints, *cluster_without_requeueing()],
        callbacks=callbacks + ([EpochBar()] if on_terminal else []) + last,
        logger=loggers or False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_checkpointing=for_training,
        default_root_dir=folder.path,
    )
    # A debugging aid that writes new memory twice; on by default with deterministic algorithms.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    datamodule.trainer = trainer
    read_data(datamodule)
    seed_everything(settings.seed)
    method = build_method(
        settings,
        datamodule.table.class_names,
        torch.from_numpy(datamodule.train.given),
        labels_are_clean=datamodule.train.labels_are_clean,
        evaluated_split=datamodule.evaluated_split,
        for_training=for_training,
    )
    if is_distributed and settings.sync_batchnorm:
        call_configured(synchronize_statistics, method, trainer.strategy.root_device)
    return Experiment(settings, datamodule, method, trainer)


def _callback(name: str, node: Any, folder: RunFolder) -> L.Callback:
    """Build a callback of the configuration; checkpoints that it keeps lie in a folder named for it."""
    callback: L.Callback = instantiate_node(node, f"callbacks.{name}")
    if not isinstance(callback, L.Callback):
        raise ConfigError(f"callbacks.{name} is {type(callback).__name__}, which is no callback of Lightning")
    if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
        callback.dirpath = str(folder.last_checkpoint.parent / name)
    return callback


def train(settings: Settings, folder: RunFolder) -> dict[str, Any] | None:
    """Train or resume a run and test it; the first rank writes everything its folder holds and returns the result.

    Raises:
        ConfigError, DatasetError, WeightsError, RunFolderError: before any training.
        TrainingError: a loss is not finite.
    """
    started = time.time()
    with logging_to(folder.log_file):
        experiment = build(settings, folder)
        trainer, method, datamodule = experiment.trainer, experiment.method, experiment.datamodule
        resume, done = _where_to_go_on(folder)
        if resume is not None:
            check_data(datamodule, folder)
        if trainer.is_global_zero:
            write_inputs(trainer, method, datamodule, folder, resume, done)
        with _logging(experiment, folder):
            trainer.fit(method, datamodule=datamodule, ckpt_path=resume, weights_only=True)
            if trial := keys_of_a_trial(settings.trainer.node):
                return _end_trial(experiment, folder, trial)
            test = _test(experiment, folder)
            predicted = predict_splits.predict(trainer, method, datamodule)
            if not trainer.is_global_zero:
                return None
            memorized = predict_splits.memorization(datamodule.train, predicted["train"])
            result = _result(experiment, folder.records(), test, memorized)
            if method.decided:
                result["decided"] = dict(method.decided)
            result["seconds"] = time.time() - started
            conclusions = method.conclusions()
            columns = predict_splits.header(predicted, method.class_names, conclusions)
            write_table(folder.predictions_file, columns, predict_splits.rows(predicted, datamodule, conclusions))
            row = result_row(result, lr=settings.optim and settings.optim.lr)
            for logger in loggers_of(trainer):
                logger.log_result(*row, epochs=settings.trainer.max_epochs)
        folder.write_result(result)
    return result


@contextmanager
def _logging(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Start the loggers, and end them however the training ends, so that the next run does not write into theirs."""
    loggers, config, has_failed = loggers_of(experiment.trainer), folder.config(), True
    for logger in loggers:
        logger.start(config)
    try:
        yield
        has_failed = False
    finally:
        for logger in loggers:
            logger.end(failed=has_failed)


def _result(
    experiment: Experiment,
    records: Sequence[Record],
    test: Mapping[str, float] | None,
    memorization: Mapping[str, float],
) -> dict[str, Any]:
    settings = experiment.settings
    return run_result(
        experiment.datamodule.protocol,
        records,
        test,
        choices=settings.choices,
        seed=settings.seed,
        noise_ratio=settings.noise_ratio,
        lam=settings.method.get("lam"),
        evaluation=settings.evaluation.model_dump(),
        memorization=memorization,
        skipped=experiment.datamodule.skipped,
    )


def _end_trial(experiment: Experiment, folder: RunFolder, keys: list[str]) -> dict[str, Any] | None:
    """Keep what a trial has measured in ``debug.json``; a run that saw a part of the data has no result."""
    # An epoch that max_steps has cut short was not evaluated.
    evaluated = f"{experiment.datamodule.evaluated_split}/acc"
    records = [record for record in folder.records() if evaluated in record]
    trainer = experiment.trainer
    test = _test(experiment, folder) if records and not trainer.fast_dev_run else None  # type: ignore[attr-defined]
    if not trainer.is_global_zero:
        return None
    named = ", ".join(f"trainer.{key}={experiment.settings.trainer.node[key]}" for key in keys)
    if not records or (test is None and experiment.datamodule.protocol.selects):
        found: dict[str, Any] = {"metrics": {}, "epochs": len(records)}
    else:
        found = _result(experiment, records, test, {})
    found["trial"] = keys
    write_json(folder.debug_file, found)
    log.warning("a trial without a result (%s): what it measured is in %s", named, folder.debug_file)
    return found


def evaluate(settings: Settings, folder: RunFolder) -> dict[str, float]:
    """Test a finished run again with the checkpoint that its result was computed with.

    Args:
        settings: the run's, as ``read_kept_config`` reads them.
        folder: of the run.

    Returns:
        Metrics of the test split by name.
    """
    check_data_root(settings)
    with any_fault_named(folder):
        experiment = build(settings, folder, for_training=False)
    return _test_checkpoint(experiment, protocol_named(settings.protocol).tested_checkpoint(folder))


def _test(experiment: Experiment, folder: RunFolder) -> dict[str, float] | None:
    """Test the selected epoch; where none is selected the records hold the tests already."""
    protocol = experiment.datamodule.protocol
    return _test_checkpoint(experiment, protocol.tested_checkpoint(folder)) if protocol.selects else None


def _test_checkpoint(experiment: Experiment, checkpoint: Path) -> dict[str, float]:
    load(experiment.method, checkpoint)
    experiment.trainer.test(experiment.method, experiment.datamodule.test_dataloader(), verbose=False)
    return {k: v for k, v in experiment.method.epoch_record.items() if k.startswith("test/")}


def _where_to_go_on(folder: RunFolder) -> tuple[Path | None, int]:
    """Find the checkpoint of an interrupted run (``None`` without one) and the number of finished epochs."""
    done = read_checkpoint(folder.last_checkpoint)["epoch"] + 1 if folder.last_checkpoint.is_file() else 0
    if folder.interrupted_checkpoint.is_file():
        epoch = read_checkpoint(folder.interrupted_checkpoint)["epoch"]
        if epoch >= done:  # else its epoch is over, and a crash has prevented its removal
            return folder.interrupted_checkpoint, epoch
    return folder.last_checkpoint if done else None, done
