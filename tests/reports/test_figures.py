"""Figures of finished runs: their numbers, what they say of runs that lack something, any name in them."""

from __future__ import annotations

import csv
import html
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from support.project import CHOICES

from fer.cli import report
from fer.config.compose import compose
from fer.errors import UserError
from fer.launch import run_job
from fer.methods.core.metrics import CALIBRATION_BINS
from fer.reports.collect import collect
from fer.reports.figures.all_figures import draw_figures
from fer.reports.figures.cam_grid import Track, cam_grid, pages
from fer.reports.figures.confusion import confusion_counts, confusion_figure
from fer.reports.figures.features import in_the_plane
from fer.reports.figures.reliability import reliability
from fer.reports.figures.suspects import contradicted, precision, suspect_rows
from fer.reports.table import arrange
from fer.runs.cams import CamRecord, read_cam_records
from fer.runs.predictions import SplitTable, read_class_names, read_predictions
from fer.runs.run_folder import RunFolder, RunFolderError
from fer.views.heatmaps import overlay

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}href"
RUNS = ("ce/seed0", "eac/seed0", "eac/seed1")
CLASSES = ("anger", "fear", "joy")


@pytest.fixture(scope="module")
def trained(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cross-entropy with seed 0 and EAC with seeds 0 and 1."""
    root = tmp_path_factory.mktemp("trained")
    for run in RUNS:
        method, seed = run.split("/seed")
        choices = {**CHOICES, "method": method}
        run_job.run(compose([*overrides, f"method={method}", f"seed={seed}"]), root / run, choices)
    return root


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of them to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture(scope="module")
def drawn(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all figures of the runs."""
    folder = tmp_path_factory.mktemp("drawn")
    report.main([str(trained), "--figures", str(folder), "--output", str(folder / "report.md")])
    return folder


def draw(runs: Path, folder: Path, *options: str) -> tuple[set[str], str]:
    """Draw and give the figures' names and the report."""
    report.main([str(runs), "--figures", str(folder), "--output", str(folder.parent / "report.md"), *options])
    return {file.stem for file in folder.glob("*.svg")}, (folder.parent / "report.md").read_text(encoding="utf-8")


def lines_of(run: Path, split: str) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="") as stream:
        return [line for line in csv.DictReader(stream) if line["split"] == split]


def split_table(clean: list[int], given: list[int], predicted: list[int], confidence: list[float]) -> SplitTable:
    files = tuple(f"{number}.png" for number in range(len(clean)))
    labels = (np.array(column) for column in (clean, given, predicted))
    rest = (1 - np.array(confidence)) / (len(CLASSES) - 1)
    probabilities = np.repeat(rest[:, None], len(CLASSES), axis=1)
    probabilities[np.arange(len(predicted)), predicted] = confidence
    return SplitTable(CLASSES, files, *labels, np.array(confidence), probabilities)


def record_of(clean: list[int], given: list[int], predicted: list[int]) -> CamRecord:
    """Faces with random pictures and maps."""
    generator, count = np.random.default_rng(0), len(clean)
    return CamRecord(
        split=np.array(["train"] * count),
        file=np.array([f"{number}.png" for number in range(count)]),
        image=generator.integers(0, 256, (count, 3, 20, 20), dtype=np.uint8),
        clean=np.array(clean),
        given=np.array(given),
        probabilities=(0.1 + 0.7 * np.eye(3)[predicted]).astype(np.float32),
        cam=generator.normal(size=(count, 3, 4, 4)).astype(np.float16),
        mirrored_cam=generator.normal(size=(count, 3, 4, 4)).astype(np.float16),
    )


