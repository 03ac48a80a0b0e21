"""Plan of a sweep, checked before any job starts, and summary at its end.

Hydra's sweepers only start jobs: the first error ends the sweep, nothing is skipped, and two jobs may share a folder.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fer.config.hydra_errors import explain_mistake
from fer.config.settings import check_for_training
from fer.errors import ConfigError, Pruned, RunFailed, UserError
from fer.files.terminal import log_to_terminal, report_errors, say
from fer.launch import run_job, workers
from fer.runs.protocol import protocol_named
from fer.runs.run_folder import RunFolder, State

log = logging.getLogger(__name__)

_OUTCOMES = ("done", "skipped", "resumed", "trial", "pruned", "failed", "not finished")
_AFTER_SIGTERM = 128 + signal.SIGTERM
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True)
class Job:
    """A job before the sweep starts."""

    overrides: tuple[str, ...]
    folder: RunFolder
    state: State
    resumes: bool

    @property
    def outcome(self) -> str:
        """Return the job's state: ``done``, ``skipped``, ``resumed``, ``trial``, ``failed`` or ``not finished``."""
        now = self.folder.state
        if now == "done":
            return "skipped" if self.state == "done" else "resumed" if self.resumes else "done"
        if now != "failed" and self.folder.debug_file.is_file():
            return "trial"
        return "failed" if now == "failed" else "not finished"


class SweepWatch(Callback):
    """Hydra tells it of a run, or of a sweep, before the first job and before any folder is made."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with report_errors("fer-train"), _nothing_ignored():
            resolved = run_job.resolve(_without_hydra(config), config.hydra.runtime.choices)
            check_for_training(resolved, ranks_exist=workers.ranks_exist())
            RunFolder(config.hydra.run.dir).make()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        log_to_terminal()
        with report_errors("fer-train"), _nothing_ignored():
            _sweeps.append(Sweep(config))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Drop each finished job's configuration, which Hydra would keep until the end of the sweep."""
        job_return.cfg = job_return.hydra_cfg = None


class Sweep:
    """The jobs of a command line.

    A sweeper that chooses its jobs as it goes, such as Optuna's, has no plan: its jobs are those whose folders have
    changed since the start.

    Raises:
        ConfigError: a job cannot be composed, jobs would share a folder, a search would look at the test set, or
            processes for ranks exist already.
        RunFolderError: a folder belongs to another run.
    """

    def __init__(self, config: DictConfig) -> None:
        if workers.ranks_exist():
            raise ConfigError(
                "torchrun and srun start one job; start a sweep without them, its jobs start their own ranks"
            )
        searches = config.hydra.sweeper._target_ != _BASIC_SWEEPER
        if searches and not protocol_named(config.protocol).selects:
            raise ConfigError(f"protocol={config.protocol} would search on the test set; search with protocol=holdout")
        self.started = time.time()
        self.folder = Path(config.hydra.sweep.dir)
        self.pruned: set[Path] = set()
        self.jobs = None if searches else list(_planned(config))
        if self.jobs is not None:
            _check_folders(self.jobs)
            finished = sum(job.state == "done" for job in self.jobs)
            log.info("%s, %d of them finished already", _counted(self.jobs), finished)
        RunFolder(self.folder).make()

    def summary(self) -> tuple[str, bool]:
        """Lines for the terminal, and whether every job is done."""
        jobs = self.jobs if self.jobs is not None else self._changed()
        by_outcome: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            by_outcome["pruned" if job.folder.path.absolute() in self.pruned else job.outcome].append(job)
        counts = [f"{len(by_outcome[name])} {name}" for name in _OUTCOMES if name in by_outcome]
        lines = [f"{_counted(jobs)}: {', '.join(counts) or 'none was started'}"]
        for job in by_outcome["failed"]:
            lines += [f"  failed  {job.folder.path}", f"          {job.folder.error()}"]
        if jobs:
            lines.append(
                f"Table and plots  fer-report {os.path.commonpath([job.folder.path.parents[1] for job in jobs])}"
            )
        return "\n".join(lines), not by_outcome["failed"] and not by_outcome["not finished"]

    def _changed(self) -> list[Job]:
        runs = (RunFolder(file.parent) for file in sorted(self.folder.glob("**/config.yaml")))
        traces = ((run, [file for file in (run.log_file, run.error_file) if file.is_file()]) for run in runs)
        changed = (run for run, files in traces if any(file.stat().st_mtime >= self.started for file in files))
        return [Job((), run, "new", False) for run in changed]


