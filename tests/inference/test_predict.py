"""fer-predict: the faces in photographs, cut out as the training data was, with the probabilities of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.csv_tables import rows
from support.photographs import Pasted, faces, photograph, train_on_demo_faces
from support.predicting import predict
from support.project import PROJECT

from fer.errors import ConfigError, UserError
from fer.inference.faces import FaceDetector, alignment, measured_template
from fer.inference.photographs import find_images
from fer.runs.run_folder import RunFolder, RunFolderError

PLACES = [Pasted((150, 200), 180, 0), Pasted((450, 260), 140, 25)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("predict")
    return train_on_demo_faces(root / "run", root / "cache")


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "a group, (2) [x]=.png"
    photograph(PLACES).save(path)
    return path


def test_every_face_is_found_where_it_is(run: RunFolder, group: Path, tmp_path: Path) -> None:
    outcome = predict(run, group, tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert (outcome.photographs, outcome.faces, outcome.unreadable) == (1, 2, [])
    for row, place in zip(found, PLACES, strict=True):
        left, top, width, height = (float(row[key]) for key in ("left", "top", "width", "height"))
        assert abs(left + width / 2 - place.center[0]) < 0.15 * place.edge
        assert abs(top + height / 2 - place.center[1]) < 0.15 * place.edge
        assert 0.5 * place.edge < height < 1.3 * place.edge
        p = {key: float(value) for key, value in row.items() if key.startswith("p_")}
        assert sum(p.values()) == pytest.approx(1, abs=1e-5) and row["file"] == str(group)
        assert p[f"p_{row['expression']}"] == max(p.values()) == float(row["confidence"])


def test_faces_cut_out_already_get_the_probabilities_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    """The probabilities equal those in the run's predictions to the last digit."""
    root = Path(run.config()["data"]["root"])
    expected = [row for row in rows(run.predictions_file) if row["split"] == "test"]
    images = [next(root.rglob(f"{Path(row['file']).stem}*.jpg")) for row in expected]
    predict(run, images, tmp_path / "out.csv", detect="off")
    found = rows(tmp_path / "out.csv")
    assert len(found) == 20
    for ours, kept in zip(found, expected, strict=True):
        for key in (key for key in kept if key.startswith("p_")):
            assert float(ours[key]) == pytest.approx(float(kept[key]), abs=2e-6)


def test_a_face_is_cut_out_alike_however_large_and_turned() -> None:
    """Its size and turn are undone, as nearly as the detector finds the landmarks of a drawn face."""
    detector = FaceDetector()
    template = measured_template(np.stack([np.asarray(face).transpose(2, 0, 1) for face in faces(25)]), detector)
    assert template is not None
    for edge, degrees in ((200, 0), (120, 0), (160, -20), (600, 15)):
        (face,) = detector(np.asarray(photograph([Pasted((400, 400), edge, degrees)], size=(800, 800))))
        linear = alignment(face.landmarks, template, 100)[:, :2]
        assert np.hypot(*linear[:, 0]) * edge / 100 == pytest.approx(1, abs=0.1)
        assert np.degrees(np.arctan2(linear[1, 0], linear[0, 0])) == pytest.approx(degrees, abs=8)


@settings(max_examples=50)
@given(st.floats(0.05, 20), st.floats(-np.pi, np.pi), st.floats(-500, 500), st.floats(-500, 500), st.integers(16, 224))
def test_alignment_finds_the_similarity_and_nothing_else(
    scale: float, angle: float, right: float, down: float, size: int
) -> None:
    template = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.75], [0.65, 0.75]])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transform = alignment((template * 100) @ turn.T + (right, down), template, size)
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale * size / 100
    np.testing.assert_allclose(transform[:, :2], back, rtol=1e-6, atol=1e-9)
    mirrored = template * (-1, 1)
    assert np.linalg.det(alignment(mirrored, template, size)[:, :2]) >= 0, "never mirrors"


