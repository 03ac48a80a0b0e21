"""What lies in the cache folder: decoded images, hashes of image files, drawn and unpacked faces."""

from __future__ import annotations

import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fer.files.lock import acquire

_SECONDS_PER_DAY = 86_400
_KINDS = {
    "decoded images": re.compile(r"(?P<name>.+-\d+px-[0-9a-f]{24})\.(npy|json|lock)", re.DOTALL),
    "hashes of image files": re.compile(r"(?P<name>content-hashes-[0-9a-f]{24})\.json"),
    "demo faces": re.compile(r"(?P<name>demo-\d+-\d+-\d+)"),
    "unpacked FER2013": re.compile(r"(?P<name>fer2013-[0-9a-f]{16})"),
}
"""Whole names of files and folders; what has another name is not this project's and is left alone."""


@dataclass(frozen=True)
class CacheEntry:
    """One thing that is kept, which can be made again from its data set."""

    kind: str
    name: str
    paths: tuple[Path, ...]
    size: int
    """Bytes."""
    days: float
    """Days since it was last read or written, as far as the file system keeps that."""

    def remove(self) -> bool:
        """Delete it, unless a process is just making it; return whether it is gone."""
        for lock in (path for path in self.paths if path.suffix == ".lock"):
            try:
                acquire(lock, 0).close()
            except OSError:
                return False
        for path in self.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return True


def cache_entries(folder: Path) -> list[CacheEntry]:
    """List what is kept in a cache folder, the largest first; links are not followed.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        for kind, pattern in _KINDS.items():
            if (fits := pattern.fullmatch(path.name)) and not path.is_symlink():
                found[kind, fits["name"]].append(path)
                break
    entries = []
    for (kind, name), paths in found.items():
        states = [file.lstat() for file in _files(paths)]
        last = max((max(state.st_atime, state.st_mtime) for state in states), default=time.time())
        size, days = sum(state.st_size for state in states), (time.time() - last) / _SECONDS_PER_DAY
        entries.append(CacheEntry(kind, name, tuple(paths), size, days))
    return sorted(entries, key=lambda entry: -entry.size)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from (file for file in path.rglob("*") if not file.is_dir()) if path.is_dir() else (path,)
