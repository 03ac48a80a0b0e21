"""SHA-256 of image files, kept with each file's state so that unchanged files need not be read again."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from fer.data.images.decode import MAX_BYTES, FileFault, file_state, open_file
from fer.data.images.sealed_json import DamagedFileError, read_sealed, write_sealed

log = logging.getLogger(__name__)

T = TypeVar("T")

_FORMAT = 1
_PIECE = 1 << 20
_CHUNK = 64
_WAITING = 16
"""Threads that ask for the states of files, which on a network's file system is mostly waiting."""
_SETTLED = 2_000_000_000
"""Nanoseconds since the last change after which one more change cannot leave the times of a file as they are."""
_SHA256 = re.compile("[0-9a-f]{64}")


class Content(NamedTuple):
    """A file as it was read: the SHA-256 of its bytes, the bytes, and by which state the hash may be found again.

    ``data`` is ``None`` where it was not asked for or is larger than ``MAX_BYTES``, ``state`` where the file changed
    while it was read or so shortly before that another change might not show.
    """

    digest: bytes
    size: int
    data: bytes | None
    state: str | None


class Hashes(NamedTuple):
    """SHA-256 of every file, empty where it cannot be read; why it cannot, by row; and rows whose kept hash was wrong.

    A kept hash is wrong if the file's state is the kept one and its content is not. Only reading every file shows it.
    """

    digests: list[bytes]
    missing: dict[int, FileFault]
    wrong: list[int]


class HashIndex:
    """The kept hashes of the files below one folder, a file in the cache folder.

    As in git's index, a file whose size, times of modification and of change, inode and device are the kept ones counts
    as unchanged. Only states that were two seconds old when the file was read are kept: a file system whose clock is
    coarse gives two changes in quick succession the same time.

    The index trusts that the clocks of file servers are less than two seconds behind, that nobody sets a clock back to
    forge a time of change, and that only the user writes to the cache folder: its checksum tells accidents, not intent.
    ``of`` with ``trusting`` off relies on none of this.
    """

    def __init__(self, root: Path, cache_dir: Path) -> None:
        self._root = str(root.resolve())
        self._prefix = f"{root}{os.sep}"
        name = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:24]
        self.path = cache_dir / f"content-hashes-{name}.json"
        self._kept = self._read()
        self._is_new = False

    def of(self, paths: Sequence[Path], workers: int, *, trusting: bool = True) -> Hashes:
        """Hash the files, and read only those with no kept hash; with ``trusting`` off, read all of them."""
        found = Hashes([b""] * len(paths), {}, [])
        to_read: list[int] = []
        for row, state in enumerate(_on_threads(_state, paths, max(workers, _WAITING))):
            if isinstance(state, FileFault):
                found.missing[row] = state
                continue
            digest = self._kept_digest(paths[row], state) if trusting else None
            if digest is None:
                to_read.append(row)
            else:
                found.digests[row] = digest
        contents = _on_threads(partial(read_content, keep=False), [paths[row] for row in to_read], workers)
        for row, result in zip(to_read, contents, strict=True):
            if isinstance(result, FileFault):
                found.missing[row] = result
                continue
            found.digests[row] = result.digest
            if result.state is None:
                continue
            if self._kept_digest(paths[row], result.state) not in (None, result.digest):
                found.wrong.append(row)
            entry = f"{result.state} {result.digest.hex()}"
            name = self._name(paths[row])
            self._is_new |= self._kept.get(name) != entry
            self._kept[name] = entry
        return found

    def keep(self, paths: Sequence[Path]) -> None:
        """Write new hashes down, without those of files that are gone; ``paths`` are known to be there.

        A cache folder that cannot be written to costs reading the files again the next time, nothing else.
        """
        if not self._is_new:
            return
        there = {self._name(path) for path in paths}
        root = Path(self._root)
        files = {name: entry for name, entry in self._kept.items() if name in there or (root / name).exists()}
        try:
            write_sealed(self.path, {"format": _FORMAT, "root": self._root, "files": files})
        except OSError as error:
            log.debug("hashes of image files are not kept: %s", error)
        self._is_new = False

    def _read(self) -> dict[str, str]:
        try:
            content = read_sealed(self.path)
        except FileNotFoundError:
            return {}
        except DamagedFileError as error:
            log.warning("%s; the image files are read again", error)
            return {}
        if not isinstance(content, Mapping) or (content.get("format"), content.get("root")) != (_FORMAT, self._root):
            return {}
        files = content.get("files")
        return files if isinstance(files, dict) else {}

    def _name(self, path: Path) -> str:
        return str(path).removeprefix(self._prefix)

    def _kept_digest(self, path: Path, state: str) -> bytes | None:
        """The kept hash of a file in this state."""
        entry = self._kept.get(self._name(path))
        if not isinstance(entry, str) or not entry.startswith(f"{state} "):
            return None
        digest = entry[len(state) + 1 :]
        return bytes.fromhex(digest) if _SHA256.fullmatch(digest) else None


def read_content(path: Path, *, keep: bool) -> Content:
    """Read a file once and hash what was read; ``keep`` returns the bytes as well.

    Raises:
        FileFault: the file is missing or cannot be read.
    """
    begun = time.time_ns()
    pieces: list[bytes] = []
    digest, size = hashlib.sha256(), 0
    with open_file(path) as stream:
        before = os.fstat(stream.fileno())
        try:
            # Reads one byte more than the size, so that one read finds the end of a small file.
            while piece := stream.read(min(_PIECE, before.st_size + 1 - size) if size <= before.st_size else _PIECE):
                digest.update(piece)
                size += len(piece)
                if not keep or size > MAX_BYTES:
                    pieces.clear()
                else:
                    pieces.append(piece)
        except OSError as error:
            raise FileFault(f"cannot be read ({error.strerror})") from error
        after = os.fstat(stream.fileno())
    is_settled = max(before.st_mtime_ns, before.st_ctime_ns) < begun - _SETTLED
    state = _shown(before) if is_settled and _shown(before) == _shown(after) else None
    data = b"".join(pieces) if keep and size <= MAX_BYTES else None
    return Content(digest.digest(), size, data, state)


def _shown(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {state.st_dev}"


def _state(path: Path) -> str:
    return _shown(file_state(path))


def _on_threads(what: Callable[[Path], T], paths: Sequence[Path], workers: int) -> Iterator[T | FileFault]:
    """Call ``what`` for every path on several threads; each takes many at a time, since a small file costs little."""

    def some(paths: Sequence[Path]) -> list[T | FileFault]:
        results: list[T | FileFault] = []
        for path in paths:
            try:
                results.append(what(path))
            except FileFault as fault:
                results.append(fault)
        return results

    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(some, (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))):
            yield from results
