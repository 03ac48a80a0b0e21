"""The folder of a run that goes on where another one has ended: what it takes over, and whether it may."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer.config.settings import Settings
from fer.files.atomic import making_folder, replacing_text, write_json
from fer.files.plain_data import PlainDataError, yaml_text
from fer.files.regular import open_regular
from fer.runs.event_files import copy_events
from fer.runs.protocol import protocol_named
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.training.checkpoints import read_checkpoint
from fer.training.finished_run import filled

_MAPS = re.compile(r"epoch-[0-9]{1,9}\.npz")
_EVENTS = re.compile(r"events\.out\.tfevents\..+")
_OF_A_CHECKPOINT = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"}


def take_over(source: RunFolder, kept: Settings, config: Mapping[str, Any], target: RunFolder) -> None:
    """Make ``target`` what it would be if the longer training had just ended the last epoch of ``source``.

    Nothing is there before all is; ``source`` is only read.

    Args:
        source: finished run.
        kept: its settings, from ``read_kept_config``.
        config: the longer training's, for ``config.yaml``.
        target: folder that is not there yet, or is empty.

    Raises:
        RunFolderError, ConfigError: a file of the run is missing or damaged, or its files do not belong together; the
            method or a callback depends on the number of epochs; ``target`` cannot be made.
    """
    try:
        _clear(target)
        with making_folder(target.path) as unfinished:
            made = RunFolder(unfinished)
            copy_what_grows(source, made)
            _check(source, kept, made)
            write_json(made.stamp_file, {**made.stamp(), "continued_from": _origin(source, made)})
            with replacing_text(made.config_file) as stream:
                stream.write(yaml_text(config))
    except (OSError, shutil.Error) as error:
        if target.config_file.is_file():
            return  # another process was faster
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(f"{source.path} cannot be copied to {target.path} ({reason})") from error
    except PlainDataError as error:
        raise RunFolderError(f"{source.path} cannot be continued: {error}") from error


def _clear(target: RunFolder) -> None:
    """Remove what a job that could not start has left, and refuse anything else."""
    if not target.path.is_dir():
        return
    of_a_job = {target.error_file, target.lock_file}
    if target.config_file.is_file():
        return  # another process was faster
    if others := sorted(path.name for path in target.path.iterdir() if path not in of_a_job):
        raise RunFolderError(
            f"{target.path} holds {', '.join(others[:5])} but no config.yaml, so it is no run's folder: move these "
            "files away, or choose another folder with output_dir="
        )
    for file in of_a_job:
        file.unlink(missing_ok=True)


def copy_what_grows(source: RunFolder, target: RunFolder) -> None:
    """Copy what every epoch adds to; what a run writes at its end stays behind.

    Raises:
        OSError: a file cannot be copied.
    """
    for name in ("stamp_file", "noise_file", "records_file", "log_file", "last_checkpoint", "best_checkpoint"):
        file: Path = getattr(source, name)
        if file.is_file():
            copy: Path = getattr(target, name)
            copy.parent.mkdir(exist_ok=True)
            with open_regular(file) as stream, copy.open("xb") as written:
                shutil.copyfileobj(stream, written)
    for folder, to, pattern in (
        (source.cam_folder, target.cam_folder, _MAPS),
        (source.tensorboard_folder, target.tensorboard_folder, _EVENTS),
    ):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if pattern.fullmatch(file.name) and file.is_file() and not file.is_symlink():
                to.mkdir(exist_ok=True)
                if pattern is _EVENTS:
                    copy_events(file, to / file.name)
                else:
                    shutil.copyfile(file, to / file.name)


def _origin(source: RunFolder, made: RunFolder) -> dict[str, Any]:
    return {"run": str(source.path.absolute()), "epochs": len(made.records())}


def _check(source: RunFolder, kept: Settings, made: RunFolder) -> None:
    """Compare the copies with each other, so that nothing can change after it was looked at."""
    epochs = len(made.records())
    checkpoint = _read(made.last_checkpoint, source.last_checkpoint)
    _compare(checkpoint, made, epochs - 1, source.last_checkpoint)
    protocol = protocol_named(kept.protocol)
    if protocol.selects:
        best = protocol.best_epoch(made.records())
        _compare(_read(made.best_checkpoint, source.best_checkpoint), made, best, source.best_checkpoint)
    if absent := sorted(_OF_A_CHECKPOINT - checkpoint.keys()):
        raise RunFolderError(f"{source.last_checkpoint} lacks {', '.join(absent)}, so no training can go on from it")
    settings = {key: value for key, value in kept.method.items() if not key.startswith("_")}
    if dict(checkpoint.get("hyper_parameters") or {}) != settings:
        raise RunFolderError(f"{source.last_checkpoint} was trained with another method than config.yaml; restore both")
    for name, state in checkpoint["callbacks"].items() if isinstance(checkpoint["callbacks"], Mapping) else ():
        if _has_stopped(state):
            raise RunFolderError(
                f"{source.path} was stopped by {str(name).partition('{')[0]} in its last epoch, where a longer "
                "training would have ended as well: there is nothing to continue"
            )
    method = filled(source, kept, made.last_checkpoint)
    if method.follows_total_epochs:
        raise RunFolderError(
            f"{source.path} cannot be continued: every epoch of {kept.choices.get('method')} depends on how many "
            f"there are in all ({type(method).__name__} reads trainer.max_epochs); train anew with that number"
        )


def _read(copy: Path, original: Path) -> dict[str, Any]:
    """Read a copy of a checkpoint; messages name the original.

    Raises:
        RunFolderError: see ``read_checkpoint``.
    """
    try:
        return read_checkpoint(copy)
    except RunFolderError as error:
        raise RunFolderError(str(error).replace(str(copy), str(original))) from error


def _compare(checkpoint: Mapping[str, Any], made: RunFolder, epoch: int, original: Path) -> None:
    """Compare a checkpoint with the record of its epoch, which counts the same samples in the same seconds."""
    record, writer = made.records()[epoch], checkpoint.get("callbacks")
    state = writer.get("RunWriter") if isinstance(writer, Mapping) else None
    try:
        speed = state["samples"] * made.stamp()["devices"] / state["training_seconds"]  # type: ignore[index]
        belongs = checkpoint["epoch"] == epoch and speed == record["samples_per_second"]
    except (KeyError, TypeError, ZeroDivisionError):
        belongs = False
    if not belongs:
        raise RunFolderError(
            f"{original} does not belong to epoch {epoch + 1} in records.jsonl; restore both, or train anew"
        )


def _has_stopped(state: object) -> bool:
    """Tell by the state of a callback such as ``EarlyStopping`` whether it has ended the training."""
    if not isinstance(state, Mapping):
        return False
    wait, patience = state.get("wait_count"), state.get("patience")
    is_out_of_patience = isinstance(wait, int) and isinstance(patience, int) and wait >= patience
    return bool(state.get("stopped_epoch")) or is_out_of_patience
