"""Files of torch.save, loaded only after a check of what the pickle asks torch to do.

``weights_only`` keeps torch from running the file's code, but not from doing what the file says: to call ``bytearray``
with a size of gigabytes, to unpack compressed records, to hash a nest of shared tuples. So the file's own pickle is
read first, by a machine that does none of it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

import torch

from fer.models.weights.pickle_machine import PickleMachine, UnsafePickleError
from fer.models.weights.pickle_stream import DamagedPickleError

_ZIP = b"PK\x03\x04"
_LEGACY_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Torch's magic number, pickled, after two bytes that state the protocol."""
_END_SIZE, _LOCATOR_SIZE, _END64_SIZE = 22, 20, 56


def is_torch_file(head: bytes) -> bool:
    """Tell by a file's first bytes whether torch.save wrote it, in the current format or that before torch 1.6."""
    return head.startswith(_ZIP) or head[2:].startswith(_LEGACY_START)


def load(file: BinaryIO) -> Any:
    """The saved object, on the CPU: tensors in plain containers.

    Work and memory grow with the size of the file alone.

    Raises:
        UnsafePickleError: the file asks for anything else, or for more than it holds.
        DamagedPickleError: it is cut or damaged, as far as that was seen before torch read it.
        Exception: of any kind, if torch finds it damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(_ZIP)) == _ZIP:
        _Inspection(io.BytesIO(_pickle_in_archive(file, size)), size).load()
    else:
        file.seek(0)
        for _ in ("magic number", "protocol", "system", "object", "storages"):
            _Inspection(file, size).load()
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _pickle_in_archive(file: BinaryIO, size: int) -> bytes:
    """The record with the saved object, from an archive in which every record lies once and as it is."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise UnsafePickleError("records to be unpacked, which torch never writes")
        if sum(record.file_size for record in records) > size:
            raise UnsafePickleError("more bytes than are in it")
        # Torch looks records up without regard to case.
        if len({record.filename.lower() for record in records}) < len(records) or archive.comment:
            raise UnsafePickleError("records of the same name")
        pickles = [record for record in records if record.filename.lower().endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DamagedPickleError("it is an archive, but torch.save did not write it")
        saved = archive.read(pickles[0])
    # Torch finds the list of records by a stored offset, zipfile by its position at the end.
    file.seek(max(0, size - _END_SIZE - _LOCATOR_SIZE))
    locator = file.read(_LOCATOR_SIZE)
    place = size - _END_SIZE - _LOCATOR_SIZE - _END64_SIZE
    if locator.startswith(b"PK\x06\x07") and int.from_bytes(locator[8:16], "little") != place:
        raise UnsafePickleError("two lists of records")
    return saved


class _Storage(NamedTuple):
    """Stand-in for the numbers that tensors view."""

    length: int


class _Inspection(PickleMachine):
    """Reads the pickle of a torch file with stand-ins for all that is torch's."""

    admits_lists = True

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file)
        self._size = size
        self._lengths: dict[Any, int] = {}
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): self._ordered_dict,
            ("collections", "Counter"): self._counter,
            ("builtins", "set"): self._set,
            ("__builtin__", "set"): self._set,
            ("_codecs", "encode"): self.encode,
            ("torch", "Size"): _described,
            ("torch", "device"): _described,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): _described,
        }

    def find(self, module: str, name: str) -> Any:
        function = self._functions.get((module, name))
        if function is not None:
            return function
        if module in ("torch", "torch.storage"):
            return f"{module}.{name}"  # a number type, which may be named but not called
        return super().find(module, name)

    def build(self, target: Any, state: Any) -> None:
        # The version numbers of a state dict. Other attributes could stand in for a dict's methods.
        if not isinstance(target, dict) or not isinstance(state, dict) or state.keys() - {"_metadata"}:
            super().build(target, state)

    def find_persistent(self, identifier: Any) -> _Storage:
        match identifier:
            case ("storage" | b"storage", str(), str() | bytes() | int() as key, _, int(length), *_) if length >= 0:
                self._lengths[key] = max(length, self._lengths.get(key, 0))
            case _:
                raise UnsafePickleError("objects outside the pickle that are not numbers")
        if sum(self._lengths.values()) > self._size:
            raise UnsafePickleError("more numbers than are in it")
        return _Storage(length)

    def _ordered_dict(self, pairs: Sequence[Any] = ()) -> dict[Any, Any]:
        self.work(len(pairs))
        filled: dict[Any, Any] = {}
        self.fill(filled, [key for key, _ in pairs], [value for _, value in pairs])
        return filled

    def _counter(self, counts: object) -> dict[Any, Any]:
        """Stand for the milestones of a schedule."""
        if not isinstance(counts, dict):
            raise UnsafePickleError("collections.Counter of something other than a dict")
        self.work(len(counts))
        filled: dict[Any, Any] = {}
        self.fill(filled, [*counts], [*counts.values()])
        return filled

    def _set(self, items: Sequence[Any] = ()) -> object:
        self.work(len(items))
        self.fill({}, items, items)
        return _described()

    def _tensor(self, storage: object, offset: object, shape: object, strides: object, *_: object) -> object:
        """Refuse a view of more numbers than the storage holds, for which torch would allocate memory."""
        if not (isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
            raise DamagedPickleError("a tensor is not made of numbers, a shape and strides")
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise DamagedPickleError("a tensor has an impossible shape")
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if all(shape) and last >= storage.length:
            raise DamagedPickleError("a tensor is larger than its numbers")
        return _described()


def _described(*_: object) -> object:
    """Make a stand-in for a small, cheap object that cannot be the key of a dict."""
    return object()
