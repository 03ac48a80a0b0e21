"""The image store: every image decoded once into one memory-mapped array of uint8 RGB."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer.data.images.content_hashes import HashIndex
from fer.data.images.decode import ImageFault
from fer.data.images.faults import find_faults, refuse
from fer.data.images.store_building import ContentChangedError, build, only_builder
from fer.data.images.store_files import DamagedStoreError, StoreFacts, load, map_images, store_key
from fer.data.table import DatasetError, IntArray, SampleTable

log = logging.getLogger(__name__)

_ATTEMPTS = 3

Opened = tuple[Path, NDArray[np.uint8], StoreFacts]


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
        thorough: bool = False,
    ) -> ImageStore:
        """Map the store of these files, decoding them first if no whole store of their content is in ``cache_dir``.

        A store belongs to the content of the files in the table's order and to ``table.name``, which is in its name,
        wherever the files lie. Files whose size, times and inode are as when they were hashed are not read again. A
        store whose checksums do not fit is made anew.

        Images of another size than ``size`` x ``size`` pixels are resized with PIL's bilinear filter. ``on_bad_image``
        is "error", or "skip" to list undecodable images in ``bad``. ``workers`` is the number of threads, by default
        one per core. ``thorough`` reads every image file and compares all pixels with their SHA-256. Without
        ``cache_dir`` the store lies in a temporary folder until this process ends.

        Raises:
            DatasetError: with every file that is missing or cannot be read and every image that cannot be decoded, or
                if skipping these leaves a split empty, or if files do not stop changing.
            ConfigError: the cache folder cannot be written or the disk is full.
        """
        if on_bad_image not in ("error", "skip"):
            raise ValueError(f"data.on_bad_image must be 'error' or 'skip', got {on_bad_image!r}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"data.store_size must be a whole number of pixels from 1 on, got {size!r}")
        opening = _Opening(table, size, on_bad_image, workers or len(os.sched_getaffinity(0)), thorough)
        if cache_dir is None:
            path, images, facts = opening.temporary()
        else:
            path, images, facts = opening.cached(Path(cache_dir).expanduser())
        faults = {row: ImageFault(reason) for row, reason in facts.bad}
        refuse(table, faults, on_bad_image)
        bad = np.array(sorted(faults), dtype=np.int64)
        warnings = list(opening.warnings)
        if len(bad):
            warnings.append(f"{len(bad):,} images cannot be decoded and are left out, first {table.described(bad[0])}")
        if facts.resized:
            warnings.append(
                f"{facts.resized:,} of {len(table.paths):,} images are not {size} x {size} pixels and were resized"
                + (f", {facts.distorted:,} of them not nearly square" if facts.distorted else "")
            )
        return ImageStore(path, images, facts.content, bad, tuple(warnings))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.images.shape, self.content_fingerprint, self.bad, self.warnings)


def _reopen(path: Path, shape: tuple[int, ...], content: str, bad: IntArray, warnings: tuple[str, ...]) -> ImageStore:
    """Open in a worker what its parent has compared with its checksums."""
    return ImageStore(path, map_images(path, shape), content, bad, warnings)


class _Opening:
    """The steps by which one table's store is found or made."""

    def __init__(self, table: SampleTable, size: int, on_bad_image: str, workers: int, thorough: bool) -> None:
        self.table = table
        self.size = size
        self.on_bad_image = on_bad_image
        self.workers = workers
        self.thorough = thorough
        self.shape = (len(table.paths), 3, size, size)
        self.warnings: list[str] = []
        self._name = f"{table.name.replace(os.sep, '_')}-{size}px"

    def temporary(self) -> Opened:
        path = _temporary_folder() / f"{self._name}.npy"
        return self._load_built(path, self._build(path, None))

    def cached(self, folder: Path) -> Opened:
        index = HashIndex(self.table.root, folder)
        for _ in range(_ATTEMPTS):
            try:
                opened = self._of_content(folder, self._hash(index))
            except ContentChangedError as error:
                log.warning("%s has changed since it was hashed; starting again", error)
                continue
            index.keep(self.table.paths)
            return opened
        fault = "image files are being changed while they are read; wait until the data set is complete"
        raise DatasetError(self.table.root, [fault])

    def _hash(self, index: HashIndex) -> list[bytes]:
        hashes = index.of(self.table.paths, self.workers, trusting=not self.thorough)
        if hashes.missing:
            refuse(self.table, find_faults(self.table, self.workers) | hashes.missing, self.on_bad_image)
        if hashes.wrong:
            self.warnings.append(
                f"{len(hashes.wrong):,} image files were changed while their size, times and inode stayed the same, "
                f"first {self.table.described(hashes.wrong[0])}; earlier runs used the images as they were before"
            )
        return hashes.digests

    def _of_content(self, folder: Path, digests: Sequence[bytes]) -> Opened:
        key = store_key(self.size, digests)
        path = folder / f"{self._name}-{key[:24]}.npy"
        try:
            return path, *load(path, key, self.shape, self.workers, thorough=self.thorough)
        except (FileNotFoundError, DamagedStoreError):
            pass
        with only_builder(path):
            try:  # another process may have made it meanwhile
                return path, *load(path, key, self.shape, self.workers, thorough=self.thorough)
            except FileNotFoundError:
                pass
            except DamagedStoreError as error:
                log.warning("the image store %s is damaged (%s) and is made anew", path, error)
            return self._load_built(path, self._build(path, digests))

    def _build(self, path: Path, expected: Sequence[bytes] | None) -> str:
        return build(path, self.table, self.size, self.workers, self.on_bad_image, expected)

    def _load_built(self, path: Path, key: str) -> Opened:
        try:
            return path, *load(path, key, self.shape, self.workers, thorough=self.thorough)
        except (FileNotFoundError, DamagedStoreError) as error:
            raise OSError(
                f"the image store {path} was just written and cannot be read back ({error}); delete it and try again"
            ) from error


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="fer-images-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # forked loader workers inherit this
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)
