"""Errors that the user can fix; every message says how."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """An error that the user can fix; the message names its cause and says what to do."""


class ConfigError(UserError):
    """A configuration that cannot be run; the message names the key."""


class OtherClasses(ConfigError):
    """The configured classes do not match those of the data set."""


class RunFailed(Exception):
    """A run that ended with an error; what helps to find the cause is in ``error.txt`` of its folder."""

    def __init__(self, folder: Path, error: str) -> None:
        super().__init__(folder, error)
        self.folder = folder
        self.error = error

    def __str__(self) -> str:
        return f"{self.error}\nThe traceback is in {self.folder / 'error.txt'}"


class TrainingError(UserError):
    """Training that went wrong on every rank alike and would do so again."""


class Pruned(UserError):
    """A trial of a search that was stopped because others were better; its run can be resumed."""
