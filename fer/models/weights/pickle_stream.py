"""The bytes of a pickle, and the plain values that are spelt out in them."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import BinaryIO


class DamagedPickleError(pickle.UnpicklingError):
    """The file is cut, is no pickle, or contradicts itself."""


class Stream:
    """Bounded reader: never returns more bytes than the file has left."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        position = file.tell()
        self.left = file.seek(0, 2) - position
        file.seek(position)

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise DamagedPickleError(f"it ends where {count:,} more bytes should follow")
        self.left -= count
        return self._file.read(count)

    def line(self) -> bytes:
        line = self._file.readline()
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise DamagedPickleError("it ends within a line")
        return line[:-1]

    def text_line(self) -> str:
        return _text(self.line())

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def counted(self, size: int) -> bytes:
        """Read as many bytes as the next ``size`` bytes say."""
        return self.take(self.number(size))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _integer(line: bytes) -> int:
    return bool(int(line)) if line in (b"00", b"01") else int(line)


LITERALS: dict[bytes, Callable[[Stream], object]] = {
    pickle.NONE: lambda stream: None,
    pickle.NEWTRUE: lambda stream: True,
    pickle.NEWFALSE: lambda stream: False,
    pickle.INT: lambda stream: _integer(stream.line()),
    pickle.BININT: lambda stream: stream.number(4, signed=True),
    pickle.BININT1: lambda stream: stream.number(1),
    pickle.BININT2: lambda stream: stream.number(2),
    pickle.LONG: lambda stream: int(stream.line().removesuffix(b"L")),
    pickle.LONG1: lambda stream: int.from_bytes(stream.counted(1), "little", signed=True),
    pickle.FLOAT: lambda stream: float(stream.line()),
    pickle.BINFLOAT: lambda stream: struct.unpack(">d", stream.take(8))[0],
    pickle.STRING: lambda stream: stream.line()[1:-1].decode("unicode_escape"),
    pickle.BINSTRING: lambda stream: stream.counted(4).decode("latin1"),
    pickle.SHORT_BINSTRING: lambda stream: stream.counted(1).decode("latin1"),
    pickle.UNICODE: lambda stream: stream.line().decode("raw_unicode_escape"),
    pickle.BINUNICODE: lambda stream: _text(stream.counted(4)),
    pickle.SHORT_BINUNICODE: lambda stream: _text(stream.counted(1)),
    pickle.BINUNICODE8: lambda stream: _text(stream.counted(8)),
    pickle.BINBYTES: lambda stream: stream.counted(4),
    pickle.SHORT_BINBYTES: lambda stream: stream.counted(1),
    pickle.BINBYTES8: lambda stream: stream.counted(8),
    pickle.BYTEARRAY8: lambda stream: stream.counted(8),
    pickle.EMPTY_TUPLE: lambda stream: (),
    pickle.EMPTY_DICT: lambda stream: {},
}
"""Readers of the operations that push a value; byte strings of Python 2 are read as latin-1."""
