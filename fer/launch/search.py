"""A search with Optuna as Hydra's sweeper: its jobs are runs like any other, and the study outlives any of them.

Hydra's own plugin for Optuna stands on Optuna 2, which needs releases of its database library that are no longer kept.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from fer.errors import ConfigError
from fer.files.atomic import replacing_text
from fer.files.lock import acquire
from fer.files.plain_data import yaml_text
from fer.launch import sweep
from fer.training.study import open_storage

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)

_FOLDER = "folder"
"""User attribute of a trial: the folder of its run."""
_WORKER = "worker"
"""User attribute of a trial: the name of the lock of the command that asked for it."""
RESULT = "optimization_results.yaml"
"""Name of the file with the best trial, as Hydra's own sweepers call it."""


class OptunaSearch(Sweeper):
    """Asks Optuna for the values of each job and tells it what the job returned.

    Args:
        storage: path of a journal, or the URL of a database.
        study_name: of the study in it, which is gone on with where it exists.
        n_trials: trials of the study in all, without failed ones; so many failed ones end the command.
        n_jobs: jobs that the launcher gets at a time.
        sampler, pruner: nodes with ``_target_``; without a pruner no job is stopped.
        params: override by key, as on the command line; keys with several values span the space.
    """

    # Hydra builds plugins from this package only.
    __module__ = "hydra_plugins.noisy_label_fer"

    def __init__(
        self,
        storage: str,
        study_name: str,
        n_trials: int,
        n_jobs: int,
        sampler: DictConfig,
        pruner: DictConfig | None,
        params: Mapping[str, Any] | None,
    ) -> None:
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"hydra.sweeper.{name} is {value!r}; it must be a whole number of 1 or more")
        self.storage = storage if "://" in storage else str(Path(storage).absolute())
        self.study_name, self.n_trials, self.n_jobs = study_name, n_trials, n_jobs
        self.sampler, self.pruner = _plain(sampler), _plain(pruner)
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if find_spec("optuna") is None:
            raise ConfigError('hydra/sweeper=optuna needs Optuna: pip install "noisy-label-fer[search]"')
        self.composed, self.loader = config, hydra_context.config_loader
        self.locks = Path(config.hydra.sweep.dir, f".{self.study_name}")
        self.jobs = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run jobs until the study has ``n_trials`` trials; ``RESULT`` in the output folder says which was best."""
        import optuna

        from fer.config.instantiate import instantiate_node

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, fixed = self._space_of(arguments)
        if not space:
            raise ConfigError("nothing to search: give a key several values, such as 'method.lam=interval(0.5,50)'")
        study = optuna.create_study(
            study_name=self.study_name,
            storage=open_storage(self.storage),
            sampler=instantiate_node(self.sampler, "hydra.sweeper.sampler"),
            direction="maximize",
            load_if_exists=True,
        )
        with self._claimed() as worker:
            self._take_up_what_was_killed(study)
            self._run_jobs(study, worker, space, fixed)
        self._write_best(study)

    def _run_jobs(self, study: Study, worker: str, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> None:
        from optuna.trial import TrialState

        wanted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        failed = started = 0
        while failed < self.n_trials:
            left = self.n_trials - len(study.get_trials(deepcopy=False, states=wanted))
            if left <= 0:
                break
            trials = [study.ask() for _ in range(min(left, self.n_jobs))]
            for trial in trials:
                trial.set_user_attr(_WORKER, worker)
            jobs = [self._job_of(trial, space, fixed) for trial in trials]
            returns = self.jobs.launch([*jobs], initial_job_idx=started)
            started += len(trials)
            for trial, returned in zip(trials, returns, strict=True):
                failed += not self._tell(study, trial, returned)

    @contextmanager
    def _claimed(self) -> Iterator[str]:
        """Hold a lock while this command asks for trials, by which others see that it is alive; its name."""
        path = self.locks / f"{uuid.uuid4().hex}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with acquire(path, 0):
            yield path.name
            path.unlink(missing_ok=True)

    def _space_of(self, arguments: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
        """Divide overrides into those that span the space, by key, and those that hold for every job."""
        given = [f"{key}={value}" for key, value in self.params.items()]
        space: dict[str, BaseDistribution] = {}
        fixed: dict[str, str] = {}
        for override in OverridesParser.create(self.loader).parse_overrides([*given, *arguments]):
            key = override.get_key_element()
            space.pop(key, None)  # a later override replaces an earlier one
            fixed.pop(key, None)
            if override.is_sweep_override():
                space[key] = _distribution(override)
            else:
                fixed[key] = f"{key}={override.get_value_element_as_str()}"
        return space, [*fixed.values()]

    def _job_of(self, trial: Trial, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> list[str]:
        """Choose a trial's values and keep which folder they lead to."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        overrides = [*fixed]
        for key, kind in space.items():
            value: Any
            if isinstance(kind, FloatDistribution):
                value = trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)
            elif isinstance(kind, IntDistribution):
                value = trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
            else:
                assert isinstance(kind, CategoricalDistribution)
                value = trial.suggest_categorical(key, kind.choices)
            overrides.append(f"{key}={value}")
        job = self.loader.load_sweep_config(self.composed, overrides)
        trial.set_user_attr(_FOLDER, str(Path(job.hydra.sweep.dir, job.hydra.sweep.subdir).absolute()))
        if self.pruner is not None:
            told = {"storage": self.storage, "study": self.study_name, "trial": trial.number, "pruner": self.pruner}
            overrides.append(f"search={_as_override(told)}")
        return overrides

    def _tell(self, study: Study, trial: Trial, returned: Any) -> bool:
        """Tell Optuna how a job has ended; return whether it gave a value, be it one of a trial that was stopped."""
        from optuna.trial import TrialState

        try:
            value = returned.return_value
        except Exception as error:  # whatever the job has raised
            log.error("failed: %s", error)
            value = None
        if value is None:
            study.tell(trial, state=TrialState.FAIL)
        elif math.isnan(value):
            study.tell(trial, state=TrialState.PRUNED)
            sweep.note_pruned(Path(trial.user_attrs[_FOLDER]))
        else:
            study.tell(trial, value)
        return value is not None

    def _take_up_what_was_killed(self, study: Study) -> None:
        """Try the values of trials again whose command was killed: their runs go on after their last epoch."""
        from optuna.trial import TrialState

        for path in self.locks.glob("*.lock"):
            try:
                lock = acquire(path, 0)
            except OSError:  # alive, or being taken up by another command
                continue
            with lock:
                for trial in study.get_trials(states=(TrialState.RUNNING,)):
                    if trial.user_attrs.get(_WORKER) != path.name:
                        continue
                    study.tell(trial.number, state=TrialState.FAIL)
                    if trial.params:
                        study.enqueue_trial(trial.params)
                        log.info("trial %d was cut off; its run goes on", trial.number)
                path.unlink(missing_ok=True)

    def _write_best(self, study: Study) -> None:
        from optuna.trial import TrialState

        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return
        best = study.best_trial
        shown = ", ".join(f"{key}={value}" for key, value in best.params.items())
        log.info("best of %d trials: %.4f with %s", len(study.get_trials(deepcopy=False)), best.value, shown)
        with replacing_text(Path(self.composed.hydra.sweep.dir, RESULT)) as stream:
            stream.write(yaml_text({"name": "optuna", "best_params": dict(best.params), "best_value": best.value}))


