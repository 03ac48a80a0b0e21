"""Reading of regular files only: a pipe in the place of a file makes a reader wait, and a device may never end."""

from __future__ import annotations

import errno
import io
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or the one that a link leads to, for reading.

    Raises:
        OSError: it is missing, cannot be read, or is a folder, a device or a pipe.
    """
    _check(path.stat().st_mode, path)  # opening a device may have an effect
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def open_regular_text(path: Path) -> io.TextIOWrapper:
    """Open a regular file as UTF-8 text, with line ends as they are.

    Raises:
        OSError: as from ``open_regular``.
    """
    return io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="")


def _check(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a file but a device or a pipe", str(path))
