"""The image store: every image decoded once into one memory-mapped array of uint8 RGB."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer.data.decode import FileFault, ImageFault, decode, file_state, pixels
from fer.data.image_faults import find_faults, refuse
from fer.data.index import IntArray, SampleTable
from fer.errors import ConfigError
from fer.whole_file import remove_unfinished, replacing, write_json

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised whenever other pixels come out of the same files, so that stores of older versions are made anew."""
_BLOCK = 512
_CHUNK = 64
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True, eq=False)
class ImageStore:
    """The decoded images of a sample table; it pickles as its path, not as its pixels.

    ``images`` is a read-only memory-mapped uint8 array (N, 3, size, size) in RGB, row i holding ``table.paths[i]``.
    ``content_fingerprint`` is the SHA-256 of its bytes. ``bad`` (ascending row numbers) are images that could not be
    decoded and hold zeros. ``warnings`` are findings about the images.
    """

    path: Path
    images: NDArray[np.uint8]
    content_fingerprint: str
    bad: IntArray
    warnings: tuple[str, ...]

    @staticmethod
    def open(
        table: SampleTable,
        *,
        size: int,
        cache_dir: str | Path | None,
        on_bad_image: str = "error",
        workers: int | None = None,
    ) -> ImageStore:
        """Map the store of these files, decoding them first if no store of their present state is in ``cache_dir``.

        Images of another size than ``size`` x ``size`` pixels are resized with PIL's bilinear filter. ``on_bad_image``
        is "error", or "skip" to list undecodable images in ``bad``. ``workers`` is the number of decoding threads, by
        default one per core. Without ``cache_dir`` the store lies in a temporary folder until this process ends.

        Raises:
            DatasetError: with every file that is missing or cannot be read and every image that cannot be decoded, or
                if skipping these leaves a split empty.
            ConfigError: the cache folder cannot be written or the disk is full.
        """
        if on_bad_image not in ("error", "skip"):
            raise ValueError(f"data.on_bad_image must be 'error' or 'skip', got {on_bad_image!r}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"data.store_size must be a whole number of pixels from 1 on, got {size!r}")
        key, missing = _key(table, size)
        if missing:
            refuse(table, find_faults(table, workers) | missing, on_bad_image)
        folder = _temporary_folder() if cache_dir is None else Path(cache_dir).expanduser()
        path = folder / f"{table.name}-{size}px-{key[:24]}.npy"
        shape = (len(table.paths), 3, size, size)
        opened = _load(path, shape)
        if opened is None:
            with _only_builder_of(path):
                opened = _load(path, shape)  # another process may have made it meanwhile
                if opened is None:
                    _create(path, table, size, workers or len(os.sched_getaffinity(0)), on_bad_image)
                    opened = _load(path, shape)
        if opened is None:
            raise OSError(f"the image store {path} was just written and cannot be read back; delete it and try again")
        images, facts = opened
        faults = {int(row): ImageFault(reason) for row, reason in facts["bad"].items()}
        refuse(table, faults, on_bad_image)
        bad = np.array(sorted(faults), dtype=np.int64)
        warnings: list[str] = []
        if len(bad):
            warnings.append(f"{len(bad):,} images cannot be decoded and are left out, first {table.described(bad[0])}")
        if facts["resized"]:
            warnings.append(
                f"{facts['resized']:,} of {len(table.paths):,} images are not {size} x {size} pixels and were resized"
                + (f", {facts['distorted']:,} of them not nearly square" if facts["distorted"] else "")
            )
        return ImageStore(path, images, facts["content"], bad, tuple(warnings))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.content_fingerprint, self.bad, self.warnings)


def _reopen(path: Path, content: str, bad: IntArray, warnings: tuple[str, ...]) -> ImageStore:
    return ImageStore(path, np.load(path, mmap_mode="r"), content, bad, warnings)


