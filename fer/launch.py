"""Decides what becomes of a composed job and where it runs.

It is refused, skipped, resumed or trained. A single run on one device trains in this process; a job of a sweep, or one
on several devices, in fresh worker processes of torch's elastic agent, which get it already composed; and where
torchrun or SLURM have started a process for every rank, in those.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fer.devices import devices_per_node, world_size
from fer.errors import ConfigError, RunFailed, TrainingError, UserError
from fer.host_memory import keep_freed_memory
from fer.runs import RunFolder, RunFolderError
from fer.terminal import log_to_terminal

log = logging.getLogger(__name__)

Result = dict[str, Any]

_MOURNING = 1.0
"""Seconds for which a rank with an error stays, so that the agent, which looks ten times a second, first sees the one
that was killed and has caused it."""

_NAMED_GROUPS = ("method", "backbone", "data", "noise", "augment", "optim", "experiment", "sweep")


def resolve(cfg: DictConfig, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """The configuration as plain containers, with the chosen option of every group under ``choices``.

    Raises:
        ConfigError: a value is missing or cannot be resolved.
    """
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}; give it as {error.full_key}=...") from error
    assert isinstance(resolved, dict)
    chosen = {key: choices.get(key) for key in _NAMED_GROUPS}
    return {**{str(key): value for key, value in resolved.items()}, "choices": chosen}


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
    was_new = folder.state == "new"
    try:
        config = resolve(cfg, choices)
        check(config)
        if folder.open(config, [*config["unnamed_keys"]]) == "done":
            log.info("%s is finished already; remove the folder to train again", folder.path)
            return _finished(config, folder)
        folder.error_file.unlink(missing_ok=True)
        if not ranks_exist() and (is_sweep_job or devices_per_node(config["trainer"]) > 1):
            return _train_in_workers(config, folder)
        outcome = train_rank(config, folder.path)
        if isinstance(outcome, UserError):
            raise outcome
        return outcome
    except RunFolderError:
        raise
    except UserError as error:
        if is_sweep_job or isinstance(error, TrainingError):
            folder.add_error(_in_one_line(error), "")
        elif was_new and _is_first_rank():
            folder.discard()
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


def check(config: Mapping[str, Any]) -> None:
    """What can be told from the values alone.

    Raises:
        ConfigError: naming the key.
    """
    ranks = world_size(config["trainer"])
    least = {
        "seed": (config["seed"], 0),
        "trainer.max_epochs": (config["trainer"]["max_epochs"], 1),
        "batch_size": (config["batch_size"], 1),
        "launch.max_restarts": (config["launch"]["max_restarts"], 0),
    }
    for key, (value, lowest) in least.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ConfigError(f"{key} is {value!r}; it must be a whole number of {lowest} or more")
    if config["batch_size"] % ranks:
        raise ConfigError(
            f"batch_size={config['batch_size']} is the total over all devices and must divide evenly among {ranks}; "
            f"choose a multiple of {ranks}"
        )
    if config["trainer"]["num_nodes"] > 1 and not ranks_exist():
        raise ConfigError(
            "trainer.num_nodes above 1 needs a process for every rank: start torchrun with -m fer.train on each machine"
        )


def train_rank(config: Mapping[str, Any], path: str | Path) -> Result | UserError | None:
    """Train in this process, which is one rank or the only one.

    Returns:
        The result on the first rank, ``None`` on others. A ``UserError`` is returned: every rank meets it alike, so
        that none waits for another, and a restart would meet it again.

    Raises:
        Exception: anything else, after its traceback was added to the folder's ``error.txt``.
    """
    from fer import experiment  # seconds of imports, which refused and finished runs do without

    keep_freed_memory()
    folder = RunFolder(path)
    try:
        if not _is_first_rank():
            return experiment.train(config, folder)
        with folder.locked():
            return folder.result() if folder.state == "done" else experiment.train(config, folder)
    except UserError as error:
        return error
    except Exception as error:
        folder.add_error(_in_one_line(error), traceback.format_exc())
        raise


def _finished(config: Mapping[str, Any], folder: RunFolder) -> Result:
    root = folder.config()["data"].get("root")
    if root != config["data"].get("root"):
        from fer import experiment

        log.info("it was trained on the data in %s; comparing", root)
        experiment.check_data(experiment.build_data(config), folder)
    return folder.result()


def _train_in_workers(config: Mapping[str, Any], folder: RunFolder) -> Result:
    """Hand the job to one fresh process per device; ranks that crash are started again from the last checkpoint."""
    ranks = devices_per_node(config["trainer"])
    with _worker_environment(ranks), _signals_restored():
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the run says itself what went wrong
        agent = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=config["launch"]["max_restarts"],
            start_method="spawn",
        )
        try:
            outcome = elastic_launch(agent, _work)(config, str(folder.path))[0]
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:  # others may have written that they lost it
                folder.add_error(f"rank {rank} ended with {failure.signal_name()}", "", is_cause=True)
            elif not folder.error_file.is_file():
                folder.add_error(f"rank {rank} ended with exit status {failure.exitcode}", "")
            raise RunFailed(folder.path, folder.error()) from None
        except SignalException as stop:
            # Hydra would take an Exception for a failed job and go on with the next one.
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stop.sigval) from None
    if isinstance(outcome, UserError):
        raise outcome
    result: Result = outcome
    return result


def _work(config: Mapping[str, Any], path: str) -> Result | UserError | None:
    """What a worker process does."""
    log_to_terminal()
    if not _is_first_rank():
        logging.disable(logging.WARNING)  # one voice; errors are for all
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        return train_rank(config, path)
    except Exception:
        time.sleep(_MOURNING)
        raise


def _end_with_parent() -> None:
    """No worker outlives its agent, not even one that was killed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def ranks_exist() -> bool:
    """Whether torchrun, or SLURM with several tasks, has started a process for every rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ or _ranks_are_slurm_tasks()


def _ranks_are_slurm_tasks() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _is_first_rank() -> bool:
    return os.environ.get("SLURM_PROCID" if _ranks_are_slurm_tasks() else "RANK", "0") == "0"


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _worker_environment(ranks: int) -> Iterator[None]:
    """What worker processes find in their environment, unless the user has set it."""
    cores = int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) or os.cpu_count() or 1
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // ranks)),
        # Ranks that start again would meet in a store that holds the keys of those that crashed, and wait for ever.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


@contextmanager
def _signals_restored() -> Iterator[None]:
    """The agent leaves its handlers behind."""
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
