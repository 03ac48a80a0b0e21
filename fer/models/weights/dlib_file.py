"""The face-recognition network of Davis King (CC0) as dlib writes it, read with NumPy.

dlib writes layers from the input on, each as its name and a tensor: a version, four sizes, then float32 values. A whole
number is a byte with its length and sign, then its bytes. Layers are looked for in the order of the network, and every
size must be the expected one before values are read.

Source of the format: ``serialize`` in dlib's headers, github.com/davisking/dlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = (32, 64, 128, 256, 256)
"""Channels of the five stages."""
BLOCKS = (3, 4, 3, 3, 1)
"""Residual blocks of the five stages; the first of every stage but the first halves the map."""

STATISTICS = Path(__file__).with_name("face_statistics.npz")
"""Mean and deviation of what every BatchNorm is given, over faces; ``scripts/face_statistics.py`` makes the file."""
EPSILON = 1e-5
"""Added to variances by BatchNorm."""

_HEAD = b"\x01\x01\x01\x0dloss_metric_2"
_VERSION = 2
_MOST_BYTES = 1 << 26
_MOST_BETWEEN = 4096
"""Bytes between two tensors, which hold settings of layers."""
_STEM_INPUTS, _STEM_EDGE, _EDGE, _EMBEDDING = 3, 7, 3, 128


def is_dlib_file(head: bytes) -> bool:
    """Tell by its first bytes."""
    return head.startswith(_HEAD)


def convolution_names() -> Iterator[tuple[str, str, int, int, int]]:
    """Name the convolutions from the input on: convolution, its BatchNorm, inputs, outputs, edge of the kernel."""
    yield "conv1", "bn1", _STEM_INPUTS, CHANNELS[0], _STEM_EDGE
    inputs = CHANNELS[0]
    for stage, (outputs, blocks) in enumerate(zip(CHANNELS, BLOCKS, strict=True), start=1):
        for block in range(blocks):
            for number in (1, 2):
                prefix = f"layer{stage}.{block}"
                yield f"{prefix}.conv{number}", f"{prefix}.bn{number}", inputs, outputs, _EDGE
                inputs = outputs


def read(file: BinaryIO) -> dict[str, Tensor]:
    """Read the tensors of the network by the names of ``fer.models.face_resnet``, with BatchNorm folded.

    ``bn.weight`` a and ``bn.bias`` b of a folded BatchNorm make a z + b of the convolution's output z; the bias of the
    convolution is part of b. ``fc.weight`` (128, 256) makes the embedding.

    Raises:
        ValueError: it is another network, cut short, or too large.
    """
    content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"larger than the allowed {_MOST_BYTES:,} bytes")
    if not is_dlib_file(content):
        raise ValueError("not dlib's face-recognition network")
    found: dict[str, NDArray[np.float32]] = {}
    position = 0
    for convolution, norm, inputs, outputs, edge in convolution_names():
        count = inputs * outputs * edge * edge
        values, position = _tensor(content, position, b"con_4", (count + outputs, 1, 1, 1))
        found[f"{convolution}.weight"] = values[:count].reshape(outputs, inputs, edge, edge)
        bias = values[count:]
        affine, position = _tensor(content, position, b"affine_", (2 * outputs, 1, 1, 1))
        found[f"{norm}.weight"] = affine[:outputs]
        found[f"{norm}.bias"] = affine[outputs:] + affine[:outputs] * bias
    values, position = _tensor(content, position, b"fc_2", (CHANNELS[-1], _EMBEDDING, 1, 1), before=2)
    found["fc.weight"] = values.reshape(CHANNELS[-1], _EMBEDDING).T
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def with_batch_norm(folded: Mapping[str, Tensor], statistics: Path = STATISTICS) -> dict[str, Tensor]:
    """Restore the BatchNorm of folded tensors, so that the network can be trained on.

    A folded one, a z + b, would be normalized by the first batch's statistics, and the features would be lost. With
    mean m and deviation s of z over faces, weight a s, bias b + a m, running mean m and running variance s^2 compute
    the same in evaluation, and nearly the same in training.

    Args:
        folded: as ``read`` returns them; ``fc.weight`` is left as it is.
        statistics: file with an array (2, C) of m and s for every BatchNorm.
    """
    whole = dict(folded)
    with np.load(statistics, allow_pickle=False) as arrays:
        for _, norm, *_ in convolution_names():
            mean, deviation = (torch.from_numpy(row.astype(np.float64)) for row in arrays[norm])
            scale = folded[f"{norm}.weight"].double()
            whole[f"{norm}.weight"] = (scale * deviation).float()
            whole[f"{norm}.bias"] = (folded[f"{norm}.bias"].double() + scale * mean).float()
            whole[f"{norm}.running_mean"] = mean.float()
            whole[f"{norm}.running_var"] = (deviation**2 - EPSILON).float()
    return whole


def _tensor(
    content: bytes, position: int, layer: bytes, sizes: tuple[int, ...], *, before: int = 0
) -> tuple[NDArray[np.float32], int]:
    """Read the tensor of the next layer of that kind, behind so many other numbers, and the position behind it."""
    name = bytes([1, len(layer)]) + layer
    start = content.find(name, position, position + _MOST_BETWEEN)
    if start < 0:
        raise ValueError(f"no layer {layer.decode()} behind byte {position:,}")
    position = start + len(name)
    for _ in range(before):
        _, position = _number(content, position)
    version, position = _number(content, position)
    if version != _VERSION:
        raise ValueError(f"a tensor of version {version} at byte {start:,}; only {_VERSION} is read")
    stated = []
    for _ in sizes:
        size, position = _number(content, position)
        stated.append(size)
    if tuple(stated) != sizes:
        raise ValueError(f"a tensor of {stated} values at byte {start:,} where {list(sizes)} are expected")
    count = int(np.prod(sizes))
    end = position + 4 * count
    if end > len(content):
        raise ValueError("cut short")
    return np.frombuffer(content, "<f4", count, position).astype(np.float32), end


def _number(content: bytes, position: int) -> tuple[int, int]:
    """Read a whole number of 0 or more, and the position behind it."""
    length = content[position] if position < len(content) else 0
    if not 1 <= length <= 8 or position + 1 + length > len(content):
        raise ValueError(f"no number at byte {position:,}")
    end = position + 1 + length
    return int.from_bytes(content[position + 1 : end], "little"), end
