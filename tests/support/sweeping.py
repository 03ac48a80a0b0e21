"""Commands in processes of their own, what they leave behind, and callbacks that disturb them."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L
import yaml

from fer.runs.run_folder import RunFolder
from support.project import PROJECT

TRAIN = [sys.executable, "-m", "fer.cli.train"]


class Command:
    """A running command and all processes that it has started, directly or indirectly.

    It leads a process group, as a command that a terminal starts.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, program: Sequence[str] = TRAIN, **environment: str):
        self.folder = folder
        self._mark = f"FER_TEST_MARK={uuid.uuid4().hex}"
        self._output = folder / f"{self._mark[-8:]}.txt"
        with self._output.open("wb") as stream:
            self.process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}",
                    "OMP_NUM_THREADS": "1",
                    **environment,
                    **dict([self._mark.split("=")]),
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.kill_all)  # no process survives a test that was stopped

    def wait(self, seconds: float = 300) -> int:
        """Wait for the exit status, negative for a signal; kill a command that hangs, with all its processes."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"not done after {seconds} s:\n{self.output}") from None

    @property
    def output(self) -> str:
        """Text that the command has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[int]:
        """Find the command's running processes by a mark in their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:  # ended meanwhile, or someone else's
                continue
            if self._mark.encode() in environment.split(b"\0"):
                found.append(int(folder.name))
        return found

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def kill_all(self) -> None:
        """Kill all processes at once, as a crash of the machine would."""
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


class Ended(NamedTuple):
    """A command that has ended."""

    folder: Path
    status: int
    output: str


def run(arguments: Sequence[str], folder: Path, **environment: str) -> Ended:
    command = Command(arguments, folder, **environment)
    status = command.wait()
    return Ended(folder, status, command.output)


def wait_until(holds: Callable[[], object], command: Command, seconds: float = 120) -> None:
    """Wait until ``command`` has caused something."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline or (command.process.poll() is not None and not holds()):
            status = command.process.poll()
            command.kill_all()
            raise AssertionError(f"it did not happen (exit status {status}):\n{command.output}")
        time.sleep(0.05)


def assert_all_end(command: Command, seconds: float = 20) -> None:
    """Check that no process outlives its command for long."""
    deadline = time.monotonic() + seconds
    while left := command.processes():
        if time.monotonic() > deadline:
            commands = [Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ") for process in left]
            command.kill_all()
            raise AssertionError(f"{commands} still run")
        time.sleep(0.05)


def write_options(folder: Path, **options: dict[str, Any]) -> str:
    """Write configuration options, ``group__name={key: value}``; return the override with which Hydra finds them."""
    for name, content in options.items():
        group, _, option = name.partition("__")
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / f"{option}.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    return f"hydra.searchpath=[file://{folder}]"


def as_option(overrides: Sequence[str]) -> dict[str, Any]:
    """Write overrides into a configuration option, so that they do not enter run names; return its override."""
    option: dict[str, Any] = {"defaults": []}
    for key, _, value in (override.partition("=") for override in overrides):
        if key in ("data", "backbone", "noise"):
            option["defaults"].append({f"override /{key}": value})
        else:
            *above, last = key.split(".")
            node = option
            for part in above:
                node = node.setdefault(part, {})
            node[last] = yaml.safe_load(value)
    return option


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Read every file of every run in ``folder``: the time of its last write and its content."""
    runs = {file.parent for file in folder.rglob("config.yaml")}
    files = [file for run in runs for file in run.rglob("*") if file.is_file()]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def times_trained(folder: Path) -> list[str]:
    """Read which epochs were ever trained in a folder, in order; includes epochs whose records were dropped."""
    lines = RunFolder(folder).log_file.read_text(encoding="utf-8").splitlines()
    return [line.split("epoch ")[1].split()[0] for line in lines if "epoch_records: epoch " in line]


class StopAt(L.Callback):
    """Stands still before the epoch that the file names, as ``0.01 2`` for that of learning rate 0.01, and says so.

    Also where a training goes on amid it; until the file says something else, or SIGTERM asks to end.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        here = f"{trainer.optimizers[0].defaults['lr']:g} {trainer.current_epoch}"
        while self.file.read_text(encoding="utf-8") == here and not _is_to_end(trainer):
            self.file.with_suffix(".reached").touch()
            time.sleep(0.02)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)


def _is_to_end(trainer: L.Trainer) -> bool:
    return trainer.received_sigterm or any(getattr(callback, "is_asked", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]


class FailWhile(L.Callback):
    """Raises an exception in the second epoch as long as a file exists."""

    def __init__(self, file: str, error: Exception) -> None:
        self.file, self.error = Path(file), error

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1 and self.file.exists():
            raise self.error