def _counted(jobs: Sequence[Job]) -> str:
    return f"{len(jobs)} job" if len(jobs) == 1 else f"{len(jobs)} jobs"


_sweeps: list[Sweep] = []
"""The sweep of this process, if it runs one."""


def note_pruned(folder: Path) -> None:
    """Count the job of this folder, in the summary of this process's sweep, as stopped on purpose."""
    for each in _sweeps:
        each.pruned.add(folder)


@contextmanager
def summarize() -> Iterator[None]:
    """Print a sweep's summary when it ends, also after an error, and how to continue an interrupted one.

    Raises:
        SystemExit: status 1 where a job is not done, 130 after Ctrl-C, 143 after SIGTERM.
    """
    # Ranks may wait in C++ code, where no Python handler runs; they end at once.
    if not workers.ranks_exist():
        signal.signal(signal.SIGTERM, _end)
    status: object = 0
    try:
        yield
    except KeyboardInterrupt:
        status = 130
        say("\ninterrupted; the same command goes on from here", to_stderr=True)
    except SystemExit as stop:
        status = stop.code
        if status == _AFTER_SIGTERM:
            say("ended by SIGTERM; the same command goes on from here", to_stderr=True)
    if _sweeps:
        text, is_complete = _sweeps.pop().summary()
        say(text)
        status = status or int(not is_complete)
    if status:
        raise SystemExit(status)


def run_sweep_job(cfg: DictConfig, path: str, choices: Mapping[str, str | None]) -> float | None:
    """Run one job of a sweep: its value for a sweeper that searches, ``None`` when it failed, nan when it was pruned.

    The value is the accuracy that selects the epoch, under ``last5`` the headline.
    """
    try:
        result = run_job.run(cfg, path, choices, is_sweep_job=True)
    except Pruned as stopped:
        log.info("%s: %s", path, stopped)
        return math.nan
    except (UserError, RunFailed) as error:
        log.error("failed: %s", error)
        return None
    assert result is not None
    if "trial" in result:
        return None
    metrics = result["metrics"]
    log.info("%s: test/acc %.4f, test/macro_acc %.4f", path, metrics["test/acc"], metrics["test/macro_acc"])
    return float(result["selected_epoch"]["holdout/acc"] if "selected_epoch" in result else metrics["test/acc"])


def _end(*_: object) -> None:
    raise SystemExit(_AFTER_SIGTERM)


@contextmanager
def _nothing_ignored() -> Iterator[None]:
    """End the program on any exception; Hydra would only log a warning and start unchecked jobs without a summary.

    Raises:
        ConfigError: Hydra cannot compose a job.
        SystemExit: status 1, with a traceback, for an internal error.
    """
    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain_mistake(error, sys.argv[1:])) from error
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def _planned(config: DictConfig) -> Iterator[Job]:
    """The jobs that Hydra's basic sweeper will run, composed as the launchers compose them."""
    loader = GlobalHydra.instance().config_loader()
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    given += [str(override) for override in config.hydra.overrides.task]
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(loader).parse_overrides(given):
        key = override.get_key_element()
        if override.is_sweep_override() and override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    for overrides in itertools.product(*values.values()):
        job = loader.load_sweep_config(config, [*overrides])
        folder = RunFolder(Path(job.hydra.sweep.dir) / job.hydra.sweep.subdir)
        run_job.check_folder(_without_hydra(job), folder.path, job.hydra.runtime.choices)
        yield Job(overrides, folder, folder.state, folder.has_checkpoint)


def _without_hydra(job: DictConfig) -> DictConfig:
    """Copy a job's configuration without Hydra's own part, as the job gets it."""
    return OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])


def _check_folders(jobs: Sequence[Job]) -> None:
    by_path: dict[Path, list[Job]] = defaultdict(list)
    for job in jobs:
        by_path[job.folder.path].append(job)
    for path, sharing in by_path.items():
        if len(sharing) > 1:
            different = sorted(set(sharing[0].overrides) ^ set(sharing[1].overrides))
            keys = sorted({override.partition("=")[0] for override in different})
            raise ConfigError(
                f"{len(sharing)} jobs would share the folder {path}, whose name "
                + (f"does not hold {', '.join(keys)} ({', '.join(different)})" if keys else "is the same for all")
                + "; give each value in a command of its own, with another output_dir="
            )
