"""TensorBoard's event files: a copy without what a run writes at its end."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fer.files.regular import open_regular

_AT_THE_END = ("result/", "_hparams_/")
"""Beginnings of the tags of a run's result."""
_HEAD, _TAIL = 12, 4
"""Bytes around the content of a record: its length with a checksum, then its own checksum."""
_MOST_BYTES = 256 * 2**20
"""Largest record that is copied; the largest that a run writes holds a picture."""


def copy_events(source: Path, target: Path) -> None:
    """Copy the events of an event file up to the first that is damaged or cut, without those of the run's result.

    Raises:
        OSError: a file cannot be read or written.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    with open_regular(source) as stream, target.open("xb") as copy:
        for record in _records(stream):
            try:
                event = Event.FromString(record[_HEAD:-_TAIL])
            except Exception:  # a damaged one raises errors of protobuf
                return
            if not any(value.tag.startswith(_AT_THE_END) for value in event.summary.value):
                copy.write(record)


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """Read the whole records of an event file, checksums included."""
    while len(head := stream.read(_HEAD)) == _HEAD:
        (length,) = struct.unpack_from("<Q", head)
        if length > _MOST_BYTES:
            return
        rest = stream.read(length + _TAIL)
        if len(rest) < length + _TAIL:
            return
        yield head + rest