def shown_texts(file: Path) -> Iterator[str]:
    """Texts of an SVG, which stand in comments beside the paths of their glyphs."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    for node in ElementTree.parse(file, parser).iter(ElementTree.Comment):
        yield html.unescape(node.text or "").strip()


def test_every_figure_is_drawn_as_png_and_as_svg_with_its_pictures_inside(drawn: Path) -> None:
    names = {
        f"{kind}-{run}" for kind in ("reliability", "features", "suspects") for run in ("ce-seed0", "eac-seed0")
    } | {"confusion-ce-seed0", "confusion-eac-seed0-to-seed1", "cams-predicted-ce-seed0-and-1-more"}  # fmt: skip
    assert {file.stem for file in drawn.glob("*.png")} == {file.stem for file in drawn.glob("*.svg")} == names
    for file in drawn.glob("*.png"):
        with Image.open(file) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 300
    for file in drawn.glob("*.svg"):
        root = ElementTree.parse(file).getroot()
        links = [node.get(XLINK, "") for node in root.iter(f"{SVG}image")]
        assert root.tag == f"{SVG}svg" and all(link.startswith("data:image/png;base64,") for link in links)
        assert links or file.name.startswith(("reliability", "features"))
        said = " ".join(" ".join(shown_texts(file)).split())
        assert "noise symmetric 0.3" in said and "seed" in said
        assert ("after epochs 1 to 3" if file.name.startswith("cams") else "after epoch 3, the last") in said
    assert not [*drawn.glob(".*")]


def test_figures_of_a_selected_epoch_say_which_one_it_is(runs: Path, tmp_path: Path) -> None:
    for seed, selected in (("seed0", 0), ("seed1", 1)):
        run = runs / "eac" / seed
        (run / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace("protocol: last5", "protocol: holdout")
        )
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**result, "selected_epoch": {"epoch": selected}}))
        shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    names, _ = draw(runs, tmp_path / "figures", "--where", "method=eac")
    for name in names - {"cams-predicted-eac-seed0"}:
        said = " ".join(" ".join(shown_texts(tmp_path / "figures" / f"{name}.svg")).split())
        several = name.startswith("confusion")
        epochs = "after epochs 1 to 2, each" if several else "after epoch 1,"
        assert f"{epochs} selected on held-out training samples" in said, name
    assert len(names) == 5


def test_the_confusion_matrix_is_counted_from_the_file(trained: Path, drawn: Path) -> None:
    shares = []
    for run in RUNS[1:]:
        lines = lines_of(trained / run, "test")
        counts = Counter((line["clean_label"], line["predicted"]) for line in lines)
        names = read_class_names(RunFolder(trained / run))
        found = confusion_counts(read_predictions(RunFolder(trained / run))["test"])
        assert found.tolist() == [[counts[true, predicted] for predicted in names] for true in names]
        recalls = [RunFolder(trained / run).result()["last_epoch"][f"test/recall/{name}"] for name in names]
        np.testing.assert_allclose(found.diagonal() / found.sum(1), recalls, rtol=1e-6)
        shares.append(found / found.sum(1, keepdims=True))
    texts = [*shown_texts(drawn / "confusion-eac-seed0-to-seed1.svg")]
    assert Counter(f"{100 * share:.1f}" for share in np.mean(shares, axis=0).flat) <= Counter(texts)
    assert "disc (7)" in texts and "mean of seeds 0, 1" in " ".join(texts)


def test_a_class_without_test_samples_has_no_shares() -> None:
    counts = confusion_counts(split_table([0, 0, 0, 2], [0, 0, 0, 2], [0, 0, 1, 2], [0.9] * 4))
    figure = confusion_figure([counts], CLASSES, "title")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[::2] == ["66.7", "33.3", "0.0", "–", "–", "–", "0.0", "0.0", "100.0"]
    assert texts[1::2] == ["2", "1", "0", "0", "0", "0", "0", "0", "1"]


@pytest.mark.parametrize("run", RUNS)
def test_the_reliability_diagram_has_the_bins_of_the_calibration_error(run: str, trained: Path, drawn: Path) -> None:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for line in lines_of(trained / run, "test"):
        confidence = float(line["confidence"])
        place = min(math.floor(confidence * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        bins.setdefault(place, []).append((confidence, line["predicted"] == line["clean_label"]))
    found = reliability(read_predictions(RunFolder(trained / run))["test"])
    for place in range(CALIBRATION_BINS):
        members = bins.get(place, [])
        assert found.number[place] == len(members)
        if members:
            assert found.confidence[place] == pytest.approx(np.mean([confidence for confidence, _ in members]))
            assert found.accuracy[place] == pytest.approx(np.mean([is_right for _, is_right in members]))
    assert found.ece == pytest.approx(RunFolder(trained / run).result()["last_epoch"]["test/ece"], abs=1e-5)
    if run != "eac/seed1":
        texts = [*shown_texts(drawn / f"reliability-{run.replace('/', '-')}.svg")]
        assert any(f"ECE {100 * found.ece:.1f} %" in text for text in texts)


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    found = reliability(split_table([0, 1], [0, 1], [0, 0], [1.0, 0.0]))
    assert found.number.tolist() == [1, *[0] * (CALIBRATION_BINS - 2), 1] and found.ece == 0


@pytest.mark.parametrize("run", ["ce-seed0", "eac-seed0"])
def test_suspects_are_the_contradicted_labels_by_confidence(run: str, trained: Path, drawn: Path) -> None:
    lines = lines_of(trained / run.replace("-", "/"), "train")
    contradicted = [line for line in lines if line["predicted"] != line["given_label"]]
    expected = sorted(contradicted, key=lambda line: -float(line["confidence"]))
    with (drawn / f"suspects-{run}.csv").open(newline="") as stream:
        found = [*csv.DictReader(stream)]
    assert [[line["file"], line["given"], line["true"]] for line in found] == [
        [line["file"], line["given_label"], line["clean_label"]] for line in expected
    ]
    assert [line["rank"] for line in found] == [str(rank) for rank in range(1, len(expected) + 1)]
    wrong = [line["given"] != line["true"] for line in found]
    assert [line["is_wrong"] == "1" for line in found] == wrong
    said = f"suspects-{run}.csv: {len(found)} of 60 training labels are contradicted; wrong are {sum(wrong)} of these"
    assert said in (drawn / "report.md").read_text(encoding="utf-8")


def test_precision_is_that_of_the_most_confident_ones() -> None:
    count = 120
    confidence = np.linspace(0.99, 0.4, count)[np.random.default_rng(0).permutation(count)]
    rank = (-confidence).argsort().argsort()
    clean = np.where(rank < 70, 1, 0)  # predicted 1 of given 0: wrong are the 70 most confident ones
    train = split_table([*clean, 0], [0] * (count + 1), [1] * count + [0], [*confidence, 1.0])
    order = contradicted(train)
    assert precision(train, order) == (
        "120 of 121 training labels are contradicted; "
        "wrong are 50 of the first 50, 70 of the first 100, 70 of these 120, and 70 in all"
    )
    assert [row[-1] for row in suspect_rows(train, order)] == [1] * 70 + [0] * 50


def test_without_changed_labels_nobody_knows_which_ones_are_wrong() -> None:
    train = split_table([0, 1, 2], [0, 1, 2], [0, 2, 1], [0.9, 0.7, 0.8])
    order = contradicted(train)
    assert [[row[1], *row[-2:]] for row in suspect_rows(train, order)] == [["2.png", "", ""], ["1.png", "", ""]]
    assert "is not known" in precision(train, order)
    agreed = split_table([0], [0], [0], [0.9])
    assert precision(agreed, contradicted(agreed)) == "no training label of 1 is contradicted"


@pytest.mark.parametrize("shown", ["predicted", "given", "true"])
def test_a_grid_lays_the_chosen_label_over_face_and_mirror_image(shown: str) -> None:
    record = record_of(clean=[0, 0, 1], given=[0, 1, 2], predicted=[1, 1, 0])
    figure = cam_grid([Track("name", "title", CLASSES, {0: record, 7: record})], shown)  # type: ignore[arg-type]
    (axes,) = figure.axes
    labels = {"predicted": [1, 1, 0], "given": [0, 1, 2], "true": [0, 0, 1]}[shown]
    pictures = [image.get_array() for image in axes.images[:12]]
    for row, face in enumerate((1, 2, 0)):  # wrong labels come first
        image, label = torch.from_numpy(record.image[[face]]), labels[face]
        for pixels, maps, drawn in (
            (image, record.cam, pictures[2 * row]),
            (image.flip(-1), record.mirrored_cam, pictures[2 * row + 1]),
        ):
            expected = overlay(pixels, torch.from_numpy(maps[[face], label]), color_map="viridis")[0]
            np.testing.assert_array_equal(drawn, expected.permute(1, 2, 0))
    texts = [text.get_text() for text in axes.texts]
    assert {"epoch 1", "epoch 8", "given: fear", "given: joy", "✗ fear 0.80", "○ anger 0.80", "○ fear 0.80"} <= {*texts}
    assert texts.count("✗ fear 0.80") == 2 and not any(text.startswith("✓ fear") for text in texts)


def test_runs_share_a_grid_where_they_show_the_same_faces_with_the_same_labels() -> None:
    record = record_of([0, 0], [0, 1], [0, 1])
    other = replace(record, given=np.array([0, 0]))
    tracks = [Track(str(number), "", CLASSES, {0: kept}) for number, kept in enumerate([record, other, *[record] * 3])]
    assert [[track.name for track in page] for page in pages(tracks)] == [["0", "2", "3"], ["4"], ["1"]]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record, folder = record_of([0, 1], [0, 2], [0, 2]), RunFolder(tmp_path)
    record.write(folder, 11)
    ((epoch, found),) = read_cam_records(folder).items()
    assert epoch == 11 and all(np.array_equal(values, getattr(found, key)) for key, values in vars(record).items())
    replace(record, given=record.given[:1]).write(folder, 12)
    with pytest.raises(RunFolderError, match=r"epoch-0012\.npz cannot be read .*differ in length"):
        read_cam_records(folder)


def test_neighbours_of_features_stay_neighbours_in_the_plane() -> None:
    generator, labels = np.random.default_rng(0), np.repeat([0, 1, 2], 30)
    centers = 5 * generator.normal(size=(3, 16))
    features = (centers[labels] + generator.normal(size=(90, 16))).astype(np.float32)
    plane = in_the_plane(features)
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2) + 1e9 * np.eye(90)
    assert (labels[distances.argmin(1)] == labels).all()
    np.testing.assert_array_equal(in_the_plane(features), plane)
    with pytest.raises(UserError, match="same features"):
        in_the_plane(np.ones((9, 4), dtype=np.float32))


def test_the_same_runs_give_the_same_files(trained: Path, drawn: Path, tmp_path: Path) -> None:
    files = draw_figures(arrange(collect([trained / "ce"]).runs), tmp_path).files
    again = [file for file in files if (drawn / file.name).is_file()]  # its maps shared a figure there
    assert len(again) == len(files) - 2 == 8
    assert all(file.read_bytes() == (drawn / file.name).read_bytes() for file in again)


def test_what_a_run_lacks_is_said_in_a_line_and_the_others_are_drawn(runs: Path, tmp_path: Path, drawn: Path) -> None:
    (runs / "ce" / "seed0" / "predictions.csv").unlink()
    (runs / "eac" / "seed0" / "cams" / "epoch-0001.npz").write_bytes(b"PK and no more")
    (runs / "eac" / "seed1" / "result.json").unlink()
    names, text = draw(runs, tmp_path / "figures")
    assert names == {f"{kind}-eac-seed0" for kind in ("confusion", "reliability", "suspects", "features")}
    said = [line for line in text.splitlines() if line.startswith("- no ")]
    assert len(said) == 3 and f"no figures of 1 unfinished runs, first {runs}/eac/seed1" in said[0]
    assert f"no confusion matrix, reliability diagram, suspect labels, features, CAM grid of {runs}/ce/seed0" in said[1]
    assert "predictions.csv cannot be read" in said[1]
    assert f"no CAM grid of {runs}/eac/seed0" in said[2] and "epoch-0001.npz cannot be read" in said[2]


def test_runs_without_maps_have_the_other_figures(runs: Path, tmp_path: Path) -> None:
    shutil.rmtree(runs / "eac" / "seed1" / "cams")
    names, text = draw(runs, tmp_path / "figures", "--where", "seed=1")
    assert names == {f"{kind}-eac-seed1" for kind in ("confusion", "reliability", "suspects", "features")}
    assert f"no CAM grid of {runs}/eac/seed1: {runs}/eac/seed1/cams holds no maps" in text


def test_data_that_has_moved_is_found_by_data_root(runs: Path, shapes: Path, tmp_path: Path) -> None:
    for run in RUNS:
        config = runs / run / "config.yaml"
        config.write_text(config.read_text().replace(str(shapes), "/nowhere/else"))
    only = ("--where", "method=ce")
    names, text = draw(runs, tmp_path / "without", *only)
    kinds = {name.partition("-")[0] for name in names}
    assert kinds == {"confusion", "reliability", "cams"} and (tmp_path / "without" / "suspects-ce-seed0.csv").is_file()
    assert f"no faces of suspect labels, features of {runs}/ce/seed0: 1 fault in /nowhere/else:" in text
    with_root, text = draw(runs, tmp_path / "with", *only, "--data-root", str(shapes))
    assert {name.partition("-")[0] for name in with_root} == {*kinds, "suspects", "features"} and "- no " not in text


def test_other_data_than_the_run_was_trained_on_is_refused(runs: Path, shapes: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(shapes, tmp_path / "other"))
    Image.new("RGB", (32, 32)).save(other / "train" / "bar" / "000.png")
    names, text = draw(runs, tmp_path / "figures", "--where", "method=ce", "--data-root", str(other))
    assert {name.partition("-")[0] for name in names} == {"confusion", "reliability", "cams"}
    assert "holds a run on other images than those in" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.rsplit(",", 1)[0], "8 fields where the first line has 9"),
        (lambda line: line.replace("test,", "tests,", 1), "the split is 'tests'"),
        (lambda line: line.replace("bar,", "bard,", 1), "there is no class 'bard'"),
        (lambda line: ",".join([*line.split(",")[:5], "1.5", *line.split(",")[6:]]), "a probability is 1.5"),
        (lambda line: ",".join([*line.split(",")[:5], "high", *line.split(",")[6:]]), "could not convert.*'high'"),
    ],
)
def test_a_malformed_line_is_named(change: object, message: str, runs: Path) -> None:
    assert callable(change)
    file = runs / "ce" / "seed0" / "predictions.csv"
    lines = file.read_text().splitlines()
    lines[3] = change(lines[3])
    file.write_text("\n".join(lines))
    with pytest.raises(RunFolderError, match=rf"predictions\.csv, line 4: {message}.*; restore it"):
        read_predictions(RunFolder(file.parent))


def test_predictions_without_a_column_or_a_split_are_refused(runs: Path) -> None:
    file = runs / "ce" / "seed0" / "predictions.csv"
    text = file.read_text()
    file.write_text(text.replace("given_label", "label", 1))
    with pytest.raises(RunFolderError, match="line 1: there is no column given_label"):
        read_predictions(RunFolder(file.parent))
    file.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("train")))
    with pytest.raises(RunFolderError, match="no line of the train split"):
        read_predictions(RunFolder(file.parent))


def test_any_class_name_is_drawn_as_it_is(shapes: Path, overrides: list[str], tmp_path: Path) -> None:
    names = {"bar": "$x_{2$", "disc": "_a%^\\", "line": "a<b>&c"}
    for split in ("train", "test"):
        for name, hostile in names.items():
            shutil.copytree(shapes / split / name, tmp_path / "data" / split / hostile)
    more = [f"data.root={tmp_path / 'data'}", "method=ce", "trainer.max_epochs=1"]
    run_job.run(compose([*overrides, *more]), tmp_path / "runs" / "ce" / "seed0", {**CHOICES, "method": "ce"})
    drawn, _ = draw(tmp_path / "runs", tmp_path / "figures")
    assert len(drawn) == 5
    for kind in ("confusion", "features", "cams-predicted"):
        texts = shown_texts(tmp_path / "figures" / f"{kind}-ce-seed0.svg")
        assert {*names.values()} <= {text.partition(" (")[0] for text in texts}


def test_a_report_without_figures_imports_nothing_heavy(trained: Path) -> None:
    program = f"import sys; from fer.cli import report; report.main([{str(trained)!r}]); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'fer.reports.table'" in done.stdout
    assert not any(f"'{package}'" in done.stdout for package in ("torch", "matplotlib", "sklearn", "lightning"))
