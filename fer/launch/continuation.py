"""fer-train continue=FOLDER trainer.max_epochs=N: go on from the last epoch of a finished run, in a folder of its own.

The settings are those of the run's ``config.yaml``, so that the folder becomes, bit for bit, that of a training with N
epochs from the start; where anything depends on their number, the command is refused.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from fer.config.compose import CONFIG_DIR, scaled_epochs
from fer.config.devices import devices_per_node
from fer.config.settings import check_for_training
from fer.config.tidy_numbers import tidy
from fer.errors import ConfigError, TrainingError, UserError
from fer.files.plain_data import read_yaml
from fer.files.visible_text import visible_name
from fer.launch import run_job
from fer.launch.workers import Result, is_first_rank, ranks_exist
from fer.runs.run_folder import RunFolder, RunFolderError

log = logging.getLogger(__name__)

_KEY, _EPOCHS = "continue", "trainer.max_epochs"
_MAY_DIFFER = (
    "output_dir", "cache_dir", "image_cache", "num_workers", "data.root", "launch.max_restarts", "trainer.accelerator",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps",
)  # fmt: skip
"""Keys that never change a result and name no code, as those of ``callbacks`` and ``logger`` do."""
_OF_A_LOGGER = {"_target_", "default_hp_metric"}
"""Keys that do not say where files or messages go."""


@dataclass(frozen=True)
class Request:
    """Continuation that a command line asks for."""

    folder: RunFolder
    values: Mapping[str, Any] = field(default_factory=dict)
    """Given values by dotted key, without ``continue`` and ``trust``."""
    trust: Sequence[str] = ()

    @property
    def epochs(self) -> int:
        number = self.values.get(_EPOCHS)
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigError(f"say with {_EPOCHS}=N how many epochs {self.folder.path} is to have in all")
        return number


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Tell whether a command line of ``fer-train`` continues a run."""
    return any(argument.lstrip("+").partition("=")[0] == _KEY for argument in arguments)


def run(arguments: Sequence[str]) -> tuple[Path, Result | None]:
    """Continue a run as a command line says.

    Returns:
        The new folder, and what its ``result.json`` holds; ``None`` in a process whose rank is not the first.

    Raises:
        ConfigError, DatasetError, WeightsError, RunFolderError: before any training, with what to do.
        TrainingError, RunFailed: see ``run_job.run``.
    """
    request = read_request(arguments)
    source = request.folder
    _check_finished(source)

    from fer.training.continued_folder import take_over
    from fer.training.kept_config import ReadingOptions, check_data_root, read_kept_config

    options = ReadingOptions(trust=request.trust)
    if "cache_dir" in request.values:
        options = ReadingOptions(cache_dir=str(request.values["cache_dir"]), trust=request.trust)
    kept = read_kept_config(source, options)
    config = _longer(source, options.cache_dir, request)
    target = RunFolder(target_folder(source.path, kept.seed, request))
    if target.path.resolve().is_relative_to(source.path.resolve()):
        raise ConfigError(f"{target.path} lies within the run that it continues; choose another output_dir=")
    settings = check_for_training(config, ranks_exist=ranks_exist())
    was_new = not target.config_file.is_file()
    if was_new:
        check_data_root(settings)
        take_over(source, kept, config, target)
        log.info("%s goes on to epoch %d in %s", source.path, request.epochs, target.path)
    else:
        log.info("%s is there already", target.path)
    begun = len(target.records())
    try:
        return target.path, run_job.run_resolved(config, target.path)
    except UserError as error:
        has_trained = len(target.records()) > begun or target.interrupted_checkpoint.exists()
        if was_new and is_first_rank() and not isinstance(error, TrainingError) and not has_trained:
            shutil.rmtree(target.path, ignore_errors=True)
        raise


