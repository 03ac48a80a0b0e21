"""fer-export: an ONNX file says what torch says, for any number of faces, and tells all that is needed to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.csv_tables import rows
from support.photographs import Pasted, photograph, train_on_demo_faces
from support.predicting import predict

from fer.errors import ConfigError
from fer.inference.faces import STANDARD_TEMPLATE
from fer.inference.model import RunModel
from fer.inference.onnx_model import OnnxError, OnnxModel, export
from fer.inference.open_model import open_model
from fer.runs.run_folder import RunFolder

# A linear classifier, the mean of two networks, a scaled head, a head of its own.
METHODS = ["eac", "man", "scn", "ran"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    root = tmp_path_factory.mktemp("export")
    return {name: train_on_demo_faces(root / name, root / "cache", f"method={name}") for name in METHODS}


@pytest.fixture(scope="module")
def exported(runs: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "eac.onnx"
    export(RunModel(runs["eac"], "cpu"), path, {"commit": "abc"}, STANDARD_TEMPLATE)
    return path


def images(count: int, size: int = 100) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_the_file_says_what_torch_says(method: str, runs: dict[str, RunFolder], tmp_path: Path) -> None:
    ours = RunModel(runs[method], "cpu")
    assert export(ours, tmp_path / "m.onnx", {}, STANDARD_TEMPLATE) <= 1e-4
    theirs = OnnxModel(tmp_path / "m.onnx", "cpu")
    assert theirs.has_cam == (method in ("eac", "man"))
    assert (theirs.class_names, theirs.image_size) == (ours.class_names, ours.image_size)
    for count in (1, 2, 5, 17):
        expected, found = (model.predict(images(count), with_cam=True) for model in (ours, theirs))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        if theirs.has_cam:
            np.testing.assert_allclose(found.cam, expected.cam, rtol=1e-3, atol=1e-4)
        else:
            assert found.cam is None
    assert theirs.predict(images(2)).cam is None


def test_other_programs_can_use_the_file_by_its_metadata(exported: Path, runs: dict[str, RunFolder]) -> None:
    """An image prepared as the metadata says gives the run's logits, with onnxruntime and NumPy alone."""
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    facts = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["class_names"][0] == "Surprise" and facts["image_size"] == 100 and facts["view_size"] == 32
    assert facts["stamp"] == {"commit": "abc"} and np.shape(facts["template"]) == (5, 2)
    assert [output.name for output in session.get_outputs()] == ["logits", "cam"]
    faces = images(3, size=32)
    mean, std = (np.array(facts[key], dtype=np.float32)[:, None, None] for key in ("mean", "std"))
    logits, cam = session.run(None, {"view": ((faces / 255 - mean) / std).astype(np.float32)})
    method = RunModel(runs["eac"], "cpu").method
    with torch.inference_mode():
        expected = method(torch.from_numpy(faces)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cam.mean((2, 3)) + method.network.classifier.bias.detach().numpy(), logits, atol=1e-4)


def test_photographs_can_be_classified_by_the_file(exported: Path, runs: dict[str, RunFolder], tmp_path: Path) -> None:
    path = tmp_path / "photograph.png"
    photograph([Pasted((200, 200), 200, 0)]).save(path)
    template = {"landmarks": STANDARD_TEMPLATE.tolist()}
    (runs["eac"].path / "face_template.json").write_text(json.dumps(template))
    predict(runs["eac"], path, tmp_path / "run.csv")
    predict(None, path, tmp_path / "file.csv", model=exported, overlays=tmp_path / "pictures")
    for ours, theirs in zip(rows(tmp_path / "run.csv"), rows(tmp_path / "file.csv"), strict=True):
        assert ours["expression"] == theirs["expression"]
        assert float(ours["confidence"]) == pytest.approx(float(theirs["confidence"]), abs=1e-5)
    assert (tmp_path / "pictures" / "photograph.png").is_file()


def test_a_file_that_differs_from_torch_is_not_left_behind(
    runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "kept.onnx"
    target.write_bytes(b"the one before")
    run = OnnxModel.run
    monkeypatch.setattr(OnnxModel, "run", lambda self, faces: [value + 2e-4 for value in run(self, faces)])
    with pytest.raises(OnnxError, match=r"kept\.onnx was not written: onnxruntime's outputs differ"):
        export(RunModel(runs["eac"], "cpu"), target, {}, STANDARD_TEMPLATE)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.onnx"] and target.read_bytes() == b"the one before"


def test_files_that_are_no_export_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(OnnxError, match=r"missing; make it with fer-export"):
        open_model(None, tmp_path / "none.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(OnnxError, match=r"damaged\.onnx is no ONNX file"):
        open_model(None, damaged)
    graph = onnx.load(exported)
    for key in ("class_names", "mean"):
        stripped = onnx.ModelProto()
        stripped.CopyFrom(graph)
        kept = [entry for entry in graph.metadata_props if entry.key != key]
        del stripped.metadata_props[:]
        stripped.metadata_props.extend(kept)
        onnx.save(stripped, tmp_path / "stripped.onnx")
        with pytest.raises(OnnxError, match=rf"stripped\.onnx lacks .*{key}"):
            open_model(None, tmp_path / "stripped.onnx")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ConfigError, match="--device gpu"):
            open_model(None, exported, "gpu")
