"""Metadata of an exported file, and names and shapes of its tensors, checked before the file is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer.data.images.decode import MAX_EDGE
from fer.files.class_names import class_names_fault
from fer.files.plain_data import PlainDataError, parse_json
from fer.files.visible_text import visible_name
from fer.inference.faces import template_fault

_LONGEST = 1_000_000
_MOST_NORMALIZATION = 100.0


class MetadataError(ValueError):
    """Metadata, or a signature, that no export writes; the message goes on after the name of the file."""


@dataclass(frozen=True)
class OnnxMetadata:
    """Metadata that is needed to use an exported file."""

    class_names: tuple[str, ...]
    """K names, in the order of the logits."""
    image_size: int
    """Edge of the faces in pixels, as stored."""
    view_size: int
    """Edge of the views in pixels, which the network gets."""
    test_resize: int
    """Edge in pixels to which faces are resized before the central square of ``view_size`` is cut out."""
    mean: tuple[float, float, float]
    """Mean of RGB, 0..1."""
    std: tuple[float, float, float]
    """Standard deviation of RGB, above 0."""
    template: tuple[tuple[float, float], ...]
    """Positions of landmarks in a face, five points in units of its edge."""


def read_metadata(found: Mapping[str, str]) -> OnnxMetadata:
    """Read the metadata of an exported file, a JSON text by key.

    Raises:
        MetadataError: a key is missing, or its value is not what an export writes.
    """
    names = _value(found, "class_names")
    if not isinstance(names, list):
        raise MetadataError("has class_names that are no list")
    if fault := class_names_fault(names):
        raise MetadataError(f"has {fault}")
    template = _value(found, "template")
    if fault := template_fault(template):
        raise MetadataError(f"has a template that {fault}")
    view_size = _edge(found, "view_size")
    test_resize = _edge(found, "test_resize") if "test_resize" in found else view_size  # older files lack it
    if test_resize < view_size:
        raise MetadataError(f"has a test_resize of {test_resize}, less than its view_size of {view_size}")
    mean, std = _triple(found, "mean", lowest=0.0, highest=1.0), _triple(found, "std", lowest=1e-6)
    return OnnxMetadata(
        class_names=tuple(names),
        image_size=_edge(found, "image_size"),
        view_size=view_size,
        test_resize=test_resize,
        mean=mean,
        std=std,
        template=tuple((float(x), float(y)) for x, y in template),
    )


def check_signature(metadata: OnnxMetadata, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Compare a session's inputs and outputs with the metadata.

    Args:
        metadata: of the same file.
        inputs: with ``name``, ``type`` and ``shape``: ``view`` (batch, 3, view_size, view_size) alone.
        outputs: ``logits`` (batch, K), and perhaps ``cam`` (batch, K, h, w), with maps no larger than the views.

    Returns:
        Whether there are maps.

    Raises:
        MetadataError: another name, type or shape.
    """
    count, size = len(metadata.class_names), metadata.view_size
    _check_names("inputs", inputs, [["view"]])
    _check_names("outputs", outputs, [["logits"], ["logits", "cam"]])
    for tensor, shape in zip((*inputs, *outputs), ((3, size, size), (count,), (count, None, None)), strict=False):
        if tensor.type != "tensor(float)":
            raise MetadataError(f"has {tensor.name} of type {visible_name(tensor.type)}, not float32")
        rest = tensor.shape[1:]
        is_fixed = not tensor.shape or isinstance(tensor.shape[0], int)
        fits = len(rest) == len(shape) and all(
            _fits(side, wanted, size) for side, wanted in zip(rest, shape, strict=True)
        )
        if is_fixed or not fits:
            wanted = ", ".join("n" if side is None else str(side) for side in shape)
            raise MetadataError(f"has {tensor.name} of shape {visible_name(tensor.shape)}, not (any, {wanted})")
    return len(outputs) > 1


def _check_names(what: str, tensors: Sequence[Any], allowed: Sequence[list[str]]) -> None:
    names = [tensor.name for tensor in tensors]
    if names not in allowed:
        shown = ", ".join(visible_name(name) for name in names[:5])
        raise MetadataError(f"has the {what} {shown or 'none'}, not {' or '.join(map(', '.join, allowed))}")


def _fits(side: Any, wanted: int | None, largest: int) -> bool:
    if wanted is None:  # of a map; its sides may be symbols
        return not isinstance(side, int) or 1 <= side <= largest
    return bool(side == wanted)


def _value(found: Mapping[str, str], key: str) -> Any:
    if key not in found:
        raise MetadataError(f"lacks {key}, which fer-export writes into its metadata")
    if len(found[key]) > _LONGEST:
        raise MetadataError(f"has {key} longer than any export writes")
    try:
        return parse_json(found[key])
    except PlainDataError as error:
        raise MetadataError(f"has {key} that is no JSON ({error})") from error


def _edge(found: Mapping[str, str], key: str) -> int:
    value = _value(found, key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_EDGE:
        raise MetadataError(f"has {key} that is no whole number of 1 to {MAX_EDGE}")
    return value


def _triple(
    found: Mapping[str, str], key: str, *, lowest: float, highest: float = _MOST_NORMALIZATION
) -> tuple[float, float, float]:
    values = _value(found, key)
    if not (isinstance(values, list) and len(values) == 3 and all(_is_number(value) for value in values)):
        raise MetadataError(f"has {key} that does not hold three numbers")
    if not all(lowest <= value <= highest for value in values):
        raise MetadataError(f"has {key} outside {lowest:g}..{highest:g}")
    red, green, blue = map(float, values)
    return red, green, blue


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
