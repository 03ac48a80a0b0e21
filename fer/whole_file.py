"""Files that are there whole or not at all, whenever the process or the machine ends."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_UNFINISHED = ".unfinished"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: that file takes the place of ``path`` when it is complete and on disk.

    Raises:
        OSError: it cannot be written; ``path`` is as it was, and nothing else is left.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
    try:
        yield unfinished
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing_text(path: Path) -> Iterator[IO[str]]:
    """A text stream whose content takes the place of ``path``, as with ``replacing``."""
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def open_lock(path: Path) -> IO[bytes]:
    """Open a file to lock it, made where it is missing; its content stays as it is, and no link is followed.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")


def open_to_append(path: Path) -> IO[str]:
    """Open a UTF-8 text file to write at its end, made where it is missing; no link is followed.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    with replacing_text(path) as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes have left of files called ``name``, which no other process writes now."""
    for file in folder.glob(f".{name}.*{_UNFINISHED}"):
        file.unlink(missing_ok=True)
