"""Metadata of an exported file is checked before it is used."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.project import Train

from fer.inference.faces import STANDARD_TEMPLATE, template_fault
from fer.inference.model import RunModel
from fer.inference.onnx_metadata import MetadataError, check_signature, read_metadata
from fer.inference.onnx_model import OnnxError, OnnxModel, export
from fer.runs.run_folder import RunFolder

GOOD: dict[str, Any] = {
    "class_names": ["a", "b", "c"], "image_size": 32, "view_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
    "template": STANDARD_TEMPLATE.tolist(),
}  # fmt: skip
POINTS = STANDARD_TEMPLATE.tolist()
BAD: list[tuple[str, Any, str]] = [
    ("class_names", ["a", "a", "c"], "stands twice"),
    ("class_names", ["a", "b"], "shape"),
    ("class_names", ["a"], "classes"),
    ("class_names", [], "classes"),
    ("class_names", "abc", "no list"),
    ("class_names", {"a": 1, "b": 2, "c": 3}, "no list"),
    ("class_names", ["a", "b", 3], "name of a class"),
    ("class_names", ["a", "b", ""], "name of a class"),
    ("class_names", ["a", "b", "\u001b[2J"], "name of a class"),
    ("class_names", ["a", "b", "c" * 1000], "name of a class"),
    ("class_names", [f"{n}" for n in range(100_000)], "classes"),
    ("image_size", 30_000, "1 to 2048"),
    ("image_size", 0, "1 to 2048"),
    ("image_size", -1, "1 to 2048"),
    ("image_size", 32.0, "1 to 2048"),
    ("image_size", "32", "1 to 2048"),
    ("image_size", True, "1 to 2048"),
    ("image_size", None, "1 to 2048"),
    ("view_size", 30_000, "1 to 2048"),
    ("view_size", 64, "shape|less than its view_size"),
    ("test_resize", 31, "less than its view_size"),
    ("test_resize", "64", "1 to 2048"),
    ("mean", [float("nan"), 0.5, 0.5], "three numbers|outside"),
    ("mean", [0.5, 0.5], "three numbers"),
    ("mean", [0.5, 0.5, 300.0], "outside"),
    ("mean", 0.5, "three numbers"),
    ("std", [0.0, 0.2, 0.2], "outside"),
    ("std", [-0.2, 0.2, 0.2], "outside"),
    ("std", [float("inf"), 0.2, 0.2], "three numbers|outside"),
    ("std", ["0.2", "0.2", "0.2"], "three numbers"),
    ("template", [[float("nan")] * 2] * 5, "far outside"),
    ("template", [[0.5, 0.5]] * 5, "one place"),
    ("template", [[x, 0.5] for x, _ in POINTS], "one place"),
    ("template", [[1e9 * x, y] for x, y in POINTS], "far outside"),
    ("template", POINTS[:4], "five points"),
    ("template", [x for point in POINTS for x in point], "five points"),
    ("template", "eyes", "numbers|five points"),
    ("template", [[10**400, 0.5]] * 5, "numbers|far outside"),
    ("template", None, "numbers|five points"),
]


@pytest.fixture(scope="module")
def exported_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported") / "model.onnx"


@pytest.fixture
def changed(exported_file: Path, train: Train, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a real export with other metadata."""
    onnx = pytest.importorskip("onnx")
    if not exported_file.is_file():
        train(tmp_path / "run", "trainer.max_epochs=1", "callbacks=none", "logger=none")
        export(RunModel(RunFolder(tmp_path / "run"), "cpu"), exported_file, {}, STANDARD_TEMPLATE)

    def change(key: str, text: str | None) -> Path:
        model = onnx.load(exported_file)
        kept = {entry.key: entry.value for entry in model.metadata_props}
        kept = {**kept, key: text} if text is not None else {k: v for k, v in kept.items() if k != key}
        onnx.helper.set_model_props(model, kept)
        onnx.save(model, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return change


@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_metadata_that_no_export_writes_is_refused_at_once(
    key: str, value: Any, message: str, changed: Callable[..., Path]
) -> None:
    file = changed(key, json.dumps(value))
    started = time.process_time()
    with pytest.raises(OnnxError, match=message) as caught:
        OnnxModel(file, "cpu")
    assert time.process_time() - started < 60
    assert "changed.onnx" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [None, "", "{", "[" * 100_000, "[" + "1," * 2_000_000 + "1]", "NaN", "9" * 5000])
