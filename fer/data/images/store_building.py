"""The making of an image store: every image decoded once, by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer.data.images.block_sums import block_sum
from fer.data.images.content_hashes import read_content
from fer.data.images.decode import FileFault, ImageFault, check_size, decode_bytes, pixels
from fer.data.images.faults import refuse
from fer.data.images.store_files import BLOCK, StoreFacts, array_header, facts_file, store_key, write_facts
from fer.data.table import SampleTable
from fer.errors import ConfigError
from fer.files.atomic import is_still_at, open_lock, remove_unfinished, replacing

log = logging.getLogger(__name__)

_CHUNK = 64
_SECONDS_BETWEEN_LINES = 5.0


class ContentChangedError(Exception):
    """Image files changed between hashing and decoding."""


class Decoded(NamedTuple):
    """SHA-256 of a file, empty if it cannot be read, and the size of its image, or why it has no pixels."""

    digest: bytes
    result: tuple[int, int] | ImageFault


@contextmanager
def only_builder(path: Path) -> Iterator[None]:
    """Let one process at a time build a store; the system takes the lock off a process that ends, however it ends.

    Where locks do not work (some network file systems) several build it: they write the same bytes, each into files of
    its own, so it does not matter whose stay.
    """
    lock = _lock(path.with_suffix(".lock"), path)
    if lock is None:
        yield
        return
    with lock:
        try:
            yield
        finally:
            # Removed while locked; a waiting process then checks that its lock file still exists.
            if is_still_at(lock, path.with_suffix(".lock")):
                path.with_suffix(".lock").unlink(missing_ok=True)


def _lock(lock_file: Path, store: Path) -> IO[bytes] | None:
    """Lock a file that is still at its place once the lock is held; None where there are no locks."""
    is_told = False
    while True:
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = open_lock(lock_file)
        except OSError as error:
            log.debug("%s is built without a lock: %s", store, error)
            return None  # building will report the folder's fault
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_told:
                    log.info("waiting for another process that decodes the same images into %s", store)
                is_told = True
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            lock.close()
            log.debug("%s is built without a lock: %s", store, error)
            return None
        except BaseException:
            lock.close()
            raise
        if is_still_at(lock, lock_file):
            return lock
        lock.close()


def build(
    path: Path, table: SampleTable, size: int, workers: int, on_bad_image: str, expected: Sequence[bytes] | None
) -> str:
    """Decode every image and put the array in place, then its facts; nothing where a file cannot be read.

    Each file is read once, so that its pixels and the SHA-256 in the key are of the same bytes.

    Args:
        expected: SHA-256 of each file as hashed before; ``None`` takes them as they come.

    Returns:
        The store's key.

    Raises:
        ContentChangedError: a file has other content than expected; nothing is kept.
        DatasetError: a file is missing or cannot be read.
        ConfigError: the store cannot be written.
    """
    count = len(table.paths)
    needed = count * 3 * size * size
    log.info("decoding %s images of %s into %s (%.0f MB)", f"{count:,}", table.root, path, needed / 1e6)
    started = said = time.perf_counter()
    digests: list[bytes] = []
    faults: dict[int, ImageFault] = {}
    resized = distorted = 0
    content, block_sums = hashlib.sha256(), []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, path.name, facts_file(path).name)
        with replacing(path) as file, file.open("wb") as stream, ThreadPoolExecutor(workers) as pool:
            # Written, not mapped: a full disk is an error here and would be a fatal signal in a mapped page.
            stream.write(array_header((count, 3, size, size)))
            for start in range(0, count, BLOCK):
                paths = table.paths[start : start + BLOCK]
                block = np.zeros((len(paths), 3, size, size), dtype=np.uint8)
                # Handing over a small face costs more than decoding it, so a thread takes many at a time.
                chunks = (slice(first, first + _CHUNK) for first in range(0, len(paths), _CHUNK))
                found = pool.map(lambda part, into=block, of=paths: _fill(into[part], of[part]), chunks)
                for row, (digest, result) in enumerate(chain.from_iterable(found), start=start):
                    digests.append(digest)
                    if isinstance(result, ImageFault):
                        faults[row] = result
                    else:
                        resized += result != (size, size)
                        distorted += result != (size, size) and max(result) > 1.25 * min(result)
                    if expected is not None and digest and digest != expected[row]:
                        raise ContentChangedError(table.described(row))
                stream.write(block.data)
                content.update(block.data)
                block_sums.append(block_sum(block))
                if time.perf_counter() - said > _SECONDS_BETWEEN_LINES:
                    said = time.perf_counter()
                    log.info("decoded %s of %s images", f"{start + len(paths):,}", f"{count:,}")
            if any(isinstance(fault, FileFault) for fault in faults.values()):
                refuse(table, faults, on_bad_image)  # not kept: it may be readable the next time
        bad = [(row, str(fault)) for row, fault in sorted(faults.items())]
        key = store_key(size, digests)
        write_facts(path, StoreFacts(key, content.hexdigest(), block_sums, bad, resized, distorted))
    except OSError as error:
        free = _free_space(path.parent)
        raise ConfigError(
            f"{path}: cannot write the image store ({error.strerror or error}): it needs {needed / 1e6:,.0f} MB and "
            f"{free} in the cache folder; make room there or choose another with cache_dir=FOLDER (--cache-dir FOLDER)"
        ) from error
    log.info("decoded in %.1f s", time.perf_counter() - started)
    return key


def _free_space(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free"
    except OSError:
        return "the free space is unknown"


def _fill(block: NDArray[np.uint8], paths: Sequence[Path]) -> list[Decoded]:
    """Decode ``paths`` into ``block`` (n, 3, size, size)."""
    results: list[Decoded] = []
    for target, path in zip(block, paths, strict=True):
        digest = b""
        try:
            content = read_content(path, keep=True)
            digest = content.digest
            check_size(content.size)
            image = decode_bytes(content.data or b"")
        except ImageFault as fault:
            results.append(Decoded(digest, fault))
            continue
        target[:] = pixels(image, block.shape[-1])
        results.append(Decoded(digest, image.size))
    return results