def test_in_strips_and_tiny_pictures_no_face_is_made_up() -> None:
    """OpenCV's detector reads memory outside a picture with a short edge."""
    detector, noise = FaceDetector(), np.random.default_rng(0)
    for _ in range(20):
        for height, width in ((16, 16), (32, 32), (32, 320), (320, 32), (100, 20)):
            assert detector(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)) == []


def test_the_template_is_measured_once_and_kept(run: RunFolder, group: Path, tmp_path: Path) -> None:
    predict(run, group, tmp_path / "a.csv")
    kept = run.path / "face_template.json"
    landmarks = np.array(json.loads(kept.read_text())["landmarks"])
    assert landmarks.shape == (5, 2) and (landmarks > 0.2).all() and (landmarks < 0.8).all()
    moved = landmarks + 0.1
    text = kept.read_text()
    try:
        kept.write_text(json.dumps({"landmarks": moved.tolist()}))
        predict(run, group, tmp_path / "b.csv")
        assert [row["p_Happiness"] for row in rows(tmp_path / "a.csv")] != [
            row["p_Happiness"] for row in rows(tmp_path / "b.csv")
        ]
        kept.write_text('{"landmarks": [[1, 2]]}')
        with pytest.raises(RunFolderError, match=r"face_template\.json does not hold five points"):
            predict(run, group, tmp_path / "c.csv")
    finally:
        kept.write_text(text)