def read_request(arguments: Sequence[str]) -> Request:
    """Read a command line.

    Raises:
        ConfigError, hydra.errors.HydraException: it holds options, several values of a key, or what is no override.
    """
    if options := [argument for argument in arguments if argument.startswith("-")]:
        raise ConfigError(f"{_KEY}= goes on with one run, and takes no {options[0]}")
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides([*arguments]):
        key = override.get_key_element().lstrip("+")
        if override.is_delete():
            raise ConfigError(f"{key}: with {_KEY}= every setting stays as the run's config.yaml has it")
        if override.is_sweep_override():
            raise ConfigError(f"{key} has several values; {_KEY}= goes on with one run, so give one")
        values[key] = tidy(override.value())
    folder, trust = values.pop(_KEY), values.pop("trust", None) or []
    if not isinstance(folder, str) or not folder.strip():
        raise ConfigError(f"{_KEY} is {folder!r}; give the folder of a finished run")
    return Request(
        RunFolder(Path(folder).expanduser().absolute()),
        values,
        [trust] if isinstance(trust, str) else [str(target) for target in trust],
    )


def _check_finished(source: RunFolder) -> None:
    source.config()
    if source.state == "done":
        return
    if source.debug_file.is_file():
        raise RunFolderError(f"{source.path} holds a trial, which cannot be continued; train anew")
    raise RunFolderError(
        f"{source.path} holds a run that is not finished: give the same command as before to resume it; "
        f"{_KEY}= goes on from finished runs"
    )


def _longer(source: RunFolder, cache_dir: str, request: Request) -> dict[str, Any]:
    """Make the configuration of the longer training.

    Raises:
        ConfigError, RunFolderError: the request differs from the run in more, or has no more epochs; a setting
            follows the number of epochs.
    """
    config = source.config()
    _check_given(source, config, request)
    epochs = _value(config, _EPOCHS)
    if not isinstance(epochs, int) or request.epochs <= epochs:
        raise ConfigError(f"{_EPOCHS}={request.epochs}, but {source.path} has {epochs} epochs already; give more")
    numbers = [record["epoch"] for record in source.records()]
    if numbers != [*range(len(numbers))] or source.result().get("epochs") != len(numbers):
        raise RunFolderError(f"{source.records_file} does not hold every epoch of the run; restore it, or train anew")
    if len(numbers) < epochs:
        raise RunFolderError(
            f"{source.path} was stopped after {len(numbers)} of {epochs} epochs, where a longer training would have "
            "ended as well: there is nothing to continue"
        )
    if found := settings_by_epochs(source, config, request.epochs):
        raise ConfigError(
            f"{source.path} cannot be continued with {_EPOCHS}={request.epochs}, because its {epochs} epochs depended "
            f"on their number: {'; '.join(found)}. Train anew with {_EPOCHS}={request.epochs}"
        )
    _check_what_a_stranger_may_not(source, config, request)
    for key, value in request.values.items():
        if key in _MAY_DIFFER and key != "data.root":
            config = _with(config, key, value)
    data = config["data"]
    if "data.root" in request.values:
        root = str(Path(str(request.values["data.root"])).expanduser().absolute())
        data = {**data, "root": root, "reader": {**data["reader"], "root": root}}
    longer = _with(config, _EPOCHS, request.epochs)
    ours = read_yaml(CONFIG_DIR / "train.yaml")["unnamed_keys"]
    # A run of a search goes on by itself.
    return {**longer, "data": data, "cache_dir": cache_dir, "unnamed_keys": ours, "search": None}


def _check_given(source: RunFolder, config: Mapping[str, Any], request: Request) -> None:
    """Refuse keys that are not the run's own.

    Raises:
        ConfigError: naming all of them.
    """
    choices = config.get("choices")
    choices = choices if isinstance(choices, Mapping) else {}
    differing = []
    for key, value in request.values.items():
        if key == _EPOCHS or key in _MAY_DIFFER:
            continue
        is_there = key in choices or _value(config, key, _Absent) is not _Absent
        there = choices[key] if key in choices else _value(config, key)
        if not is_there or there != value or isinstance(there, bool) != isinstance(value, bool):
            differing.append(f"{key}={value} ({visible_name(repr(there)) if is_there else 'nothing'} there)")
    if differing:
        raise ConfigError(
            f"{_KEY}= keeps the settings in {source.config_file}, so these cannot be given: {', '.join(differing)}; "
            f"only {_EPOCHS}, trust, {', '.join(_MAY_DIFFER)} can. Leave them out, or train anew"
        )


