"""A trained method as an ONNX file: written with all that is needed to use it, checked, and read again.

The file takes ``view`` (B, 3, size, size), float32 in RGB, resized and normalized, for any B, and gives ``logits``
(B, K) and, of methods whose classifier is linear on averaged features, ``cam`` (B, K, h, w). Its metadata holds the
class names, the sizes, the normalization and where landmarks lie in a face, as JSON.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer.errors import ConfigError, UserError
from fer.files.atomic import replacing
from fer.files.visible_text import visible
from fer.inference.faces import FaceDetector
from fer.inference.model import Images, Model, Prediction, RunModel, Template
from fer.inference.onnx_metadata import MetadataError, check_signature, read_metadata
from fer.methods.core.method import Method
from fer.methods.core.two_networks import TwoNetworks
from fer.models.cam import class_activation_maps
from fer.models.network import FaceNetwork
from fer.views.augmentation import Augmentation

TOLERANCE = 1e-4
"""Largest accepted difference of logits and maps: absolute for values up to 1, relative above."""
MAX_BYTES = 2**30
_CHECKED_BATCHES = (1, 3, 8)


class OnnxError(UserError):
    """An ONNX file that cannot be written or used; the message names it."""


class _Outputs(nn.Module):
    """Views -> logits, and maps where they need no gradient."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.networks = linear_networks(method)

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        if not self.networks:
            return (self.method.classify(view).float(),)
        outputs = []
        for network in self.networks:
            features, logits = network(view)
            outputs.append((logits, class_activation_maps(features, network.classifier.weight)))
        return tuple(torch.stack(values).mean(0).float() for values in zip(*outputs, strict=True))


def linear_networks(method: Method) -> list[FaceNetwork]:
    """The networks whose mean logits are evaluated, if nothing but a linear classifier stands on their features."""
    if isinstance(method, TwoNetworks):
        both = [method.network, method.second_network]
        return {"first": both[:1], "second": both[1:], "mean": both}[method.evaluated]
    return [method.network] if type(method).classify is Method.classify else []


