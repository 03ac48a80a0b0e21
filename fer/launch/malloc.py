"""Settings of the C allocator for CPU tensors."""

from __future__ import annotations

import ctypes
import platform

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MEGABYTE = 2**20


def keep_freed_memory() -> None:
    """Keep memory that tensors have freed in the process, for the next tensors.

    glibc gives freed activations back to the system, which clears every page again when the next step asks for it. Does
    nothing with another C library.
    """
    _mallopt({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


def give_back_freed_memory() -> None:
    """Undo ``keep_freed_memory``: set the thresholds that glibc chooses by itself for large blocks."""
    _mallopt({_M_MMAP_MAX: 2**16, _M_MMAP_THRESHOLD: 32 * _MEGABYTE, _M_TRIM_THRESHOLD: 64 * _MEGABYTE})
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt(values: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in values.items():
            libc.mallopt(parameter, value)
