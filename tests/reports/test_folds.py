"""A cross-validation in reports: its folds are one run of out-of-fold predictions, from which labels are cleaned."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.project import CHOICES

from fer.cli import evaluate, report
from fer.config.compose import compose
from fer.data.label_list import read_label_list
from fer.launch import run_job
from fer.reports.collect import collect
from fer.reports.merged_folds import out_of_fold
from fer.runs.run_folder import RunFolder
from fer.training.finished_run import kept_data, trained
from fer.training.kept_config import ReadingOptions, read_kept_config

FOLDS = ["method=ce", "protocol=folds", "folds=3"]


@pytest.fixture(scope="module")
def folds(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds of cross-entropy, seed 0."""
    root = tmp_path_factory.mktemp("folds")
    for fold in range(3):
        config = compose([*overrides, *FOLDS, f"fold={fold}"])
        run_job.run(config, root / f"ce-fold@{fold}" / "seed0", {**CHOICES, "method": "ce"})
    return root


@pytest.fixture
def copied(folds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folds, tmp_path / "runs"))


def predictions(run: Path, split: str) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="") as stream:
        return [line for line in csv.DictReader(stream) if line["split"] == split]


def test_folds_become_one_run_with_the_metrics_of_all_their_predictions(folds: Path) -> None:
    (run,) = collect([folds]).runs
    lines = [line for fold in sorted(folds.glob("*/seed0")) for line in predictions(fold, "test")]
    assert len(lines) == 60 == len({line["file"] for line in lines})
    right = [line["predicted"] == line["given_label"] for line in lines]
    assert run.state == "done" and "fold" not in run.settings
    assert run.metrics["test/acc"] == pytest.approx(100 * np.mean(right))
    recalls = [
        100 * np.mean([r for r, line in zip(right, lines, strict=True) if line["given_label"] == name])
        for name in ("bar", "disc", "line")
    ]
    assert run.metrics["test/macro_acc"] == pytest.approx(np.mean(recalls))
    shares = [json.loads((fold / "result.json").read_text())["after_training"] for fold in folds.glob("*/seed0")]
    assert run.metrics["memorized"] == pytest.approx(100 * np.mean([share["memorized"] for share in shares]))
    assert [record["epoch"] for record in run.records] == [0, 1, 2]


def test_out_of_fold_predictions_are_in_the_order_of_the_data(folds: Path) -> None:
    (run,) = collect([folds]).runs
    joined = out_of_fold(run)
    data = kept_data(read_kept_config(RunFolder(run.path), ReadingOptions()))
    assert joined.file == tuple(data.table.file_names[row] for row in data.training_split.rows)
    assert np.array_equal(joined.given, data.training_split.given)
    assert np.array_equal(joined.clean, data.training_split.clean)


def test_a_fold_is_the_result_of_the_last_epoch_and_can_be_tested_again(
    folds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folds / "ce-fold@1" / "seed0"
    result = json.loads((run / "result.json").read_text())
    last = json.loads((run / "records.jsonl").read_text().splitlines()[-1])
    assert result["metrics"] == {key: value for key, value in last.items() if key.startswith("test/")}
    lines = predictions(run, "test")
    assert result["metrics"]["test/acc"] == pytest.approx(
        np.mean([line["predicted"] == line["given_label"] for line in lines])
    )
    evaluate.main([str(run)])
    again = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [now for _, now, _ in again] == [recorded for _, _, recorded in again] and len(again) == 7
    assert len(predictions(run, "train")) == 40
    assert trained(RunFolder(run)).network is not None


def test_a_missing_fold_is_named_and_gives_no_number(copied: Path) -> None:
    shutil.rmtree(copied / "ce-fold@1")
    found = collect([copied])
    (run,) = found.runs
    assert run.state == "incomplete" and not run.metrics
    assert any("fold 1 of 3 is not finished" in fault for fault in found.faults)
    with pytest.raises(SystemExit):
        report.main([str(copied), "--suspects", str(copied.parent / "suspects")])


def test_folds_that_do_not_fit_each_other_are_not_merged(copied: Path) -> None:
    file = copied / "ce-fold@2" / "seed0" / "noise.csv"
    file.write_text(file.read_text().replace(",test\n", ",train\n", 1))
    found = collect([copied])
    assert not found.runs[0].metrics and any("do not test every training sample once" in f for f in found.faults)


def test_suspects_come_with_a_list_that_training_reads(
    folds: Path, overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.main([str(folds), "--suspects", str(tmp_path / "clean"), "--format", "markdown"])
    text = capsys.readouterr().out
    (list_file,) = (tmp_path / "clean").glob("labels-*.txt")
    (table,) = (tmp_path / "clean").glob("suspects-*.csv")
    assert [*(tmp_path / "clean").glob("suspects-*.png")]
    with table.open(newline="") as stream:
        suspects = [*csv.DictReader(stream)]
    (run,) = collect([folds]).runs
    joined = out_of_fold(run)
    entries, faults = read_label_list(list_file, joined.class_names)
    assert not faults
    new = {line["file"]: line["predicted"] for line in suspects}
    for entry, file, given in zip(entries, joined.file, joined.given, strict=True):
        assert (entry.name, joined.class_names[entry.label]) == (file, new.get(file, joined.class_names[given]))
    right = sum(line["is_wrong"] == "1" for line in suspects)
    assert f"{len(suspects)} of 60 labels are probably wrong; {right} of these are" in text
    kept = [text for text in overrides if not text.startswith("noise")]
    config = compose([*kept, "noise=file", f"noise.path={list_file}", "method=ce", "trainer.max_epochs=1"])
    run_job.run(config, tmp_path / "cleaned", {**CHOICES, "method": "ce", "noise": "file"})
    trained_on = {line["file"]: line["given_label"] for line in predictions(tmp_path / "cleaned", "train")}
    assert trained_on == {entry.name: joined.class_names[entry.label] for entry in entries}


def test_a_list_edited_by_hand_is_not_overwritten(folds: Path, tmp_path: Path) -> None:
    arguments = [str(folds), "--suspects", str(tmp_path / "clean"), "--output", str(tmp_path / "report.md")]
    report.main(arguments)
    (list_file,) = (tmp_path / "clean").glob("labels-*.txt")
    made = list_file.read_text()
    list_file.write_text(made.replace(" 1\n", " 2\n", 1))
    edited = list_file.read_text()
    with pytest.raises(SystemExit):
        report.main(arguments)
    assert list_file.read_text() == edited
    report.main([*arguments, "--overwrite"])
    assert list_file.read_text() == made


def test_suspects_need_a_cross_validation(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose([*overrides, "method=ce", "trainer.max_epochs=1"])
    run_job.run(config, tmp_path / "runs" / "seed0", {**CHOICES, "method": "ce"})
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "runs"), "--suspects", str(tmp_path / "clean")])
    assert "protocol=folds" in capsys.readouterr().err


def test_a_run_that_claims_any_number_of_folds_is_read_at_once(copied: Path) -> None:
    for config in copied.glob("*/seed0/config.yaml"):
        config.write_text(config.read_text().replace("folds: 3\n", f"folds: {10**15}\n"))
    found = collect([copied])
    assert found.runs[0].state == "incomplete"
    assert any(f"fold 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 of {10**15} is not finished" in fault for fault in found.faults)
