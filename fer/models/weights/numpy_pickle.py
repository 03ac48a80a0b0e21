"""Reads a pickled dict of NumPy arrays, as Caffe-born weights are published, without calling anything it names."""

from __future__ import annotations

import math
import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fer.models.weights.pickle_machine import PickleMachine, UnsafePickleError, shown
from fer.models.weights.pickle_stream import DamagedPickleError

_NUMERIC = re.compile(r"b1|[iu][1248]|f[248]")
_MOST_SIDES = 32
_PLAIN = str | bytes | int | float | None | np.ndarray | np.generic
_BYTE_ORDERS = ("<", ">", "=", "|")


def read(file: BinaryIO) -> Any:
    """The pickled object: dicts of arrays, NumPy scalars, str, bytes, numbers and tuples of these.

    Every name in the file is answered by a stand-in of this module, or refused. Not even NumPy's own reconstruction
    runs: it would believe the type description in the file, and thus take bytes for pointers. Work and memory grow
    with the size of the file alone.

    Raises:
        UnsafePickleError: the file asks for anything else.
        DamagedPickleError: it is cut, damaged or no pickle.
    """
    return _finished(_Reader(file).load())


class _DType:
    """Stand-in for ``numpy.dtype``: plain numbers only."""

    __slots__ = ("value",)

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not _NUMERIC.fullmatch(code):
            raise UnsafePickleError(f"arrays of type '{shown(code)}'")
        self.value: np.dtype[Any] = np.dtype(code)

    def set_state(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise UnsafePickleError("arrays of a structured type")
        if order not in _BYTE_ORDERS:
            raise DamagedPickleError("an array has an unknown byte order")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stand-in for ``numpy.ndarray``: its value is itself until the pickled state has filled it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: object = self


class _Reader(PickleMachine):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._stand_ins: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): "numpy.ndarray",
            ("numpy", "dtype"): self._dtype,
            ("_codecs", "encode"): self.encode,
            ("builtins", "bytes"): self._no_bytes,
            ("__builtin__", "bytes"): self._no_bytes,
        }
        for core in ("numpy.core", "numpy._core"):
            self._stand_ins[f"{core}.multiarray", "_reconstruct"] = self._reconstruct
            self._stand_ins[f"{core}.multiarray", "scalar"] = self._scalar
            self._stand_ins[f"{core}.numeric", "_frombuffer"] = self._array

    def find(self, module: str, name: str) -> Any:
        if (module, name) in self._stand_ins:
            return self._stand_ins[module, name]
        return super().find(module, name)

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, _DType):
            target.set_state(state)
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.value = self._array(raw, dtype, shape, "F" if fortran else "C")
        else:
            super().build(target, state)

    def _dtype(self, code: object, align: object = None, copy: object = None) -> _DType:
        return _DType(code)

    def _no_bytes(self) -> bytes:
        return b""

    def _reconstruct(self, kind: object, shape: object, code: object) -> _Array:
        return _Array()

    def _scalar(self, dtype: object, raw: object) -> Any:
        return self._array(raw, dtype, (), "C")[()]

    def _array(self, raw: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        if not (isinstance(raw, bytes) and isinstance(dtype, _DType) and isinstance(shape, tuple)):
            raise DamagedPickleError("an array is not made of bytes, a type and a shape")
        if len(shape) > _MOST_SIDES or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise DamagedPickleError("an array has an impossible shape")
        if math.prod(shape) * dtype.value.itemsize != len(raw):
            raise DamagedPickleError(f"an array has {len(raw):,} bytes, which is not what its shape and type need")
        self.make(len(raw))
        flat = np.frombuffer(raw, dtype.value).astype(dtype.value.newbyteorder("="))
        return flat.reshape(shape, order="F" if order == "F" else "C")


def _finished(content: Any) -> Any:
    """The same with arrays in the place of their stand-ins; dicts may hold each other in any way.

    Raises:
        UnsafePickleError: a stand-in is left, in a tuple or without having been called.
    """
    whole = {"": content}
    waiting: list[Any] = [whole]
    seen = set[int]()
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict | tuple):
            if id(found) in seen:
                continue
            seen.add(id(found))
            if isinstance(found, dict):
                found |= {key: value.value for key, value in found.items() if isinstance(value, _Array)}
            waiting += found.values() if isinstance(found, dict) else found
        elif not isinstance(found, _PLAIN):
            raise UnsafePickleError("an unfinished object")
    return whole[""]