def settings_by_epochs(source: RunFolder, config: Mapping[str, Any], epochs: int) -> list[str]:
    """Say which settings of a run would have been others with another number of epochs, a phrase for each.

    Raises:
        RunFolderError: the run does not say which settings follow it.
    """
    stated = config.get("by_epochs")
    if not isinstance(stated, Mapping):
        raise RunFolderError(
            f"{source.config_file} does not say by by_epochs which settings follow {_EPOCHS}: it is of an older "
            "version; train anew"
        )
    found = ["sampling=progressive mixes by the share of all epochs"] if config.get("sampling") == "progressive" else []
    for key, published in stated.items():
        value, name = _value(config, str(key)), visible_name(str(key))
        if published is None:
            found.append(f"{name} refers to {_EPOCHS}")
            continue
        numbers = published if isinstance(published, list) else []
        if len(numbers) != 3 or not all(isinstance(number, int) for number in numbers) or numbers[1] < 1:
            raise RunFolderError(f"{source.config_file}: by_epochs.{name} is not as a run writes it; restore it")
        if (then := scaled_epochs(numbers[0], numbers[1], epochs, numbers[2])) != value:
            found.append(f"{name} is {visible_name(repr(value))}, and {then} of {epochs}")
    return found


def _check_what_a_stranger_may_not(source: RunFolder, config: Mapping[str, Any], request: Request) -> None:
    """Refuse settings of a kept configuration that could write to other places or run foreign code.

    Raises:
        ConfigError: naming the key.
    """
    for name, logger in (config.get("logger") or {}).items():
        target = logger.get("_target_") if isinstance(logger, Mapping) else None
        for key in () if target in request.trust else sorted(map(str, {*(logger or {})} - _OF_A_LOGGER)):
            raise ConfigError(
                f"{source.config_file}: logger.{visible_name(name)}.{visible_name(key)} could write anywhere; if you "
                f"know it, allow it with trust=[{visible_name(str(target))}]"
            )
    trainer = config["trainer"]
    if trainer.get("accelerator") == "cpu" and "trainer.devices" not in request.values:
        cores = os.cpu_count() or 1
        if (devices := devices_per_node(trainer)) > cores:
            raise ConfigError(
                f"trainer.devices is {devices} in {source.config_file}, and this machine has {cores} cores; if that is "
                f"meant, say so with trainer.devices={devices}"
            )


def target_folder(source: Path, seed: int, request: Request) -> Path:
    """Name the folder of the longer training as that of a training from the start.

    A folder with a name of its own gets the number of epochs behind it.
    """
    root = request.values.get("output_dir")
    if source.name != f"seed{seed}" or source.parent == source.parent.parent:
        above = source.parent if root is None else Path(str(root)).absolute()
        return above / _renamed(source.name, request.epochs)
    group = source.parent.parent
    above = group if root is None else Path(str(root)).absolute() / group.name
    return above / _renamed(source.parent.name, request.epochs) / source.name


def _renamed(name: str, epochs: int) -> str:
    """Put ``trainer.max_epochs@N`` where ``run_name`` puts it, among the keys in the order of the alphabet."""
    new = f"{_EPOCHS}@{epochs}"
    if re.search(rf"(?<=-){re.escape(_EPOCHS)}@\d+", name):
        return re.sub(rf"(?<=-){re.escape(_EPOCHS)}@\d+", new, name)
    fixed, *extra = re.split(r"-(?=[A-Za-z_][\w.]*@)", name)
    place = next((number for number, part in enumerate(extra) if part.partition("@")[0] > _EPOCHS), len(extra))
    return "-".join([fixed, *extra[:place], new, *extra[place:]])


class _Absent:
    """Placeholder for a missing key."""


def _value(config: Any, key: str, default: Any = None) -> Any:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return default
        config = config[part]
    return config


def _with(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Copy a configuration with another value at a dotted key."""
    name, _, rest = key.partition(".")
    inner = config.get(name)
    return {**config, name: _with(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}
