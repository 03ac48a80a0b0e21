"""Temporary folder of fer-demo: the only folder whose files the server shows; removed when the server ends."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

# A terminal that is closed sends SIGHUP.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder and remove it with all that is in it: in the end, after an error, at Ctrl-C, SIGTERM and SIGHUP.

    SIGTERM and SIGHUP raise KeyboardInterrupt, or go to the handler of SIGTERM that somebody sets meanwhile. SIGHUP
    stays ignored where it was, as under nohup.
    """
    before = {number: signal.getsignal(number) for number in _ENDINGS}
    folder = TemporaryDirectory(prefix="fer-demo-")
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if before[signal.SIGHUP] is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _terminate)
        yield Path(folder.name).resolve()
    finally:
        for number in _ENDINGS:  # An impatient second signal must not stop the removal half-way.
            signal.signal(number, signal.SIG_IGN)
        folder.cleanup()
        for number, handler in before.items():
            signal.signal(number, handler)


def find_upload(folder: Path, name: object) -> Path | None:
    """Find the regular file below a folder that a client names; ``None`` for whatever else it sends.

    The answer tells nothing of other places: what is not named as a part of the folder is not looked at.

    Args:
        folder: absolute, without links.
        name: anything; only the absolute path of a file, as text, names one.
    """
    if not isinstance(name, str) or "\0" in name:
        return None
    path = Path(name)
    if ".." in path.parts or not path.is_relative_to(folder):
        return None
    try:
        path = path.resolve(strict=True)
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError, RuntimeError):  # missing, impossible to encode, or a loop of links
        return None
    return path if is_file and path.is_relative_to(folder) else None


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
