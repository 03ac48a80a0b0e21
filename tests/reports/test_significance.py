"""Comparisons are paired by seed with all else equal, and give no number that the differences do not allow."""

from __future__ import annotations

import csv
import io
import itertools
import math
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.run_folders import write_run

from fer.cli import report
from fer.reports.significance import paired


def compared(
    folder: Path, capsys: pytest.CaptureFixture[str], against: str, *options: str
) -> dict[tuple[str, ...], dict[str, str]]:
    """The compared lines of the CSV report by method, lambda and noise ratio, as far as these are keys."""
    report.main([str(folder), "--against", against, "--metric", "test/acc", "--format", "csv", *options])
    lines = csv.DictReader(io.StringIO(capsys.readouterr().out))
    keys = ("method", "method.lam", "noise.ratio", "backbone")
    return {tuple(line[key] for key in keys if key in line): line for line in lines if line["pairs"]}


@pytest.fixture
def accuracies(tmp_path: Path) -> dict[tuple[str, float], dict[int, float]]:
    """Two methods, two ratios, seeds that overlap only in part; percent by seed."""
    generator = np.random.default_rng(1)
    found: dict[tuple[str, float], dict[int, float]] = {}
    for method, ratio in itertools.product(("ce", "eac"), (0.1, 0.3)):
        for seed in range(5) if method == "ce" else (7, 3, 2, 4, 1):
            accuracy = generator.uniform(0.5, 0.9)
            found.setdefault((method, ratio), {})[seed] = 100 * accuracy
            settings = {"method": method, "noise.ratio": ratio, "seed": seed}
            write_run(tmp_path / f"{method}-{ratio}-{seed}", settings, accuracy=accuracy)
    return found


@pytest.mark.parametrize("against", ["ce", "method=ce"])
def test_differences_are_paired_by_seed(
    against: str,
    accuracies: dict[tuple[str, float], dict[int, float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = compared(tmp_path, capsys, against)
    assert lines.keys() == {("eac", "0.1"), ("eac", "0.3")}
    for ratio in (0.1, 0.3):
        ours, baseline = ([accuracies[method, ratio][seed] for seed in (1, 2, 3, 4)] for method in ("eac", "ce"))
        line, expected = lines["eac", str(ratio)], stats.ttest_rel(ours, baseline)
        assert float(line["p"]) == pytest.approx(expected.pvalue)
        assert (line["pairs"], line["remark"]) == ("4", "")
        # By hand: mean ± t(0.975; n - 1) * sd / sqrt(n).
        differences = np.subtract(ours, baseline)
        half = stats.t.ppf(0.975, 3) * differences.std(ddof=1) / math.sqrt(4)
        numbers = [float(line[name]) for name in ("difference", "ci_low", "ci_high")]
        assert numbers == pytest.approx([differences.mean(), differences.mean() - half, differences.mean() + half])


def test_wilcoxon_is_exact_and_says_what_it_could_reach_at_best(
    accuracies: dict[tuple[str, float], dict[int, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = compared(tmp_path, capsys, "ce", "--test", "wilcoxon")["eac", "0.3"]
    differences = [accuracies["eac", 0.3][seed] - accuracies["ce", 0.3][seed] for seed in (1, 2, 3, 4)]
    ranks = stats.rankdata(np.abs(differences))
    observed = abs(np.dot(ranks, np.sign(differences)))
    signs = itertools.product((-1, 1), repeat=4)
    by_hand = np.mean([abs(np.dot(ranks, sign)) >= observed for sign in signs])
    assert float(line["p"]) == pytest.approx(by_hand)
    assert line["remark"] == "least p possible 0.125"


def test_the_printed_comparison_names_test_correction_and_baseline(
    accuracies: dict[tuple[str, float], dict[int, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.main([str(tmp_path), "--against", "ce"])
    printed = capsys.readouterr().out
    assert "Differences from ce, percentage points, paired by seed, paired t-test" in printed
    assert "not corrected" in printed and "significan" not in printed
    lines = [line for line in printed.partition("Differences")[2].splitlines() if line.startswith("| eac")]
    assert {line.split("|")[-7].partition(",")[0].strip() for line in lines} == {"accuracy", "mean class accuracy"}


def test_a_key_within_a_method_can_be_the_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lam, seed in itertools.product((0.0, 1.0, 5.0), range(3)):
        write_run(tmp_path / f"{lam}{seed}", {"method.lam": lam, "seed": seed}, accuracy=0.5 + lam / 100 + seed / 10)
    write_run(tmp_path / "ce", {"method": "ce"})
    lines = compared(tmp_path, capsys, "method.lam=0")
    assert {place: line["pairs"] for place, line in lines.items()} == {
        ("eac", "1.0"): "3", ("eac", "5.0"): "3", ("ce", ""): "0"
    }  # fmt: skip
    assert [float(lines["eac", lam]["difference"]) for lam in ("1.0", "5.0")] == pytest.approx([1, 5])
    assert lines["ce", ""]["remark"] == "no baseline run with all else equal"


def test_an_ambiguous_baseline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for settings in ({"method.lam": 1.0}, {"method.lam": 5.0}, {"method": "ce"}):
        write_run(tmp_path / str(settings), settings)
    with pytest.raises(SystemExit):
        compared(tmp_path, capsys, "eac")
    assert "2 rows that differ below method" in capsys.readouterr().err


def test_what_else_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for backbone, seed in itertools.product(("resnet18", "resnet50"), (0, 1)):
        settings = {"backbone": backbone, "seed": seed, "noise.seed": seed}
        write_run(tmp_path / f"{backbone}{seed}", settings, accuracy=0.5 + seed / 10)
    (line,) = compared(tmp_path, capsys, "backbone=resnet18").values()
    assert line["remark"] == "equal differences: no test; differing too: optim.lr, optim.optimizer.lr"


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
@pytest.mark.parametrize(
    ("differences", "n", "mean", "remark"),
    [
        ([], 0, None, "no common seed"),
        ([1.5], 1, 1.5, "one pair: no test"),
        ([0.0, 0.0, 0.0], 3, 0.0, "equal differences: no test"),
    ],
)
def test_too_little_for_a_test(differences: list[float], n: int, mean: float | None, remark: str, test: Any) -> None:
    assert paired(differences, test) == (n, mean, None, None, remark)


def test_equal_differences_have_no_spread_but_ranks() -> None:
    differences = [0.71 - 0.70, 0.81 - 0.80, 0.61 - 0.60]  # equal but for rounding
    assert paired(differences, "t")[2:] == (None, None, "equal differences: no test")
    assert paired(differences, "wilcoxon")[2:] == (None, 0.25, "least p possible 0.25")


@hypothesis.settings(max_examples=25)
@given(st.lists(st.integers(-300, 300), min_size=2, max_size=12), st.sampled_from(["t", "wilcoxon"]))
def test_exchanging_the_two_sides_changes_the_sign_only(hundredths: list[int], test: Any) -> None:
    differences = [value / 100 for value in hundredths]
    one, other = paired(differences, test), paired([-value for value in differences], test)
    assert one.mean is not None and other.mean is not None
    assert (one.n, one.remark) == (other.n, other.remark) and one.mean == pytest.approx(-other.mean)
    assert (one.p is None) == (other.p is None)
    if one.p is not None and other.p is not None:
        assert one.p == pytest.approx(other.p) and 0 <= one.p <= 1
    if one.interval and other.interval:
        assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
        assert one.interval[0] < one.mean < one.interval[1]
