"""``method.erase=released`` in whole runs: decided by the labels, named in the result, the same for every reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.interruptions import PowerCut, assert_same_outcome
from support.project import CHOICES
from support.terminations import terminated

from fer.config.compose import compose
from fer.config.instantiate import instantiate_node
from fer.data.label_list import write_label_list
from fer.launch import run_job
from fer.launch.run_job import resolve
from fer.runs.run_folder import RunFolder
from fer.training import experiment
from fer.training.finished_run import trained
from fer.training.kept_config import ReadingOptions, read_kept_config


def train(folder: Path, overrides: list[str], *more: str) -> dict[str, Any]:
    """Train as the fixture of that name does, without its noise."""
    values = [value for value in overrides if not value.startswith("noise")]
    return run_job.run(compose([*values, "method.erase=released", *more]), folder, CHOICES)  # type: ignore[return-value]


def decided(folder: Path, result: dict[str, Any]) -> str:
    """Return the variant that the result names, after a look at the log and at whatever builds the method anew."""
    run = RunFolder(folder)
    erase = str(result["decided"]["method.erase"])
    assert run.result()["decided"] == {"method.erase": erase}
    assert f"method.erase is {erase} here" in run.log_file.read_text()
    assert trained(run).decided == {"method.erase": erase}
    config = read_kept_config(run, ReadingOptions(cache_dir=run.config()["cache_dir"]))
    assert experiment.build(config, run, for_training=False).method.decided == {"method.erase": erase}
    return erase


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (["noise=symmetric", "noise.ratio=0.3"], "independent"),
        (["noise=symmetric", "noise.ratio=0"], "shared"),
        (["noise=none"], "shared"),
    ],
)
def test_the_labels_decide(noise: list[str], expected: str, overrides: list[str], tmp_path: Path) -> None:
    assert decided(tmp_path, train(tmp_path, overrides, "trainer.max_epochs=1", *noise)) == expected
    assert (tmp_path / "train.log").read_text().count("method.erase is") == 1


@pytest.mark.parametrize(("changed", "expected"), [(0, "shared"), (1, "independent")])
def test_a_list_is_clean_by_its_labels_and_not_by_its_name(
    changed: int, expected: str, overrides: list[str], tmp_path: Path
) -> None:
    config = resolve(compose([value for value in overrides if not value.startswith("noise")]), {})
    table = instantiate_node(config["data"]["reader"])
    labels = table.labels[table.train].copy()
    labels[:changed] = (labels[:changed] + 1) % table.num_classes
    write_label_list(tmp_path / "mine.txt", [table.file_names[row] for row in table.train], labels)
    noise = ["noise=file", f"noise.path={tmp_path / 'mine.txt'}", "trainer.max_epochs=1"]
    assert decided(tmp_path / "run", train(tmp_path / "run", overrides, *noise)) == expected


def test_a_resumed_run_goes_on_with_the_same_views(overrides: list[str], tmp_path: Path) -> None:
    noise = ["noise=symmetric", "noise.ratio=0.3"]
    whole = train(tmp_path / "whole", overrides, *noise)
    with pytest.raises(SystemExit):
        train(tmp_path / "cut", overrides, *noise, *terminated(1, 1))
    cut = "+callbacks.cut._target_=support.interruptions.CutPower"
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", overrides, *noise, cut, "+callbacks.cut.epoch=2")
    again = train(tmp_path / "cut", overrides, *noise)
    assert again["decided"] == whole["decided"] == {"method.erase": "independent"}
    assert_same_outcome(tmp_path / "cut", tmp_path / "whole")


def test_another_choice_is_no_decision(overrides: list[str], tmp_path: Path) -> None:
    result = train(tmp_path, overrides, "method.erase=independent", "trainer.max_epochs=1")
    assert "decided" not in result and "method.erase" not in (tmp_path / "train.log").read_text()
