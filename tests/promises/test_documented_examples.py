"""The worked examples of the documentation work as they stand."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import PROJECT

BLOCK = re.compile(r"```(?:python|yaml)\n# ((?:fer|conf)/\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the examples added."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("fer", "conf"):
        shutil.copytree(PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    examples = BLOCK.findall((PROJECT / "docs" / "contributing.md").read_text(encoding="utf-8"))
    assert [name for name, _ in examples] == [
        "fer/methods/focal.py", "conf/method/focal.yaml",
        "fer/models/densenet.py", "conf/backbone/densenet121.yaml",
        "fer/data/readers/csv_table.py", "conf/data/csv_table.yaml",
    ]  # fmt: skip
    for name, text in examples:
        assert not (root / name).exists()
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_method_a_backbone_and_a_data_set_are_a_file_and_a_yaml_each(
    extended: Path, shapes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    images = sorted(data.glob("*/*/*.png"))
    with (data / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "split"])
        writer.writerows([p.relative_to(data), p.parent.name, p.parent.parent.name] for p in images)
    command = [
        sys.executable, "-m", "fer.cli.train", "method=focal", "method.gamma=1.5", "backbone=densenet121",
        "data=csv_table", f"data.root={data}", "data.store_size=32", "augment.size=32", "batch_size=20",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", f"cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "outputs" / "csv_table").glob("focal-densenet121-none-*/seed0/result.json")
    assert "method.gamma" in str(result)
    (data / "train" / "bar" / "000.png").unlink()
    done = subprocess.run(
        [*command, "seed=1"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.search(r"train/bar/000\.png \(labels\.csv, line \d+\): missing", done.stderr)
