"""The two files of an image store: the array of pixels, and the facts by which it is known to be whole."""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.features
from numpy.typing import NDArray

from fer.data.images.block_sums import first_damaged
from fer.data.images.sealed_json import DamagedFileError, read_sealed, write_sealed

FORMAT = 2
"""Raised whenever other pixels come out of the same files or the store's own files change."""
BLOCK = 512
"""Images with a checksum of their own; belongs to the format."""
_DECODERS = ("pil", "jpg", "libjpeg_turbo", "jpg_2000", "webp", "libtiff")
_SHA256 = re.compile("[0-9a-f]{64}")
_whole: set[tuple[str, str, str]] = set()
"""Path, state and key of the stores that this process has compared with their checksums."""


class DamagedStoreError(ValueError):
    """A store that does not hold what was written to it; the message says what is wrong, without naming the store."""


@dataclass(frozen=True)
class StoreFacts:
    """Facts about the array of a store.

    ``key`` is the store's key, ``content`` the SHA-256 of all pixels, ``block_sums`` the CRC-32C of every ``BLOCK``
    images. ``bad`` holds, in ascending order, rows without pixels and why, ``resized`` and ``distorted`` count images.
    """

    key: str
    content: str
    block_sums: Sequence[int]
    bad: Sequence[tuple[int, str]]
    resized: int
    distorted: int


def store_key(size: int, digests: Sequence[bytes]) -> str:
    """SHA-256 over what decides the pixels: format, size, decoders, and the SHA-256 of every file in the table's order.

    Names, places and times of the files do not belong to it.
    """
    decoders = [PIL.features.version(name) for name in _DECODERS]
    key = hashlib.sha256(f"{[FORMAT, size, decoders, len(digests)]}".encode())
    for digest in digests:
        key.update(digest)
    return key.hexdigest()


def array_header(shape: tuple[int, ...]) -> bytes:
    """Header of a .npy file of uint8 in format 1.0, the same bytes with every version of numpy."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padding = -(len(text) + 11) % 64
    return b"\x93NUMPY\x01\x00" + (len(text) + padding + 1).to_bytes(2, "little") + f"{text}{' ' * padding}\n".encode()


def facts_file(path: Path) -> Path:
    return path.with_suffix(".json")


def write_facts(path: Path, facts: StoreFacts) -> None:
    write_sealed(facts_file(path), asdict(facts))


def load(
    path: Path, key: str, shape: tuple[int, ...], workers: int, *, thorough: bool = False
) -> tuple[NDArray[np.uint8], StoreFacts]:
    """Map the array of a store and read its facts, after a look at every block the first time in this process.

    Args:
        thorough: compare the pixels with their SHA-256, not with the quicker checksums.

    Raises:
        FileNotFoundError: there is no array or there are no facts.
        DamagedStoreError: a file is not what was written.
    """
    try:
        facts = _checked(read_sealed(facts_file(path)), key, shape[0])
    except DamagedFileError as error:
        raise DamagedStoreError(str(error)) from error
    with _opened(path, shape) as stream:
        state = os.fstat(stream.fileno())
        identity = (str(path), f"{state.st_dev} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}", key)
        if thorough or identity not in _whole:
            _compare(stream, shape, facts, workers, thorough)
            _whole.add(identity)
        return _map(stream, shape), facts


def map_images(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Map the array of a store that another process has compared with its checksums.

    Raises:
        OSError: the file is not there.
        DamagedStoreError: it is not of this shape.
    """
    with _opened(path, shape) as stream:
        return _map(stream, shape)


def _opened(path: Path, shape: tuple[int, ...]) -> IO[bytes]:
    """Open the array's file; its header and size must be the very ones of this shape, so no header is interpreted."""
    header = array_header(shape)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        stream = os.fdopen(descriptor, "rb", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedStoreError(f"the array cannot be opened: {error.strerror}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise DamagedStoreError("the array is not a file")
        expected = len(header) + math.prod(shape)
        if state.st_size != expected:
            raise DamagedStoreError(f"the array has {state.st_size:,} bytes instead of {expected:,}")
        if stream.read(len(header)) != header:
            raise DamagedStoreError("the array's header is another")
    except OSError as error:
        stream.close()
        raise DamagedStoreError(f"the array cannot be read: {error.strerror}") from error
    except DamagedStoreError:
        stream.close()
        raise
    return stream


def _map(stream: IO[bytes], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.memmap(stream, dtype=np.uint8, mode="r", offset=len(array_header(shape)), shape=shape)


def _compare(stream: IO[bytes], shape: tuple[int, ...], facts: StoreFacts, workers: int, thorough: bool) -> None:
    offset = len(array_header(shape))
    if thorough:
        stream.seek(offset)
        try:
            content = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # IO[bytes] has readinto
        except OSError as error:
            raise DamagedStoreError(f"the array cannot be read: {error.strerror}") from error
        if content == facts.content:
            return
    block = BLOCK * math.prod(shape[1:])
    damaged = first_damaged(
        stream.fileno(), offset=offset, length=math.prod(shape), block=block, sums=facts.block_sums, workers=workers
    )
    if damaged is not None:
        first, last = damaged * BLOCK + 1, min((damaged + 1) * BLOCK, shape[0])
        raise DamagedStoreError(
            f"block {damaged + 1} of {len(facts.block_sums)}, images {first:,} to {last:,}, does not fit its checksum"
        )
    if thorough:
        raise DamagedStoreError("the pixels do not fit their SHA-256")


def _checked(content: Any, key: str, count: int) -> StoreFacts:
    """Facts of a store of ``count`` images, whatever JSON value was read.

    Raises:
        DamagedStoreError: it is something else.
    """
    names = {field.name for field in fields(StoreFacts)}
    if not isinstance(content, dict) or content.keys() != names:
        raise DamagedStoreError("its facts are not those of a store")
    facts = StoreFacts(**content)
    if facts.key != key:
        raise DamagedStoreError("its facts are those of another store")
    fits = (
        isinstance(facts.content, str)
        and _SHA256.fullmatch(facts.content)
        and isinstance(facts.block_sums, list)
        and len(facts.block_sums) == math.ceil(count / BLOCK)
        and all(_is_count(number, 2**32 - 1) for number in facts.block_sums)
        and _is_count(facts.resized, count)
        and _is_count(facts.distorted, facts.resized)
        and isinstance(facts.bad, list)
        and all(_is_fault(fault, count) for fault in facts.bad)
        and all(before[0] < after[0] for before, after in zip(facts.bad, facts.bad[1:], strict=False))
    )
    if not fits:
        raise DamagedStoreError("its facts hold values that no store has")
    return facts


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most  # bool is an int too


def _is_fault(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_count(value[0], count - 1) and isinstance(value[1], str)
