"""Files that a command may write: never what it reads, never a run's own, and another's only where that is allowed."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fer.errors import ConfigError
from fer.runs.run_folder import RunFolder


class Inputs:
    """The files that a command reads, to be told from those that it writes."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: set[Path] = set()
        self._files: set[tuple[int, int]] = set()
        for path in paths:
            self._places.add(_place(path))
            if (file := _file(path)) is not None:
                self._files.add(file)

    def __contains__(self, path: Path) -> bool:
        """Tell whether a path is one of them, or leads to one of them by any link."""
        return _place(path) in self._places or _file(path) in self._files


def check_output(path: Path, inputs: Inputs, *, may_replace: bool, remedy: str) -> None:
    """Refuse a file to write that would take the place of something else.

    Args:
        path: of the file.
        inputs: what the same command reads.
        may_replace: whether another existing file may be replaced.
        remedy: what to do about one that may not, for the message.

    Raises:
        ConfigError: the path is an input, a file of a run or a folder, or exists already.
    """
    if path in inputs:
        raise ConfigError(f"{path} would be replaced, and this command reads it; write to another place")
    if _is_file_of_a_run(path):
        raise ConfigError(f"{path} belongs to the run in its folder; write to another place")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is a device or a pipe, and would be replaced by a file; give another name")
    if not may_replace and os.path.lexists(path):
        raise ConfigError(f"{path} exists already; {remedy}")


def distinct_names(paths: Iterable[Path], suffix: str) -> dict[Path, str]:
    """Name a file for each path: its own name with another suffix, and a number where several would be equal.

    Names that differ in upper and lower case or in how accents are composed only count as equal: some file systems
    cannot tell them apart.
    """
    taken: set[str] = set()
    names = {}
    for path in paths:
        name, number = path.stem, 1
        while (key := unicodedata.normalize("NFC", name).casefold()) in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(key)
        names[path] = name + suffix
    return names


def _is_file_of_a_run(path: Path) -> bool:
    """Tell whether a run folder keeps a file of its own there, or in the folder above."""
    return any(
        path.parent / path.name in folder.contents or path.parent in folder.contents
        for folder in (RunFolder(path.parent), RunFolder(path.parent.parent))
        if folder.config_file.is_file()
    )


def _place(path: Path) -> Path:
    """Resolve the folder of a path but not its last part, which may be a link."""
    return path.parent.resolve() / path.name


def _file(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino
