"""Initial weights of a backbone, and the report of what was and was not loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fer.models.weights import weight_file
from fer.models.weights.pickle_machine import shown
from fer.models.weights.weight_file import SENET, VGGFACE2, WeightsError

__all__ = ["MIN_SHARE", "LoadReport", "WeightsError", "load_backbone_weights", "value_fault"]

log = logging.getLogger(__name__)

MIN_SHARE = 0.9
"""A file that fills less than this share of the backbone's tensors is refused unless partial weights are allowed."""
NAMES_SHOWN = 4
_ALLOW = "set backbone.allow_partial_weights=true to take what fits and leave the rest as initialized"


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors that a file gave to a backbone, and of those it did not.

    BatchNorm's batch counters, which older files lack and nothing needs, are never missing.
    """

    path: Path
    sha256: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Tensors that the backbone has no place for, such as the classifier's."""
    mismatched: tuple[str, ...]
    """Name, shape in the file, shape in the backbone."""

    @property
    def share(self) -> float:
        """Share of the backbone's tensors that the file fills, 0..1."""
        loaded = sum(not _is_counter(name) for name in self.loaded)
        return loaded / max(1, loaded + len(self.missing) + len(self.mismatched))

    @property
    def differences(self) -> str:
        """A line for each kind of tensor that was not loaded, with the first names."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "other shape": self.mismatched}
        return "".join(f"\n  {kind}: {_abbreviated(names)}" for kind, names in kinds.items() if names)

    def __str__(self) -> str:
        head = (
            f"{self.path} (sha256 {self.sha256}): {len(self.loaded)} tensors loaded, {self.share:.1%} of the backbone"
        )
        return head + self.differences


def load_backbone_weights(
    backbone: nn.Module,
    source: str | Path,
    *,
    name: str,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
    rename: Callable[[str], str] = str,
) -> LoadReport:
    """Fill ``backbone`` from ``source``, and log what was and what was not loaded.

    Args:
        backbone: its state dict tells which tensors are wanted; it changes only if everything is in order.
        source: a torchvision weight name such as ``IMAGENET1K_V1``, a file (.pth, checkpoint, pickle of NumPy
            arrays), or a run folder, whose last checkpoint is taken. Wrapping prefixes (``module.``, ``model.``,
            ``network.backbone.``) and the layout of the released EAC code are understood.
        name: the backbone option, by which torchvision knows its weights too.
        allow_partial_weights: accept a file that fills less than 90 % of the tensors or has more layers.
        weights_sha256: refuse a file with another SHA-256.
        rename: turns a name in published files into the backbone's own.

    Raises:
        WeightsError: there is no such file, it is not what it should be, or it belongs to another backbone.
    """
    file = weight_file.read(source, name, weights_sha256)
    wanted = backbone.state_dict()
    tensors = {rename(key): tensor for key, tensor in file.tensors.items()}
    common = {key: tensor for key, tensor in tensors.items() if key in wanted}
    fitting = {key: tensor for key, tensor in common.items() if _fits(tensor, wanted[key])}
    report = LoadReport(
        path=file.path,
        sha256=file.sha256,
        loaded=tuple(fitting),
        missing=tuple(key for key in wanted if key not in common and not _is_counter(key)),
        unexpected=tuple(key for key in tensors if key not in wanted),
        mismatched=tuple(
            f"{key} {_shape(tensor)} for {_shape(wanted[key])}" for key, tensor in common.items() if key not in fitting
        ),
    )
    _check_kind(report, name, file.origin)
    layers = {key.partition(".")[0] for key in wanted}
    surplus = sum(key.partition(".")[0] in layers and not _is_counter(key) for key in report.unexpected)
    _check_amount(report, name, file.origin, surplus, allow_partial_weights)
    cast = {key: tensor.to(wanted[key].dtype) for key, tensor in fitting.items()}
    if fault := value_fault(cast):
        raise WeightsError(f"{file.path}: {fault}; take weights of a healthy run")
    backbone.load_state_dict(cast, strict=False)
    log.log(logging.WARNING if report.missing or report.mismatched else logging.INFO, "weights: %s", report)
    return report


def value_fault(tensors: Mapping[str, Tensor]) -> str | None:
    """Say what no trained network holds: values that are not finite, or running variances below 0.

    Args:
        tensors: by name, in the type that they are used in: what is finite in float64 may be infinite in float32.
    """
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            return f"{shown(key)} has values that are not finite as {str(tensor.dtype).removeprefix('torch.')}"
        if key.endswith("running_var") and bool((tensor < 0).any()):
            return f"{shown(key)} has variances below 0"
    return None


def _check_kind(report: LoadReport, name: str, origin: str | None) -> None:
    """Refuse what would load without a complaint and compute something else."""
    if origin in (VGGFACE2, SENET) and origin != name:
        network = "ResNet-50" if origin == VGGFACE2 else "SENet-50"
        raise WeightsError(
            f"{report.path} holds weights of the VGGFace2 kind of {network}, whose strides lie on the first 1x1 "
            f"convolutions; backbone={name} would compute something else with them: use backbone={origin}"
        )
    if origin == "resnet50" and name == VGGFACE2:
        raise WeightsError(
            f"{report.path} was trained with backbone=resnet50, whose strides lie on the 3x3 convolutions; "
            f"backbone={name} would compute something else with it: use backbone=resnet50"
        )


def _check_amount(report: LoadReport, name: str, origin: str | None, surplus: int, allow_partial: bool) -> None:
    remedy = f"use backbone={origin}" if origin not in (None, name) else "take weights of this backbone"
    if not report.loaded:
        raise WeightsError(f"nothing in {report.path} fits backbone={name}: {remedy}{report.differences}")
    if allow_partial:
        return
    if surplus:
        raise WeightsError(
            f"{report.path} is of a larger network than backbone={name}, whose layers have no place for {surplus} of "
            f"its tensors: {remedy}, or {_ALLOW}{report.differences}"
        )
    if report.share < MIN_SHARE:
        raise WeightsError(
            f"{report.path} fills only {report.share:.1%} of the tensors of backbone={name}: {remedy}, or {_ALLOW}"
            f"{report.differences}"
        )


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    return tensor.shape == wanted.shape and tensor.is_floating_point() == wanted.is_floating_point()


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _abbreviated(names: Sequence[str]) -> str:
    hidden = len(names) - NAMES_SHOWN
    more = f", ... and {hidden} more" if hidden > 0 else ""
    return f"{len(names)} ({', '.join(map(shown, names[:NAMES_SHOWN]))}{more})"
