"""JSON files that carry the SHA-256 of their content, so that a changed byte in them does not go unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from fer.files.atomic import replacing

MAX_BYTES = 1 << 28
_HEAD = b'{"sha256": "%s",\n"content": '
_HEAD_LENGTH = len(_HEAD % (b"0" * 64))
_TAIL = b"}\n"


class DamagedFileError(ValueError):
    """A file that is no sealed JSON or does not hold what was written to it."""


def write_sealed(path: Path, content: Any) -> None:
    """Write a JSON value with its checksum, whole or not at all.

    Raises:
        OSError: it cannot be written, or is larger than ``read_sealed`` takes.
    """
    body = json.dumps(content, separators=(",", ":")).encode()
    data = _HEAD % hashlib.sha256(body).hexdigest().encode() + body + _TAIL
    if len(data) > MAX_BYTES:
        raise OSError(f"{path} would have {len(data):,} bytes; at most {MAX_BYTES:,} are read again")
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)


def read_sealed(path: Path) -> Any:
    """The JSON value of a file written by ``write_sealed``; links are not followed.

    The checksum tells accidents, not intent: who can write to the folder can make a file that fits.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is something else, cannot be read, or was changed.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            state = os.fstat(stream.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
                raise DamagedFileError(f"{path} is not a file or too large")
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error
    head, body = data[:_HEAD_LENGTH], data[_HEAD_LENGTH : -len(_TAIL)]
    if head != _HEAD % hashlib.sha256(body).hexdigest().encode() or not data.endswith(_TAIL):
        raise DamagedFileError(f"{path} does not fit its own checksum")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, no JSON, or a number of too many digits
        raise DamagedFileError(f"{path} holds no JSON") from error