def test_metadata_that_is_missing_or_no_json_is_refused(text: str | None, changed: Callable[..., Path]) -> None:
    for key in ("class_names", "template", "image_size"):
        with pytest.raises(OnnxError, match=rf"changed\.onnx (lacks|has) .*{key}|1 to 2048|template"):
            OnnxModel(changed(key, text), "cpu")


def test_an_honest_file_is_read(changed: Callable[..., Path]) -> None:
    model = OnnxModel(changed("stamp", "{}"), "cpu")
    assert model.predict(np.zeros((2, 3, 32, 32), np.uint8)).probabilities.shape == (2, 3)


def tensor(name: str, shape: list[Any], kind: str = "tensor(float)") -> SimpleNamespace:
    return SimpleNamespace(name=name, shape=shape, type=kind)


VIEW, LOGITS, CAM = tensor("view", ["b", 3, 32, 32]), tensor("logits", ["b", 3]), tensor("cam", ["b", 3, 4, 4])


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([], [LOGITS]),
        ([VIEW, VIEW], [LOGITS]),
        ([tensor("image", ["b", 3, 32, 32])], [LOGITS]),
        ([tensor("view", ["b", 3, 32, 32], "tensor(uint8)")], [LOGITS]),
        ([tensor("view", ["b", 1, 32, 32])], [LOGITS]),
        ([tensor("view", [1, 3, 32, 32])], [LOGITS]),
        ([tensor("view", ["b", 3, 30000, 30000])], [LOGITS]),
        ([tensor("view", ["b", 3, "h", "w"])], [LOGITS]),
        ([tensor("view", [])], [LOGITS]),
        ([VIEW], []),
        ([VIEW], [CAM, LOGITS]),
        ([VIEW], [LOGITS, CAM, CAM]),
        ([VIEW], [tensor("logits", ["b", 4])]),
        ([VIEW], [tensor("logits", ["b", "k"])]),
        ([VIEW], [LOGITS, tensor("cam", ["b", 2, 4, 4])]),
        ([VIEW], [LOGITS, tensor("cam", ["b", 3, 4])]),
        ([VIEW], [LOGITS, tensor("cam", ["b", 3, 4000, 4])]),
        ([VIEW], [tensor("lo\x1bgits", ["b", 3])]),
    ],
)
def test_another_signature_is_refused(inputs: list[Any], outputs: list[Any]) -> None:
    metadata = read_metadata({key: json.dumps(value) for key, value in GOOD.items()})
    with pytest.raises(MetadataError) as caught:
        check_signature(metadata, inputs, outputs)
    assert str(caught.value).isprintable()


def test_the_signature_of_an_export_is_accepted() -> None:
    metadata = read_metadata({key: json.dumps(value) for key, value in GOOD.items()})
    assert check_signature(metadata, [VIEW], [LOGITS, CAM]) and not check_signature(metadata, [VIEW], [LOGITS])


def test_outputs_that_are_not_finite_are_told(changed: Callable[..., Path], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(changed("stamp", "{}"))
    weights = next(w for w in model.graph.initializer if list(w.dims) == [3])
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), weights.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(OnnxError, match=r"nan\.onnx gives logits that are not finite"):
        OnnxModel(tmp_path / "nan.onnx", "cpu").predict(np.zeros((1, 3, 32, 32), np.uint8))


@given(st.recursive(st.none() | st.floats() | st.integers() | st.text(max_size=3), st.lists, max_leaves=12))
def test_anything_may_stand_where_a_template_should(value: Any) -> None:
    assert template_fault(value) is not None
    assert template_fault(POINTS) is None
