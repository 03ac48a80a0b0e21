"""Conclusions of a method about its training labels stand in their rows of ``predictions.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from support.project import CHOICES

from fer.config.compose import compose
from fer.launch import run_job
from fer.runs.predictions import read_class_names, read_predictions
from fer.runs.run_folder import RunFolder

COLUMNS = {
    "scn": {"relabeled_label"},
    "elr": {"target_label", "target_confidence"},
    "lde": {"target_label", "target_confidence"},
    "dividemix": {"clean_by_first", "clean_by_second"},
    "resup": {"clean_by_first", "clean_by_second"},
    "man": {"networks_that_agree"},
    "ce": set(),
}


@pytest.mark.parametrize("method", COLUMNS)
def test_training_rows_have_it_and_test_rows_are_empty(method: str, overrides: list[str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    short = [f"method={method}", "trainer.max_epochs=2", "callbacks=none", "logger=none"]
    if method in ("dividemix", "man"):
        short.append("method.warm_up=1")
    run_job.run(compose([*overrides, *short]), folder.path, {**CHOICES, "method": method})
    with folder.predictions_file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    plain = {"split", "file", "clean_label", "given_label", "predicted", "confidence", "importance"}
    columns = {name for name in rows[0] if name not in plain and not name.startswith("p_")}
    assert columns == COLUMNS[method]
    names = read_class_names(folder)
    for row in rows:
        for name in columns:
            if row["split"] == "test":
                assert row[name] == ""
            elif name.endswith("_label"):
                assert row[name] in names
            else:
                assert 0 <= float(row[name]) <= 2
    state = torch.load(folder.last_checkpoint, weights_only=True)["state_dict"]
    train = [row for row in rows if row["split"] == "train"]
    if method == "scn":
        assert [names.index(row["relabeled_label"]) for row in train] == state["labels"].tolist()
    if "target_label" in columns:
        assert [names.index(row["target_label"]) for row in train] == state["targets"].argmax(1).tolist()
    assert len(read_predictions(folder)["train"]) == len(train)
