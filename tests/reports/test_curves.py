"""Plots: those that the runs support, valid files with the right curves, the same bytes for the same runs."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from support.run_folders import EPOCHS, write_run

from fer.cli import report
from fer.reports.collect import collect
from fer.reports.figures.curves import draw
from fer.reports.table import arrange

SVG = "{http://www.w3.org/2000/svg}"


def drawn(folder: Path, plots: Path, *options: str) -> set[str]:
    """Draw and say which files there are."""
    report.main([str(folder), "--plots", str(plots), *options])
    return {file.name for file in plots.iterdir()}


def curves(file: Path) -> list[np.ndarray]:
    """Points (N, 2) of every curve of an SVG, y upwards."""
    root = ElementTree.parse(file).getroot()
    assert root.tag == f"{SVG}svg"
    found = []
    for group in root.iter(f"{SVG}g"):
        if group.get("id", "").startswith("curve-"):
            path = group.find(f"{SVG}path")
            assert path is not None
            points = re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", ""))
            found.append(np.array(points, dtype=float) * [1, -1])
    return found


def texts(file: Path) -> str:
    """Join the texts of an SVG, which stand in comments beside the paths of their glyphs."""
    return " ".join(re.findall("<!-- (.*?) -->", file.read_text(encoding="utf-8"), re.DOTALL)).replace("\n", " ")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two methods by three noise ratios by two seeds."""
    for method, ratio, seed in itertools.product(("ce", "eac"), (0.0, 0.1, 0.3), (0, 1)):
        settings = {"method": method, "noise.ratio": ratio, "seed": seed, "noise": "symmetric" if ratio else "none"}
        accuracy = 0.8 - ratio * (1 if method == "ce" else 0.5) + seed / 100
        write_run(tmp_path / "runs" / f"{method}{ratio}{seed}", settings, accuracy=accuracy)
    return tmp_path / "runs"


def test_every_plot_that_a_noise_sweep_supports(sweep: Path, tmp_path: Path) -> None:
    names = ("accuracy_over_noise_ratio", "test_acc_by_epoch", "train_memorized_by_epoch")
    files = drawn(sweep, tmp_path / "plots")
    assert files == {f"{name}{suffix}" for name in names for suffix in (".png", ".svg")}
    for name in names:
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 300
    over = curves(tmp_path / "plots" / "accuracy_over_noise_ratio.svg")
    assert [len(curve) for curve in over] == [3, 3]
    # Ratios 0, 0.1 and 0.3 keep their distances, and cross-entropy falls twice as fast as EAC.
    np.testing.assert_allclose(np.diff(over[0][:, 0]) / np.diff(over[0][:, 0]).sum(), [1 / 3, 2 / 3], atol=1e-3)
    falls = [curve[0, 1] - curve[-1, 1] for curve in over]
    assert falls[0] / falls[1] == pytest.approx(2, rel=1e-3)
    by_epoch = curves(tmp_path / "plots" / "test_acc_by_epoch.svg")
    assert [len(curve) for curve in by_epoch] == [EPOCHS] * 6
    assert len(curves(tmp_path / "plots" / "train_memorized_by_epoch.svg")) == 4


def test_curves_over_ratios_do_not_mix_kinds_of_noise(tmp_path: Path) -> None:
    for noise, ratio in (("symmetric", 0.0), ("symmetric", 0.3), ("pair", 0.1), ("pair", 0.3), ("none", 0.0)):
        write_run(tmp_path / "runs" / f"{noise}{ratio}", {"noise": noise, "noise.ratio": ratio}, accuracy=0.9 - ratio)
    drawn(tmp_path / "runs", tmp_path / "plots")
    assert [len(curve) for curve in curves(tmp_path / "plots" / "accuracy_over_noise_ratio.svg")] == [2, 2]


def test_lambda_is_drawn_where_it_varies(tmp_path: Path) -> None:
    for lam, ratio in itertools.product((0.0, 1.0, 5.0), (0.1, 0.3)):
        settings = {"method.lam": lam, "noise.ratio": ratio}
        write_run(tmp_path / "runs" / f"{lam}{ratio}", settings, accuracy=0.5 + lam / 50)
    write_run(tmp_path / "runs" / "ce", {"method": "ce"})
    assert "accuracy_over_method_lam.svg" in drawn(tmp_path / "runs", tmp_path / "plots")
    found = curves(tmp_path / "plots" / "accuracy_over_method_lam.svg")
    assert len(found) == 2
    assert np.polyfit(*found[0].T, 1, full=True)[1][0] == pytest.approx(0, abs=1e-3)


