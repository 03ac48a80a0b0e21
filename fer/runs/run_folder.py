"""The run folder: its files and its states."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from fer.errors import UserError
from fer.files.atomic import open_to_append, remove_unfinished, replacing_text, write_json
from fer.files.lock import acquire
from fer.files.plain_data import PlainDataError, read_json, read_json_lines, read_yaml, yaml_text
from fer.files.regular import open_regular
from fer.files.visible_text import visible_name
from fer.runs.config_differences import differences
from fer.runs.provenance import provenance

log = logging.getLogger(__name__)

State = Literal["new", "incomplete", "failed", "done"]
FORMAT = 2
"""Format number of run folders, in ``stamp.json``; raised when older folders can no longer be read."""


class RunFolderError(UserError):
    """A run folder that cannot be used for this run; the message says why and what to do."""


class RunFolder:
    """Paths and files of one run.

    A folder is ``new`` (no configuration in it), ``incomplete``, ``failed`` (it holds ``error.txt``) or ``done`` (it
    holds ``result.json``, which is written last). Files are replaced atomically; ``records.jsonl`` is appended to, a
    line per epoch.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.stamp_file = self.path / "stamp.json"
        self.noise_file = self.path / "noise.csv"
        self.records_file = self.path / "records.jsonl"
        self.result_file = self.path / "result.json"
        self.debug_file = self.path / "debug.json"
        self.predictions_file = self.path / "predictions.csv"
        self.error_file = self.path / "error.txt"
        self.log_file = self.path / "train.log"
        self.lock_file = self.path / ".lock"
        self.cam_folder = self.path / "cams"
        self.tensorboard_folder = self.path / "tensorboard"
        self.loggers_file = self.path / "loggers.json"
        self.last_checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.interrupted_checkpoint = self.path / "checkpoints" / "interrupted.ckpt"
        self.best_checkpoint = self.path / "checkpoints" / "best.ckpt"

    @property
    def contents(self) -> tuple[Path, ...]:
        """Files and subfolders that a run keeps in its folder."""
        return (
            self.config_file, self.stamp_file, self.noise_file, self.records_file, self.result_file,
            self.debug_file, self.predictions_file, self.error_file, self.log_file, self.lock_file, self.cam_folder,
            self.last_checkpoint.parent, self.tensorboard_folder, self.loggers_file,
        )  # fmt: skip

    @property
    def state(self) -> State:
        if self.result_file.is_file():
            return "done"
        if self.error_file.is_file():
            return "failed"
        return "incomplete" if self.config_file.is_file() else "new"

    def open(self, config: Mapping[str, Any], unnamed_keys: Sequence[str]) -> State:
        """Claim the folder for a configuration and say in which state it is.

        Raises:
            RunFolderError: it belongs to another configuration (the message shows the difference), or cannot be
                written to.
        """
        if not self.config_file.is_file():
            self._check_that_nothing_is_there()
            self.make()
            try:
                with replacing_text(self.config_file) as stream:
                    stream.write(yaml_text(config))
                return "new"
            except PlainDataError as error:
                raise RunFolderError(f"{self.config_file} cannot be written: {error}; shorten the settings") from error
            except OSError as error:
                if not self.config_file.is_file():  # else another rank has written it meanwhile
                    raise self._not_writable(error) from error
        self.compare(config, unnamed_keys)
        return self.state

    def _check_that_nothing_is_there(self) -> None:
        """Refuse a folder that holds somebody's files by the names of a run's, but no run."""
        may_stay = {self.error_file, self.lock_file}  # of a job that could not start
        there = [path.name for path in self.contents if path not in may_stay and _would_be_lost(path)]
        if there and not self.config_file.is_file():  # else another rank has written it meanwhile
            raise RunFolderError(
                f"{self.path} holds {', '.join(there)} but no config.yaml, so it is no run's folder: move these files "
                "away, or choose another folder with output_dir="
            )

    def compare(self, config: Mapping[str, Any], unnamed_keys: Sequence[str]) -> None:
        """Refuse another configuration than the folder's.

        Raises:
            RunFolderError: the message shows the difference.
        """
        found = list(differences(self.config(), config, unnamed_keys))
        if found:
            shown = "\n".join(f"  {key}: {old!r} in the folder, {new!r} now" for key, old, new in found)
            raise RunFolderError(
                f"{self.path} holds a run with another configuration:\n{shown}\n"
                "Choose another folder with output_dir=, give the folder's values, or remove the folder."
            )

    @contextmanager
    def locked(self, patience: float = 20.0) -> Iterator[None]:
        """Lock the folder for one writing process. The system releases the lock when that process ends for any reason.

        Raises:
            RunFolderError: another process still holds the folder after ``patience`` seconds.
        """
        try:
            lock = acquire(self.lock_file, patience)
        except BlockingIOError:
            raise RunFolderError(f"another process is training in {self.path}; wait for it") from None
        except OSError as error:
            raise self._not_writable(error) from error
        with lock:
            for folder in (self.path, self.last_checkpoint.parent, self.cam_folder):
                remove_unfinished(folder)
            yield

    def _not_writable(self, error: OSError) -> RunFolderError:
        return RunFolderError(f"cannot write to {self.path} ({error.strerror}); choose another folder with output_dir=")

    def make(self) -> None:
        """Make the folder where there is none.

        Raises:
            RunFolderError: the system does not let us.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    def discard(self, top: Path) -> None:
        """Remove what a run that could not start has written, and folders within ``top`` that hold nothing else."""
        written = (self.config_file, self.stamp_file, self.noise_file, self.records_file, self.log_file, self.lock_file)
        for file in written:
            file.unlink(missing_ok=True)
        self.remove_pictures()
        above = (folder for folder in self.path.absolute().parents if folder.is_relative_to(top.absolute()))
        # Folders that this run has made are empty now; rmdir fails on all others.
        for folder in (self.last_checkpoint.parent, self.path, *above):
            with suppress(OSError):
                folder.rmdir()

    def remove_pictures(self) -> None:
        """Remove event files and maps, which a run that starts anew writes anew."""
        for folder in (self.tensorboard_folder, self.cam_folder):
            shutil.rmtree(folder, ignore_errors=True)

    def config(self) -> dict[str, Any]:
        """The resolved configuration of the run.

        Raises:
            RunFolderError: there is none, or it cannot be read.
        """
        try:
            config = read_yaml(self.config_file)
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} is no run folder: it has no {self.config_file.name}") from None
        except (OSError, PlainDataError) as error:
            raise RunFolderError(f"{self.config_file} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise RunFolderError(f"{self.config_file} holds no configuration of a run")
        self._check_format()
        return config

    def _check_format(self) -> None:
        """Refuse a folder that another version of the project wrote in another format; one without a stamp is new.

        Raises:
            RunFolderError: the format is another one.
        """
        if not self.stamp_file.is_file():
            return
        found = self._read_json(self.stamp_file).get("format", 1)
        if found != FORMAT:
            raise RunFolderError(
                f"{self.path} was written in format {visible_name(found)}, and this version reads format {FORMAT}: use "
                "the version that wrote it (stamp.json holds the commit), or train again in another folder"
            )

    @property
    def has_checkpoint(self) -> bool:
        return self.last_checkpoint.is_file() or self.interrupted_checkpoint.is_file()

    def records(self) -> list[dict[str, Any]]:
        """Read the epochs so far, oldest first. A line cut off by a crash ends the list."""
        records = read_json_lines(self.records_file) if self.records_file.is_file() else []
        return [*itertools.takewhile(lambda record: isinstance(record.get("epoch"), int), records)]

    def keep_records_before(self, epoch: int) -> None:
        """Drop the records of ``epoch`` and later, which a resumed run will write again."""
        kept = [record for record in self.records() if record["epoch"] < epoch]
        with replacing_text(self.records_file) as stream:
            stream.writelines(json.dumps(record) + "\n" for record in kept)

    def append_record(self, record: Mapping[str, Any]) -> None:
        with open_to_append(self.records_file) as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def result(self) -> dict[str, Any]:
        """Content of ``result.json``.

        Raises:
            RunFolderError: the run is not finished, or the file cannot be read.
        """
        if not self.result_file.is_file():
            raise RunFolderError(f"{self.path} holds no finished run; run its command again to resume it")
        return self._read_json(self.result_file)

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_json(self.result_file, result)
        self.error_file.unlink(missing_ok=True)

    def error(self) -> str:
        """Error of a failed run in one line."""
        try:
            with open_regular(self.error_file) as stream:
                lines = stream.read(100_000).decode("utf-8", errors="replace").strip().splitlines()
        except OSError as error:
            return f"{self.error_file} cannot be read: {error}"
        return lines[0] if lines else "unknown error"

    def add_error(self, summary: str, details: str, *, is_cause: bool = False) -> None:
        """Make the run a failed one.

        The first error of a command comes first, or what has caused it; every rank may add its own.
        """
        entry = f"{summary}\n{details}\n"
        try:
            if is_cause and self.error_file.is_file():
                errors = self.error_file.read_text(encoding="utf-8", errors="replace")
                with replacing_text(self.error_file) as stream:
                    stream.write(entry + errors)
            else:
                with open_to_append(self.error_file) as stream:
                    stream.write(entry)
        except OSError as error:  # the disk may be full, which may have caused the error
            log.warning("cannot write %s (%s): %s", self.error_file, error.strerror, summary)

    def forget_error(self) -> None:
        """Make a failed run one that goes on.

        Raises:
            RunFolderError: the folder cannot be written to.
        """
        try:
            self.error_file.unlink(missing_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    def write_stamp(self, facts: Mapping[str, Any]) -> None:
        write_json(self.stamp_file, {"format": FORMAT, **provenance(), **facts})

    def stamp(self) -> dict[str, Any]:
        """Content of ``stamp.json``.

        Raises:
            RunFolderError: it is missing or cannot be read.
        """
        return self._read_json(self.stamp_file)

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            return read_json(path)
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error}") from error
        except PlainDataError as error:
            raise RunFolderError(f"{path} cannot be read: {error}; it is no run's {path.stem}") from error


def _would_be_lost(path: Path) -> bool:
    """Tell whether a run that starts would remove or replace a file there; no file stands in a folder's place."""
    return any(path.iterdir()) if path.is_dir() else bool(path.suffix) and os.path.lexists(path)
