"""The life of a composed job: it is refused, skipped, resumed or trained, in this process or in workers.

A single run on one device trains in this process; a job of a sweep, or one
on several devices, in fresh worker processes of torch's elastic agent, which get it already composed; and where
torchrun or SLURM have started a process for every rank, in those.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fer.config.compose import keys_by_epochs, stated_epochs
from fer.config.settings import check_for_training, read_settings
from fer.config.tidy_numbers import tidy
from fer.errors import ConfigError, Pruned, TrainingError, UserError
from fer.launch.workers import Result, in_one_line, is_first_rank, ranks_exist, train_in_workers, train_rank
from fer.runs.run_folder import RunFolder, RunFolderError

log = logging.getLogger(__name__)

_NAMED_GROUPS = ("method", "backbone", "data", "noise", "augment", "optim", "experiment", "sweep")


def resolve(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The configuration as plain containers, with the chosen option of every group under ``choices``.

    ``by_epochs`` holds the keys whose values follow ``trainer.max_epochs``, see ``keys_by_epochs``.

    Raises:
        ConfigError: a value is missing or cannot be resolved.
    """
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}; give it as {error.full_key}=...") from error
    assert isinstance(resolved, dict)
    chosen = {key: choices.get(key) for key in _NAMED_GROUPS}
    tidied: dict[str, Any] = tidy({str(key): value for key, value in resolved.items()})
    return {**_with_absolute_root(tidied), "choices": chosen, "by_epochs": keys_by_epochs(cfg)}


def _with_absolute_root(config: dict[str, Any]) -> dict[str, Any]:
    """Make a relative ``data.root`` absolute, so that a run's data is found from any folder."""
    data = config.get("data")
    if not isinstance(data, dict):
        return config
    stated = data.get("root")
    if not isinstance(stated, str) or not stated.strip() or stated.startswith("~"):
        return config
    root, reader = str(Path(stated).absolute()), data.get("reader")
    if isinstance(reader, dict) and reader.get("root") == stated:
        data = {**data, "reader": {**reader, "root": root}}
    return {**config, "data": {**data, "root": root}}


def scaled_settings(cfg: DictConfig) -> list[str]:
    """Describe how a paper's epochs (``${epochs:...}``) were scaled, a line for each key."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    lines = []
    for section, node in raw.items():
        for name, value in node.items() if isinstance(node, dict) else ():
            found = stated_epochs(value)
            if found is None:
                continue
            epoch, of, least = found
            now, epochs = OmegaConf.select(cfg, f"{section}.{name}"), cfg.trainer.max_epochs
            bound = f"; at least {least}" if least else ""
            lines.append(f"{section}.{name}={now} of {epochs} epochs (published: {epoch} of {of}{bound})")
    return lines


def run(
    cfg: DictConfig, path: str | Path, choices: Mapping[str, str | None], *, is_sweep_job: bool = False
) -> Result | None:
    """Bring a run to its end and return its result; a finished run is not trained again.

    A job of a sweep trains in worker processes and leaves its folder behind also when it cannot start.

    Returns:
        What ``result.json`` holds; ``None`` in a process whose rank is not the first.

    Raises:
        ConfigError, DatasetError, WeightsError, RunFolderError: before any training, with what to do.
        TrainingError: training went wrong in a way that it would again.
        RunFailed: worker processes ended with an error; it is in the folder's ``error.txt``.
    """
    folder = RunFolder(path)
    with _failure_kept(folder, Path(cfg.get("output_dir") or path), is_sweep_job=is_sweep_job):
        config = resolve(cfg, choices)
        return _bring_to_end(config, folder, scaled_settings(cfg), is_sweep_job=is_sweep_job)


def run_resolved(config: Mapping[str, Any], path: str | Path) -> Result | None:
    """Bring a run of a configuration to its end that is resolved already, as ``run`` does."""
    folder = RunFolder(path)
    with _failure_kept(folder, folder.path):
        return _bring_to_end(config, folder)


def _bring_to_end(
    config: Mapping[str, Any], folder: RunFolder, lines: Sequence[str] = (), *, is_sweep_job: bool = False
) -> Result | None:
    """Refuse, skip, resume or train; ``lines`` are for the log of one that is trained."""
    settings = check_for_training(config, ranks_exist=ranks_exist())
    if folder.open(config, [*config["unnamed_keys"]]) == "done":
        log.info("%s is finished already; remove the folder to train again", folder.path)
        return _finished(config, folder)
    folder.forget_error()
    for line in lines:
        log.info("%s", line)
    if not ranks_exist() and (is_sweep_job or settings.trainer.ranks_per_node > 1):
        return train_in_workers(settings, folder)
    outcome = train_rank(settings, folder.path)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


@contextmanager
def _failure_kept(folder: RunFolder, top: Path, *, is_sweep_job: bool = False) -> Iterator[None]:
    """Leave ``error.txt`` behind where that helps; a single run that could not start leaves nothing below ``top``."""
    was_new = folder.state == "new"
    try:
        yield
    except (RunFolderError, Pruned):
        raise
    except UserError as error:
        if is_sweep_job or isinstance(error, TrainingError):
            folder.add_error(in_one_line(error), "")
        elif was_new and is_first_rank():
            folder.discard(top)
        raise


def check_folder(cfg: DictConfig, path: str | Path, choices: Mapping[str, str | None]) -> None:
    """Refuse a job of a sweep, before the sweep starts, whose folder belongs to another run.

    Raises:
        RunFolderError: with the difference.
        DatasetError: all faults of data that a finished run was trained on and that lies elsewhere now.
    """
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        return
    try:
        config = resolve(cfg, choices)
    except ConfigError:
        return  # a job that fails by itself does not stop the others
    folder.compare(config, [*config["unnamed_keys"]])
    if folder.state == "done":
        _finished(config, folder)


def _finished(config: Mapping[str, Any], folder: RunFolder) -> Result:
    root = folder.config()["data"].get("root")
    if root != config["data"].get("root"):
        from fer.training import build, finished_run

        log.info("it was trained on the data in %s; comparing", root)
        finished_run.check_data(build.build_data(read_settings(config)), folder)
    return folder.result()
