"""Files and folders that are there whole or not at all, whenever a process or machine ends, and locks on files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_UNFINISHED = ".unfinished"
# Older versions name no machine.
_UNFINISHED_NAME = re.compile(r"\.(?P<name>.+)\.(?:(?P<machine>[0-9a-f]{8})-)?[0-9a-f]{8}\.unfinished", re.DOTALL)
# A file name that is not UTF-8 holds lone surrogates such as \udcff.
_TEXT: Any = {"encoding": "utf-8", "errors": "backslashreplace"}
_SILENCE = 24 * 3600.0
"""Seconds without a write after which a file is left over, where no lock can tell."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: that file takes the place of ``path`` when it is complete and on disk.

    The file exists already and is to be overwritten, not replaced: this process holds a lock on it, by which
    ``remove_unfinished`` knows that it is still being written.

    Raises:
        OSError: it cannot be written; ``path`` is as it was, and nothing else is left.
    """
    unfinished, lock = _begin(path)
    try:
        with lock:
            yield unfinished
            with unfinished.open("rb") as stream:
                os.fsync(stream.fileno())
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _begin(path: Path) -> tuple[Path, IO[bytes]]:
    """Create an empty unfinished file for ``path`` and lock it."""
    while True:
        unfinished = path.with_name(f".{path.name}.{_machine()}-{uuid.uuid4().hex[:8]}{_UNFINISHED}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.fdopen(os.open(unfinished, flags, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = is_still_at(lock, unfinished)
        except BlockingIOError:
            is_mine = False
        except OSError:
            is_mine = True  # no locks here
        if is_mine:
            return unfinished, lock
        # Another process removed the file as left over before it was locked.
        lock.close()
        unfinished.unlink(missing_ok=True)


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def replacing_text(path: Path) -> Iterator[IO[str]]:
    """A text stream whose content takes the place of ``path``, as with ``replacing``."""
    with replacing(path) as unfinished, unfinished.open("w", newline="", **_TEXT) as stream:
        yield stream


def open_to_append(path: Path) -> IO[str]:
    """Open a UTF-8 text file to write at its end, made where it is missing; no link is followed.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    stream: IO[str] = os.fdopen(os.open(path, flags, 0o666), "a", **_TEXT)
    return stream


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    with replacing_text(path) as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")


@contextmanager
def making_folder(path: Path, *, on_disk: bool = True) -> Iterator[Path]:
    """A folder beside ``path`` to fill: it becomes ``path`` when all in it is on disk, or nothing is left of it.

    What killed processes of this machine have left of the same folder is removed first.

    Args:
        path: of the folder.
        on_disk: wait until every file is on disk; ``False`` for what can be made again and has many files.

    Raises:
        OSError: it cannot be written, or ``path`` has come to hold something meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".*{_UNFINISHED}"):
        match = _UNFINISHED_NAME.fullmatch(left_over.name)
        if match and match["name"] == path.name and match["machine"] == _machine() and left_over.is_dir():
            _remove_folder_unless_locked(left_over)
    unfinished = path.with_name(f".{path.name}.{_machine()}-{uuid.uuid4().hex[:8]}{_UNFINISHED}")
    unfinished.mkdir()
    lock = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # no locks here
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield unfinished
        if on_disk:
            for file in unfinished.rglob("*"):
                _put_on_disk(file)
            _put_on_disk(unfinished)
        unfinished.rename(path)
        _put_on_disk(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(lock)


def is_unfinished(path: Path) -> bool:
    """Tell by its name whether a file or folder is being made, or was left over by a process that was killed."""
    return _UNFINISHED_NAME.fullmatch(path.name) is not None


def _put_on_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_folder_unless_locked(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # removed meanwhile, or a link
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # another process fills it
    finally:
        os.close(lock)


def remove_unfinished(folder: Path, *names: str) -> None:
    """Remove what killed processes have left of the files called ``names``, by default of all files.

    A file stays as long as the process that writes it lives. On some network file systems, locks do not show whether
    another machine's process lives, so its files, and those with other names, stay for a day after the last write.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [(entry.name, match) for entry in entries if (match := _UNFINISHED_NAME.fullmatch(entry.name))]
    for file_name, match in found:
        is_asked_for = not names or match["name"] in names
        is_of_this_machine = match["machine"] in (None, _machine())
        file = folder / file_name
        if _is_left_over(file, at_once=is_asked_for and is_of_this_machine):
            file.unlink(missing_ok=True)


def _is_left_over(file: Path, *, at_once: bool) -> bool:
    """Tell whether no process writes ``file`` any more; with ``at_once`` a free lock is enough evidence."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return False
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False  # finished meanwhile, or somebody else's
    try:
        silent = time.time() - os.fstat(descriptor).st_mtime > _SILENCE
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return silent
        return at_once or silent
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> IO[bytes]:
    """Open a file to be locked with ``fcntl.flock``, and create it where it is missing.

    The file's content stays as it is, and a link is not followed: whoever can write to the folder could let one lead
    to any file.

    Raises:
        OSError: ``path`` is a link, a folder, a device or a pipe, or the folder cannot be written to.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    lock = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(lock.fileno()).st_mode):
        lock.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return lock


def is_still_at(file: IO[bytes], path: Path) -> bool:
    """Tell whether ``path`` is still the open ``file``, and was not removed or replaced."""
    try:
        there = path.lstat()
    except OSError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)