def _key(table: SampleTable, size: int) -> tuple[str, dict[int, ImageFault]]:
    """SHA-256 over what decides the pixels: format, size, and each file's name, bytes and time of change.

    Returns:
        The sum, and the faults of files that are not there.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, size, len(table.paths)]).encode())
    prefix = f"{table.root}{os.sep}"
    missing: dict[int, ImageFault] = {}
    for row, path in enumerate(table.paths):
        try:
            state = file_state(path)
        except FileFault as fault:
            missing[row] = fault
            continue
        digest.update(json.dumps([str(path).removeprefix(prefix), state.st_size, state.st_mtime_ns]).encode())
    return digest.hexdigest(), missing


def _load(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], dict[str, Any]] | None:
    """The mapped array and its facts, or None if either file is missing or damaged."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if (
        images.shape != shape
        or images.dtype != np.uint8
        or not {"bad", "resized", "distorted", "content"} <= set(facts)
    ):
        return None
    return images, facts


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="fer-images-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # forked loader workers inherit this
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


@contextmanager
def _only_builder_of(path: Path) -> Iterator[None]:
    """Let one process at a time build a store; the system takes the lock off a process that ends, however it ends.

    Where locks do not work (some network file systems) several build it: they write the same bytes, so it does not
    matter whose file stays.
    """
    lock_file = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("w")
    except OSError:
        yield  # building will say what is wrong with the folder
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_unfinished(path.parent, f"{path.stem}*")
        except BlockingIOError:
            log.info("waiting for another process that decodes the same images into %s", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        try:
            yield
        finally:
            lock_file.unlink(missing_ok=True)  # who waits for it finds the store when it is woken


def _create(path: Path, table: SampleTable, size: int, workers: int, on_bad_image: str) -> None:
    """Decode every image and put the array in place, then its facts; nothing where a file cannot be read."""
    needed = len(table.paths) * 3 * size * size
    log.info("decoding %s images of %s into %s (%.0f MB)", f"{len(table.paths):,}", table.root, path, needed / 1e6)
    started = said = time.perf_counter()
    faults: dict[int, ImageFault] = {}
    facts: dict[str, Any] = {"resized": 0, "distorted": 0}
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, file.open("wb") as stream, ThreadPoolExecutor(workers) as pool:
            # Written, not mapped: a full disk is an error here and would be a fatal signal in a mapped page.
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(table.paths), 3, size, size)}
            np.lib.format.write_array_header_1_0(stream, header)
            for start in range(0, len(table.paths), _BLOCK):
                paths = table.paths[start : start + _BLOCK]
                block = np.zeros((len(paths), 3, size, size), dtype=np.uint8)
                # Small faces cost more to hand over than to decode, so a thread takes many at a time.
                chunks = (slice(first, first + _CHUNK) for first in range(0, len(paths), _CHUNK))
                found = pool.map(lambda part, into=block, of=paths: _fill(into[part], of[part]), chunks)
                for row, result in enumerate(chain.from_iterable(found), start=start):
                    if isinstance(result, ImageFault):
                        faults[row] = result
                    else:
                        facts["resized"] += result != (size, size)
                        facts["distorted"] += max(result) > 1.25 * min(result)
                stream.write(block.data)
                digest.update(block.data)
                if time.perf_counter() - said > _SECONDS_BETWEEN_LINES:
                    said = time.perf_counter()
                    log.info("decoded %s of %s images", f"{start + len(paths):,}", f"{len(table.paths):,}")
            if any(isinstance(fault, FileFault) for fault in faults.values()):
                refuse(table, faults, on_bad_image)  # not kept: it may be readable the next time
        facts |= {"bad": {row: str(fault) for row, fault in faults.items()}, "content": digest.hexdigest()}
        write_json(path.with_suffix(".json"), facts)
    except OSError as error:
        free = _free_space(path.parent)
        raise ConfigError(
            f"{path}: cannot write the image store ({error.strerror or error}): it needs {needed / 1e6:,.0f} MB and "
            f"{free} in the cache folder; make room there or choose another with cache_dir=FOLDER"
        ) from error
    log.info("decoded in %.1f s", time.perf_counter() - started)


def _free_space(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free"
    except OSError:
        return "the free space is unknown"


def _fill(block: NDArray[np.uint8], paths: Sequence[Path]) -> list[tuple[int, int] | ImageFault]:
    """Decode ``paths`` into ``block`` (n, 3, size, size): each image's (width, height), or why it has no pixels."""
    results: list[tuple[int, int] | ImageFault] = []
    for target, path in zip(block, paths, strict=True):
        try:
            image = decode(path)
        except ImageFault as fault:
            results.append(fault)
            continue
        target[:] = pixels(image, block.shape[-1])
        results.append(image.size)
    return results
