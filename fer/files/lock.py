"""Locks between processes; the system releases a lock when its process ends for any reason.

The filelock package raises an error where a file system has no locks; training needs to go on there.
"""

from __future__ import annotations

import fcntl
import logging
import time
from pathlib import Path
from typing import IO

from fer.files.atomic import open_lock

log = logging.getLogger(__name__)
_PAUSE = 0.1  # seconds between attempts


def acquire(path: Path, patience: float) -> IO[bytes]:
    """Lock a file, creating it where it is missing; closing what is returned frees it.

    Where the file system has no locks, a warning says so and the file is returned unlocked.

    Args:
        path: file of the lock.
        patience: seconds to wait for another process.

    Raises:
        BlockingIOError: another process still holds it after ``patience`` seconds.
        OSError: the file cannot be opened.
    """
    deadline = time.monotonic() + patience
    lock = open_lock(path)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise
            time.sleep(_PAUSE)
            continue
        except OSError as error:
            log.warning("no lock on %s (%s): start one process only", path.parent, error.strerror)
        except BaseException:
            lock.close()
            raise
        return lock
