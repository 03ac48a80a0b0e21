"""Initial weights of a backbone from a file, without running code from it, and the report of what was loaded."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

from fer.errors import UserError
from fer.models import numpy_pickle

log = logging.getLogger(__name__)

MIN_SHARE = 0.9
"""A file that fills less than this share of the backbone's tensors is refused unless partial weights are allowed."""
TRAINED_BACKBONE = "backbone"
"""Key of a checkpoint under which a run records the name of its backbone."""
NAMES_SHOWN = 4

_WRAPPERS = frozenset({"module", "model", "network", "backbone", "_orig_mod"})
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# The released EAC code wraps the layers of a ResNet into one nn.Sequential (relu and pool have no weights).
_EAC_LAYERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_VGGFACE2_IDENTITIES = 8631
# Blocks per layer and width of the second convolution of the first block tell the residual networks apart.
_LAYOUTS = {
    ((2, 2, 2, 2), (64, 64, 3, 3), False): "resnet18",
    ((3, 4, 6, 3), (64, 64, 3, 3), False): "resnet34",
    ((3, 4, 6, 3), (64, 64, 3, 3), True): "resnet50",
    ((3, 4, 23, 3), (64, 64, 3, 3), True): "resnet101",
    ((3, 8, 36, 3), (64, 64, 3, 3), True): "resnet152",
}


class WeightsError(UserError):
    """Weights that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class LoadReport:
    """What a file gave to a backbone; batch counters of BatchNorm, which inference does not use, are not missed."""

    source: str
    sha256: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    """Tensors of the file that the backbone has no place for, such as the classifier's."""
    mismatched: tuple[str, ...]
    """Each with the shape in the file and the backbone's."""

    @property
    def share(self) -> float:
        """Share of the backbone's tensors that the file fills, 0..1."""
        loaded = sum(not _is_counter(name) for name in self.loaded)
        return loaded / max(1, loaded + len(self.missing) + len(self.mismatched))

    def __str__(self) -> str:
        lines = [f"{self.source} (sha256 {self.sha256}): {len(self.loaded)} tensors loaded, {self.share:.0%}"]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "shape mismatch": self.mismatched}
        lines += [f"  {kind} {len(names)}: {_abbreviated(names)}" for kind, names in kinds.items() if names]
        return "\n".join(lines)


def load_backbone_weights(
    backbone: nn.Module,
    name: str,
    source: str | Path,
    *,
    allow_partial_weights: bool = False,
    weights_sha256: str | None = None,
) -> LoadReport:
    """Fill ``backbone`` from ``source`` and log what was and what was not loaded.

    Args:
        backbone: its state dict says which tensors are wanted; it is changed only if everything is in order.
        name: the option ``backbone=name``; torchvision's weights are those of its model of that name.
        source: a torchvision weight name (``IMAGENET1K_V1``), a file (.pth, checkpoint, NumPy pickle), or a run
            folder, whose newest checkpoint is taken. Wrapping prefixes and the EAC code's layout are understood.
        allow_partial_weights: accept a file that fills less than 90 % of the tensors, or has more layers.
        weights_sha256: refuse a file with another digest.

    Raises:
        WeightsError: there is no such file, it is not what it should be, or it belongs to another backbone.
    """
    path = _path_of(str(source), name)
    content, digest, is_pickle = _read(path, weights_sha256)
    found = _tensors(content, path)
    eac_layout = "features.0.weight" in found and "features.4.0.conv1.weight" in found
    if eac_layout:
        found = {_from_eac(key): value for key, value in found.items()}
    origin = _origin(content, found, caffe=is_pickle or eac_layout)
    wanted = backbone.state_dict()
    fitting = {key: value for key, value in found.items() if key in wanted and _fits(value, wanted[key])}
    report = LoadReport(
        source=str(path),
        sha256=digest,
        loaded=tuple(fitting),
        missing=tuple(key for key in wanted if key not in found and not _is_counter(key)),
        unexpected=tuple(key for key in found if key not in wanted),
        mismatched=tuple(
            f"{key} {_shape(value)}, wanted {_shape(wanted[key])}"
            for key, value in found.items()
            if key in wanted and key not in fitting
        ),
    )
    layers = {key for key in report.unexpected if hasattr(backbone, key.partition(".")[0]) and not _is_counter(key)}
    _check(report, name, origin, surplus=len(layers), allow_partial=allow_partial_weights)
    for key, value in fitting.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{path}: {key} holds values that are not finite; take an undamaged file")
    backbone.load_state_dict(fitting, strict=False)
    log.log(logging.WARNING if report.missing or report.mismatched else logging.INFO, "backbone weights: %s", report)
    return report


