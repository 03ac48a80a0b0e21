"""Files of the safetensors format, which holds tensors and nothing that could run."""

from __future__ import annotations

from typing import BinaryIO

from torch import Tensor

from fer.errors import UserError

_MOST_BYTES = 1 << 33


def read(file: BinaryIO) -> dict[str, Tensor]:
    """Read all tensors by name; the package checks that every size and place lies inside the file.

    Raises:
        UserError: the package safetensors is not installed.
        ValueError: the file is too large.
    """
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise UserError('.safetensors files need safetensors: pip install "noisy-label-fer[timm]"') from error
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"larger than the allowed {_MOST_BYTES:,} bytes")
    return dict(load(content))