def export(model: RunModel, path: Path, stamp: Mapping[str, Any], template: Template) -> float:
    """Write the file, if onnxruntime finds the same in it as torch.

    Args:
        model: a finished run's, on the CPU.
        path: a file of that name is replaced, in the end and not before.
        stamp: where the run comes from, kept in the metadata.
        template: where landmarks lie in its faces, (5, 2), kept too.

    Returns:
        The largest difference between torch's and onnxruntime's outputs.

    Raises:
        OnnxError: the outputs differ by more than ``TOLERANCE``, or the file cannot be written.
        ConfigError: the packages for ONNX are not installed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            _write(model, unfinished, {"stamp": stamp, "template": template.tolist()})
            difference = _largest_difference(model, OnnxModel(unfinished, "cpu"))
            if not difference <= TOLERANCE:
                raise OnnxError(
                    f"{path} was not written: onnxruntime's outputs differ from torch's by {difference:.2g}, more than "
                    f"the allowed {TOLERANCE:g}; please report it with the run's config.yaml"
                )
    except OSError as error:
        raise OnnxError(f"cannot write {path} ({error.strerror})") from error
    return difference


def _write(model: RunModel, path: Path, more: Mapping[str, Any]) -> None:
    onnx = _installed("onnx")
    _installed("onnxscript")
    outputs = _Outputs(model.method).eval()
    augmentation = model.method.augmentation
    view = torch.zeros(2, 3, augmentation.size, augmentation.size)
    names = ["logits", "cam"][: 2 if outputs.networks else 1]
    for chatty in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            outputs,
            (view,),
            dynamo=True,
            input_names=["view"],
            output_names=names,
            dynamic_shapes={"view": {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    assert program is not None
    written = program.model_proto
    metadata = {
        "class_names": model.class_names,
        "image_size": model.image_size,
        "view_size": augmentation.size,
        "test_resize": augmentation.test_resize,
        "mean": (augmentation.mean.flatten() / 255).tolist(),
        "std": (augmentation.std.flatten() / 255).tolist(),
        **more,
    }
    onnx.helper.set_model_props(written, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(written, path)


def _largest_difference(model: RunModel, exported: OnnxModel) -> float:
    """Compute the largest difference between torch's and onnxruntime's outputs on random images.

    The difference is relative for outputs above 1 and absolute for all others."""
    generator = np.random.default_rng(0)
    outputs, largest = _Outputs(model.method).eval(), 0.0
    for count in _CHECKED_BATCHES:
        faces = generator.integers(0, 256, (count, 3, model.image_size, model.image_size), dtype=np.uint8)
        with torch.inference_mode():
            view = model.method.augmentation.test_view(torch.from_numpy(faces))
            expected = [value.numpy() for value in outputs(view)]
        for ours, theirs in zip(expected, exported.run(faces), strict=True):
            differences = np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours))
            largest = max(largest, float(differences.max(initial=0.0, where=np.isfinite(differences))))
            if not np.isfinite(theirs).all():
                return float("inf")
    return largest


class OnnxModel(Model):
    """An exported file, run by onnxruntime.

    Args:
        path: as written by ``export``.
        device: ``auto`` (a GPU where this onnxruntime has one), ``cpu`` or ``gpu``.

    Raises:
        OnnxError: the file is missing, damaged, or was not written by ``export``.
        ConfigError: onnxruntime is not installed, or has no GPU where one is asked for.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        runtime = _installed("onnxruntime")
        if not path.is_file():
            raise OnnxError(f"{path} is missing; make it with fer-export RUN")
        if path.stat().st_size > MAX_BYTES:
            raise OnnxError(f"{path} is larger than the allowed {MAX_BYTES // 2**20:,} MiB; no export is")
        providers = _providers(device, runtime.get_available_providers())
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        try:
            self.session = runtime.InferenceSession(path.read_bytes(), options, providers=providers)
        except Exception as error:  # onnxruntime's own kinds share no parent but this
            raise OnnxError(f"{path} is no ONNX file that onnxruntime can read: {_first_line(error)}") from error
        try:
            metadata = read_metadata(self.session.get_modelmeta().custom_metadata_map)
            self.has_cam = check_signature(metadata, self.session.get_inputs(), self.session.get_outputs())
        except MetadataError as error:
            raise OnnxError(f"{path} {error}; export the run again") from error
        self._path = path
        self.class_names = metadata.class_names
        self.image_size = metadata.image_size
        self._template = np.array(metadata.template, dtype=np.float64)
        self._augmentation = Augmentation(
            size=metadata.view_size, test_resize=metadata.test_resize, mean=metadata.mean, std=metadata.std
        )

    def face_template(self, detector: FaceDetector) -> Template:
        """Return the template measured when the file was made."""
        return self._template

    def predict(self, faces: Images, *, with_cam: bool = False) -> Prediction:
        logits, *maps = self.run(faces)
        for name, values in zip(("logits", "maps"), (logits, *maps), strict=False):
            if not np.isfinite(values).all():
                raise OnnxError(f"{self._path} gives {name} that are not finite; export the run again")
        probabilities = np.exp(logits - logits.max(1, keepdims=True).astype(np.float64))
        probabilities /= probabilities.sum(1, keepdims=True)
        cam = self._augmentation.on_whole_image(torch.from_numpy(maps[0])).numpy() if with_cam and maps else None
        return Prediction(probabilities.astype(np.float32), cam)

    def run(self, faces: Images) -> list[NDArray[np.float32]]:
        """Logits, and maps where the file gives them, of uint8 faces (B, 3, image_size, image_size)."""
        view = self._augmentation.test_view(torch.from_numpy(faces)).numpy()
        names = ["logits", "cam"] if self.has_cam else ["logits"]
        try:
            outputs: list[NDArray[np.float32]] = self.session.run(names, {"view": view})
        except Exception as error:  # onnxruntime's own kinds share no parent but this
            raise OnnxError(f"{self._path} cannot be run: {_first_line(error)}") from error
        wanted = (len(faces), len(self.class_names))
        sides = range(1, self._augmentation.size + 1)
        if outputs[0].shape != wanted or any(
            maps.shape[:2] != wanted or maps.ndim != 4 or not all(side in sides for side in maps.shape[2:])
            for maps in outputs[1:]
        ):
            shapes = " and ".join(str(output.shape) for output in outputs)
            raise OnnxError(
                f"{self._path} gives outputs of shapes {shapes} for {wanted[0]} faces of {wanted[1]} classes"
            )
        return outputs


def _providers(device: str, available: list[str]) -> list[str]:
    if device not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"--device {device}: choose auto, cpu or gpu")
    gpu = [name for name in ("CUDAExecutionProvider",) if name in available]
    if device == "gpu" and not gpu:
        raise ConfigError("--device gpu: this onnxruntime has none; install onnxruntime-gpu or give --device cpu")
    return ["CPUExecutionProvider"] if device == "cpu" else [*gpu, "CPUExecutionProvider"]


def _installed(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(f'{package} is not installed; get it with pip install "noisy-label-fer[export]"') from error


def _first_line(error: Exception) -> str:
    return visible(f"{type(error).__name__}: {error}".strip().splitlines()[0])