def _check(report: LoadReport, name: str, origin: str | None, *, surplus: int, allow_partial: bool) -> None:
    fits = f"use backbone={origin}" if origin not in (None, name) else "take weights of this backbone"
    # Names and shapes of the two networks agree, the position of the strides does not: loading would succeed and the
    # network would compute something else.
    if origin != name and {"resnet50_vggface2"} <= {origin, name} <= {"resnet50_vggface2", "resnet50"}:
        raise WeightsError(
            f"{report.source}: these weights belong to the VGGFace2 kind of ResNet-50, which strides in the first 1x1 "
            f"convolution; backbone={name} would take them without a complaint and compute something else: {fits}"
        )
    allowance = "set backbone.allow_partial_weights=true to take what fits and leave the rest as initialised"
    if not report.loaded:
        raise WeightsError(f"nothing in this file fits backbone={name}: {fits}\n{report}")
    if surplus and not allow_partial:
        raise WeightsError(
            f"{report.source} is of a larger network than backbone={name}, with {surplus} tensors more in its layers: "
            f"{fits}, or {allowance}\n{report}"
        )
    if report.share < MIN_SHARE and not allow_partial:
        raise WeightsError(
            f"{report.source} fills only {report.share:.0%} of the tensors of backbone={name}: {fits}, or {allowance}"
            f"\n{report}"
        )


def _path_of(source: str, name: str) -> Path:
    published = get_model_weights(name).__members__ if name in list_models() else {}
    if source in published:
        return _downloaded(published[source].url)
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        known = ", ".join(published) or "torchvision has none"
        raise WeightsError(f"backbone.weights: no file {path}, and no torchvision weight name of {name} ({known})")
    return path


def _downloaded(url: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"cannot download {url}: {error}; fetch it where there is a network and put it at {path}, or give "
                "backbone.weights a file"
            ) from error
    return path


def _read(path: Path, pinned: str | None) -> tuple[Any, str, bool]:
    """Content and SHA-256 of a file, and whether it is a NumPy pickle."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if pinned is not None and digest != pinned.strip().lower():
                raise WeightsError(
                    f"{path}: sha256 is {digest}, backbone.weights_sha256 says {pinned}; take the file it was made for"
                )
            file.seek(0)
            head = file.read(64)
            file.seek(0)
            is_torch = head.startswith(b"PK\x03\x04") or _LEGACY_TORCH in head
            return _parsed(file, is_torch, path), digest, not is_torch
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _parsed(file: BinaryIO, is_torch: bool, path: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True) if is_torch else numpy_pickle.read(file)
    except numpy_pickle.UnsafePickleError as error:
        raise WeightsError(
            f"{path} is refused, nothing of it was run: besides dict, str, bytes and numeric NumPy arrays it holds "
            f"{error}"
        ) from error
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{path} is refused, nothing of it was run: it is no undamaged weights file with tensors and plain "
            f"containers only ({reason}); save the state dict alone with torch.save"
        ) from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict or of a checkpoint around one, by names without wrapping prefixes."""
    state = next((content[key] for key in _STATE_KEYS if _is_mapping(content) and _is_mapping(content.get(key))), content)
    if not _is_mapping(state):
        raise WeightsError(f"{path} holds no dict of tensors but {type(state).__name__}")
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            continue
        head, _, rest = key.partition(".")
        while head in _WRAPPERS and rest:
            key = rest
            head, _, rest = key.partition(".")
        if key in found:
            raise WeightsError(f"{path} holds {key} more than once under different prefixes: keep one network in it")
        found[key] = tensor
    if not found:
        raise WeightsError(f"{path} holds no tensors")
    return found


def _origin(content: Any, found: Mapping[str, Tensor], *, caffe: bool) -> str | None:
    """The backbone option that the tensors come from, where it can be told."""
    if _is_mapping(content) and isinstance(content.get(TRAINED_BACKBONE), str):
        return str(content[TRAINED_BACKBONE])
    if "features.0.0.weight" in found and "features.18.0.weight" in found:
        return "mobilenet_v2"
    blocks = [{k.split(".")[1] for k in found if k.startswith(f"layer{i}.")} for i in (1, 2, 3, 4)]
    second = found.get("layer1.0.conv2.weight")
    layout = (tuple(map(len, blocks)), second is not None and tuple(second.shape), "layer1.0.conv3.weight" in found)
    name = _LAYOUTS.get(layout)  # type: ignore[call-overload]
    fc = found.get("fc.weight")
    caffe = caffe or (fc is not None and len(fc) == _VGGFACE2_IDENTITIES)
    return "resnet50_vggface2" if name == "resnet50" and caffe else name


def _from_eac(key: str) -> str:
    _, index, *rest = [*key.split("."), ""]
    if not key.startswith("features.") or index not in _EAC_LAYERS:
        return key
    return ".".join([_EAC_LAYERS[index], *rest]).rstrip(".")


def _fits(value: Tensor, wanted: Tensor) -> bool:
    return value.shape == wanted.shape and value.is_floating_point() == wanted.is_floating_point()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _abbreviated(names: Iterable[str]) -> str:
    names = list(names)
    hidden = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f", ... and {hidden} more" if hidden > 0 else "")