def test_one_configuration_has_learning_curves_only_and_unfinished_runs_none(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "0", {"protocol": "holdout", "noise.ratio": 0.3})
    assert drawn(tmp_path / "runs", tmp_path / "holdout") == {
        "train_memorized_by_epoch.png", "train_memorized_by_epoch.svg",
    }  # fmt: skip
    write_run(tmp_path / "failed" / "0", {}, state="failed")
    write_run(tmp_path / "failed" / "1", {"noise.ratio": 0.1}, state="incomplete")
    assert drawn(tmp_path / "failed", tmp_path / "none") == set()


def test_the_band_is_one_standard_deviation_to_each_side(tmp_path: Path) -> None:
    for lam, seed in itertools.product((1.0, 5.0), (0, 1, 2)):
        write_run(
            tmp_path / "runs" / f"{lam}{seed}", {"method.lam": lam, "seed": seed}, accuracy=0.5 + lam * seed / 100
        )
    drawn(tmp_path / "runs", tmp_path / "plots")
    root = ElementTree.parse(tmp_path / "plots" / "accuracy_over_method_lam.svg").getroot()
    (band,) = (g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("FillBetween"))
    path = next(band.iter(f"{SVG}path")).get("d", "")
    points = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path), dtype=float)
    heights = [np.ptp(points[np.isclose(points[:, 0], x), 1]) for x in (points[:, 0].min(), points[:, 0].max())]
    (curve,) = curves(tmp_path / "plots" / "accuracy_over_method_lam.svg")
    # The means are 51 and 55, the deviations 1 and 5.
    assert np.array(heights) / abs(curve[1, 1] - curve[0, 1]) == pytest.approx([2 / 4, 10 / 4], rel=1e-3)


def test_the_same_runs_give_the_same_files(sweep: Path, tmp_path: Path) -> None:
    table = arrange(collect([sweep]).runs)
    for one, other in zip(draw(table, tmp_path / "a"), draw(table, tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("protocols", "short", "said"),
    [
        (["last5"], False, "last5: mean of the last 5 epochs"),
        (["last5"], True, "last5: mean of the last 3 to 5 epochs"),
        (["holdout"], False, "holdout: test of the epoch selected on held-out training samples (7)"),
        (["last5", "holdout"], False, "training samples (7); last5: mean of the last 5 epochs"),
    ],
)
def test_curves_say_of_which_epochs_they_are(protocols: list[str], short: bool, said: str, tmp_path: Path) -> None:
    for protocol, ratio in itertools.product(protocols, (0.1, 0.3)):
        folder = write_run(tmp_path / "runs" / f"{protocol}{ratio}", {"protocol": protocol, "noise.ratio": ratio})
        if short and ratio == 0.1:
            result = json.loads((folder / "result.json").read_text())
            (folder / "result.json").write_text(json.dumps({**result, "averaged_epochs": [0, 1, 2]}))
    drawn(tmp_path / "runs", tmp_path / "plots")
    assert said in texts(tmp_path / "plots" / "accuracy_over_noise_ratio.svg")
    during = "mean ± standard deviation over seeds; measured during each of epochs 1 to 7"
    assert during in texts(tmp_path / "plots" / "train_memorized_by_epoch.svg")
    if "last5" in protocols:
        assert "tested after each of epochs 1 to 7" in texts(tmp_path / "plots" / "test_acc_by_epoch.svg")


@pytest.mark.parametrize("name", ["_hidden", "$x_{2$", "a<b>&c"])
def test_any_name_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    for ratio, method in itertools.product((0.1, 0.3), (name, "eac")):
        settings = {"choices.method": method, "noise.ratio": ratio}
        write_run(tmp_path / "runs" / f"{ratio}-{method == name}", settings)
    drawn(tmp_path / "runs", tmp_path / "plots")
    page = (tmp_path / "plots" / "accuracy_over_noise_ratio.svg").read_text(encoding="utf-8")
    # The paths of glyphs stand beside a comment with their text.
    shown = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<!-- {shown} -->" in page