def test_without_the_training_images_faces_are_aligned_to_a_standard(
    group: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = train_on_demo_faces(tmp_path / "run", tmp_path / "cache")
    config = folder.config()
    config["data"]["reader"] = {
        "_target_": "fer.data.readers.raf_db.read",
        "root": str(tmp_path / "gone"),
        "expected": None,
    }
    folder.config_file.write_text(json.dumps(config))
    assert predict(folder, group, tmp_path / "out.csv").faces == 2
    assert "training images are not at hand" in caplog.text
    assert not (folder.path / "face_template.json").exists()


def test_json_says_the_same_and_more(run: RunFolder, group: Path, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.png", tmp_path / "broken.jpg"
    Image.new("RGB", (300, 200), "gray").save(empty)
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    images = [group, empty, broken]
    outcome = predict(run, images, tmp_path / "out.json")
    predict(run, images, tmp_path / "out.csv")
    first, second, third = json.loads((tmp_path / "out.json").read_text())
    assert (outcome.without_face, outcome.unreadable) == (1, [str(broken)])
    assert second == {"file": str(empty), "faces": []}
    assert third["faces"] == [] and "cannot be decoded" in third["error"]
    for face, row in zip(first["faces"], rows(tmp_path / "out.csv"), strict=True):
        assert face["expression"] == row["expression"]
        assert {f"p_{name}": f"{value:.6f}" for name, value in face["probabilities"].items()} == {
            key: value for key, value in row.items() if key.startswith("p_")
        }
    assert "1 could not be read" in outcome.summary() and "no face was found in 1" in outcome.summary()


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"threads": 1}, {"batch_size": 3, "threads": 4}])
def test_batches_and_threads_change_neither_order_nor_result(
    options: dict[str, int], run: RunFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        photograph(PLACES[: number % 3]).save(folder / f"{number}.png")
    assert predict(run, folder, tmp_path / "a.csv").photographs == 5
    predict(run, folder, tmp_path / "b.csv", **options)
    first, second = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    assert [(row["file"], row["face"]) for row in first] == [(row["file"], row["face"]) for row in second]
    for one, other in zip(first, second, strict=True):
        assert float(one["p_Fear"]) == pytest.approx(float(other["p_Fear"]), abs=1e-5)


def test_overlays_change_the_picture_at_the_faces_only(run: RunFolder, group: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / group.name
    twin.parent.mkdir()
    twin.write_bytes(group.read_bytes())
    predict(run, [group, twin], tmp_path / "out.csv", overlays=tmp_path / "pictures")
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [f"{group.stem}-2.png", f"{group.stem}.png"], "namesakes do not overwrite each other"
    before, after = (np.asarray(Image.open(p)).astype(int) for p in (group, tmp_path / "pictures" / names[1]))
    changed = np.abs(before - after).max(2) > 0
    assert before.shape == after.shape
    for place in PLACES:
        x, y = round(place.center[0]), round(place.center[1])
        assert changed[y - 20 : y + 20, x - 20 : x + 20].mean() > 0.9, "the map lies over the face"
    assert not changed[:, 300:330].any() and not changed[-20:].any()
    predict(run, group, tmp_path / "plain.csv", overlays=tmp_path / "frames", cam=False)
    frame = np.asarray(Image.open(next((tmp_path / "frames").iterdir()))).astype(int)
    assert 0 < (np.abs(before - frame).max(2) > 0).mean() < changed.mean() / 2


def test_faces_are_numbered_where_there_are_several(run: RunFolder, tmp_path: Path) -> None:
    for count in (1, 2):
        photograph([PLACES[0], Pasted((450, 260), 140, 0)][:count]).save(tmp_path / f"{count}.png")
    predict(run, [tmp_path / "1.png", tmp_path / "2.png"], tmp_path / "out.csv", overlays=tmp_path / "drawn")
    one, two = (np.asarray(Image.open(tmp_path / "drawn" / f"{count}.png"))[:, :300] for count in (1, 2))
    (lines,) = np.nonzero((one != two).any((1, 2)))
    first, _, third = rows(tmp_path / "out.csv")
    assert [row["face"] for row in (first, third)] == ["1", "2"]
    assert 0 < len(lines) < 60 and lines.max() < float(first["top"]) + 2, "only the caption above the frame"


def test_files_folders_and_patterns_are_found_once(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a.jpg", "b/c/3.webp", "notes.txt", "b/[1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images([str(tmp_path), str(tmp_path / "a.jpg")])]
    assert sorted(found) == ["a.jpg", "b/2.PNG", "b/[1].jpg", "b/c/3.webp"]
    assert len(find_images([f"{tmp_path}/**/*.jpg"])) == 2
    assert find_images([f"{tmp_path}/b/[1].jpg"]) == [tmp_path / "b" / "[1].jpg"], "a file before a pattern"
    for nothing in ("none/*.png", "missing.jpg"):
        with pytest.raises(ConfigError, match=r"(png|jpg) is no file, no folder and no pattern"):
            find_images([str(tmp_path / nothing)])
    (tmp_path / "void").mkdir()
    with pytest.raises(ConfigError, match="a folder without images"):
        find_images([str(tmp_path / "void")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least_score": 1.5}, "least_score is 1.5"),
        ({"device": "tpu"}, "--device tpu"),
        ({"run_folder": None}, "--run RUN, or an exported file"),
        ({"model": Path("x.onnx")}, "not both"),
        ({"run_folder": Path("nowhere")}, "no finished run"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, run: RunFolder, group: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        predict(run, group, tmp_path / "out.csv", **options)
    assert not (tmp_path / "out.csv").exists()


def test_nothing_is_overwritten_unasked(run: RunFolder, group: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.csv"
    output.write_text("precious")
    with pytest.raises(ConfigError, match=r"mine\.csv exists already"):
        predict(run, group, output)
    assert output.read_text() == "precious"
    predict(run, group, output, overwrite=True)
    assert len(rows(output)) == 2
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.json"):
        predict(run, group, tmp_path / "out.txt")


def test_the_command_says_by_its_exit_status_that_photographs_were_left_out(
    run: RunFolder, group: Path, tmp_path: Path
) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fer.cli.predict", "--run", str(run.path), "--device=cpu", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)

    good = call(str(group))
    assert good.returncode == 0, good.stderr
    assert "2 faces in 1 photograph, " in good.stdout and len(rows(tmp_path / "expressions.csv")) == 2
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    partial = call("broken.jpg", "--output=b.csv")
    assert partial.returncode == 1 and "broken.jpg: not an image" in partial.stdout
    refused = call("nothing.jpg", "--output", "c.csv")
    assert refused.returncode == 2 and refused.stderr.startswith("fer-predict: nothing.jpg is no file")
