"""Reads a pickled dict of NumPy arrays, as Caffe-born weights are published, without calling anything it names."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_NUMERIC_KINDS = frozenset("fiub")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class UnsafePickleError(pickle.UnpicklingError):
    """The pickle names something other than dict, str, bytes, numbers, numeric NumPy arrays and scalars."""


def read(file: BinaryIO) -> Any:
    """The pickled object; strings written by Python 2 are decoded as latin-1.

    Every name in the file is answered by a stand-in of this module, or refused. Not even NumPy's own reconstruction
    runs: it would believe the type description in the file, and thus take bytes for pointers.

    Raises:
        UnsafePickleError: the file names anything else.
        Exception: of any kind, if the file is damaged or no pickle.
    """
    return _arrays(_Reader(file, encoding="latin1").load())


class _DType:
    """Stand-in for ``numpy.dtype``: plain numbers only."""

    __slots__ = ("value",)

    def __init__(self, code: str) -> None:
        self.value: np.dtype[Any] = np.dtype(code)
        if self.value.kind not in _NUMERIC_KINDS or self.value.itemsize > 8 or self.value.shape:
            raise UnsafePickleError(f"arrays of type {code!r}")

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, order, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise UnsafePickleError("arrays of a structured type")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stand-in for ``numpy.ndarray``, filled by its pickled state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], _DType, bool, bytes | str]) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _from_bytes(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return "numpy.ndarray"
        if (module, name) == ("numpy", "dtype"):
            return self._dtype
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if module in ("builtins", "__builtin__") and name == "bytes":
            return self._no_bytes
        if module in _MULTIARRAY and name == "_reconstruct":
            return self._reconstruct
        if module in _MULTIARRAY and name == "scalar":
            return self._scalar
        if module in _NUMERIC and name == "_frombuffer":
            return self._frombuffer
        raise UnsafePickleError(f"{module}.{name}")

    # Bound methods: unlike functions and classes, a pickle cannot change their attributes.

    def _dtype(self, code: str, align: bool = False, copy: bool = True) -> _DType:
        return _DType(code)

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"text encoded as {encoding!r}")
        return text.encode("latin1")

    def _no_bytes(self) -> bytes:
        return b""

    def _reconstruct(self, kind: object, shape: object, code: object) -> _Array:
        return _Array()

    def _scalar(self, dtype: _DType, raw: bytes | str) -> Any:
        return _from_bytes(raw, dtype)[0]

    def _frombuffer(self, raw: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> NDArray[Any]:
        return _from_bytes(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _from_bytes(raw: bytes | bytearray | str, dtype: _DType) -> NDArray[Any]:
    data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    return np.frombuffer(data, dtype.value).astype(dtype.value.newbyteorder("="))


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return value.value if isinstance(value, _Array) else value
