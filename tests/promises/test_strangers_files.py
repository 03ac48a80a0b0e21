"""Pipes, devices, bombs and odd names in a stranger's files end in one message, or do no harm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.run_folders import write_run

from fer.cli.report import main as report
from fer.config.instantiate import instantiate_node
from fer.config.known_targets import check_targets
from fer.data.label_list import read_label_list, write_label_list
from fer.data.readers import demo
from fer.data.table import DatasetError
from fer.errors import ConfigError, UserError
from fer.files.atomic import replacing_text
from fer.inference.annotate import draw_faces
from fer.inference.faces import Face
from fer.inference.outputs import ClassifiedFace, CsvFaces
from fer.inference.photographs import Scene
from fer.methods.core.metrics import EvaluationMetrics
from fer.models.weights.weight_file import read as read_weights
from fer.runs.cams import CamRecord, read_cam_records
from fer.runs.output_files import Inputs, check_output
from fer.runs.predictions import read_class_names, read_labels, read_predictions
from fer.runs.run_folder import RunFolder
from fer.training.checkpoints import read_checkpoint
from fer.training.kept_config import ReadingOptions, read_kept_config

HEADER = "split,file,clean_label,given_label,predicted,confidence,p_a,p_b\n"
TEXTS = ["${oc.env:HOME}", r"\${oc.env:HOME}", r"\\${oc.env:HOME}", "${a}", "${", "a\\", "${..a}", "${${a}}"]


def _a_pipe(path: Path) -> None:
    os.mkfifo(path)


def _a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _no_line_end(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


READERS: dict[str, Callable[[RunFolder], object]] = {
    "config.yaml": lambda run: run.config(),
    "stamp.json": lambda run: run.stamp(),
    "predictions.csv": read_class_names,
    "noise.csv": read_labels,
    "checkpoints/last.ckpt": lambda run: read_checkpoint(run.last_checkpoint),
    "cams/epoch-0001.npz": read_cam_records,
}


@pytest.mark.parametrize("put", [_a_pipe, _a_device, _no_line_end])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_or_has_no_end_is_not_waited_for(
    name: str, put: Callable[[Path], None], tmp_path: Path
) -> None:
    if put is _no_line_end and name == "checkpoints/last.ckpt":
        pytest.skip("read piece by piece")
    run = RunFolder(tmp_path)
    (tmp_path / "predictions.csv").write_text(HEADER)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    put(path)
    with pytest.raises(UserError, match=path.name):
        READERS[name](run)
    if name == "predictions.csv":
        (tmp_path / "config.yaml").touch()
        with pytest.raises(UserError, match=path.name):
            read_predictions(run)


def test_lists_weights_and_stamps_of_data_sets_are_files_too(tmp_path: Path) -> None:
    pipe = tmp_path / "demo.json"
    os.mkfifo(pipe)
    assert read_label_list(pipe, ("a", "b"))[1]
    with pytest.raises(OSError, match="pipe"):
        demo.write(tmp_path, train=1, test=1, seed=0)
    with pytest.raises(UserError):
        read_weights(pipe, "tiny")
    pipe.unlink()
    pipe.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match=r"demo\.json: not readable"):
        demo.write(tmp_path, train=1, test=1, seed=0)
    with pytest.raises(DatasetError, match="at most"):
        demo.write(tmp_path / "new", train=10**9, test=1, seed=0)


def test_a_pipe_or_a_device_is_no_place_to_write(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.md"
    os.mkfifo(pipe)
    run = write_run(tmp_path / "run", {})
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(ConfigError, match="device or a pipe"):
            check_output(path, Inputs([]), may_replace=True, remedy="")
    with pytest.raises(SystemExit) as ended:
        report([str(run), "--output", str(pipe)])
    assert ended.value.code == 2 and pipe.is_fifo()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("shape", [lambda text: text, lambda text: {"b": text}, lambda text: [[text]]])
def test_text_reaches_a_constructor_as_it_stands(text: str, shape: Callable[[str], Any]) -> None:
    node = {"_target_": "builtins.dict", "a": "A", "v": shape(text)}
    assert instantiate_node(node, "key") == {"a": "A", "v": shape(text)}
    assert instantiate_node({"_target_": "builtins.dict", "inner": node}, "key") == {
        "inner": {"a": "A", "v": shape(text)}
    }


def test_a_kept_configuration_builds_what_it_should(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no text"):
        check_targets({"method": {"_target_": "fer.methods.ce.CrossEntropy", 5: 1}}, (), Path("config.yaml"))
    run = write_run(tmp_path / "run", {"augment": {}})
    with pytest.raises(ConfigError, match="augment has no _target_"):
        read_kept_config(RunFolder(run), ReadingOptions(cache_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"augment\.size is 1000000000; it must be a whole number of 8 to 2048"):
        instantiate_node({"_target_": "fer.views.augmentation.Augmentation", "size": 10**9}, "augment")


def test_maps_are_finite_and_there(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    def written(count: int, edge: int, value: float) -> None:
        label, cam = np.zeros(count, np.int64), np.full((count, 2, edge, edge), value, np.float16)
        names, image = np.array(["x"] * count, dtype="U4"), np.zeros((count, 3, 4, 4), np.uint8)
        CamRecord(names, names, image, label, label, np.zeros((count, 2), np.float32), cam, cam).write(run, 1)

    for count, edge, value in ((0, 2, 0.0), (1, 0, 0.0), (1, 2, np.nan), (1, 2, np.inf)):
        written(count, edge, value)
        with pytest.raises(UserError, match="epoch-0001"):
            read_cam_records(run)
    written(1, 2, 0.0)
    (run.cam_folder / "epoch-last.npz").touch()
    assert [*read_cam_records(run)] == [1]


def test_names_that_are_no_utf8_are_written_visibly(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff.jpg")
    found = ClassifiedFace(Face((0.0, 0.0, 9.0, 9.0), 1.0, np.zeros((5, 2))), "a", {"a": 1.0, "b": 0.0}, None)
    with replacing_text(tmp_path / "faces.csv") as stream:
        CsvFaces(stream, ("a", "b")).add(Scene(Path(name)), [found])
    write_label_list(tmp_path / "list.txt", [name], np.array([0]))
    for file in ("faces.csv", "list.txt"):
        assert r"bad\udcff.jpg" in (tmp_path / file).read_text(encoding="utf-8")


def test_a_picture_of_one_line_is_drawn_at_once() -> None:
    pixels: NDArray[np.uint8] = np.zeros((1, 1_000_000, 3), np.uint8)
    face = Face((0.0, 0.0, 1_000_000.0, 1.0), 1.0, np.zeros((5, 2)))
    found = ClassifiedFace(face, "a", {"a": 1.0, "b": 0.0}, None)
    picture = draw_faces(pixels, [found], [np.eye(3)[:2]], 8)
    assert isinstance(picture, Image.Image) and picture.size == (1_000_000, 1)


def test_metrics_count_in_float64_whatever_the_precision() -> None:
    import torch

    metrics = EvaluationMetrics(2)
    metrics.calibration = metrics.calibration.half()
    metrics.update(torch.tensor([[0.75, 0.25]]).half(), torch.tensor([0]))
    assert metrics.compute()["ece"] == pytest.approx(0.25)


def test_an_onnx_file_of_more_than_a_gigabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from fer.inference.onnx_model import OnnxError, OnnxModel

    with (tmp_path / "sparse.onnx").open("wb") as stream:
        stream.truncate(3 * 2**30)
    with pytest.raises(OnnxError, match=r"sparse\.onnx is larger than the allowed 1,024 MiB"):
        OnnxModel(tmp_path / "sparse.onnx", "cpu")