def _distribution(override: Override) -> BaseDistribution:
    """Describe the values of an override for Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
        try:
            return kind(value.start, value.end, log="log" in value.tags)  # type: ignore[arg-type]
        except ValueError as error:
            raise ConfigError(f"{override.input_line}: {error}") from error
    if isinstance(value, RangeSweep):
        steps = [*value.range()]
        if not steps:
            raise ConfigError(f"{override.input_line} holds no value")
        kind = IntDistribution if all(isinstance(step, int) for step in steps) else FloatDistribution
        return kind(min(steps), max(steps), step=abs(value.step))  # type: ignore[arg-type]
    return CategoricalDistribution([*override.sweep_string_iterator()])


def _plain(node: DictConfig | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = None if node is None else OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    return found


def _as_override(value: Any) -> str:
    """Write plain containers as the value of an override."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_override(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_as_override, value))}]"
    if isinstance(value, str):
        # In quotes, backslashes count only where they stand before a quote.
        return "'" + re.sub(r"(\\*)(')", r"\1\1\\\2", re.sub(r"(\\+)$", r"\1\1", value)) + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def register() -> None:
    """Make the sweeper known to Hydra, which looks for plugins in one package, of which it is then a module."""
    package, _, name = OptunaSearch.__module__.partition(".")
    plugins = import_module(package) if find_spec(package) else sys.modules.setdefault(package, ModuleType(package))
    module = sys.modules.setdefault(OptunaSearch.__module__, ModuleType(OptunaSearch.__module__))
    setattr(module, OptunaSearch.__name__, OptunaSearch)
    setattr(plugins, name, module)
    Plugins.instance().register(OptunaSearch)
