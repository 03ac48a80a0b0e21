"""Where the output of a command goes never changes what it does or how it ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from support.interruptions import assert_same_outcome
from support.project import PROJECT, Train

COMMANDS = {
    "evaluate": ["RUN"],
    "report": ["RUN"],
    "export": ["RUN", "--output", "OUT.onnx"],
    "predict": ["FACE", "--run", "RUN", "--detect", "off", "--device", "cpu", "--output", "OUT.csv"],
    "data": ["stats"],
}
slow = partial(pytest.param, marks=pytest.mark.slow)
ONE_LINE = "| head -n 1; exit ${PIPESTATUS[0]}"


def shell(module: str, arguments: list[str], rest: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project in bash, with something behind it."""
    line = f"{shlex.join([sys.executable, '-m', f'fer.cli.{module}', *arguments])} {rest}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **more}
    command = ["bash", "-c", line]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output") / "run"


@pytest.fixture
def run(finished: Path, train: Train) -> Path:
    if not finished.is_dir():
        train(finished, "callbacks=none", "logger=none")
    return finished


@pytest.mark.parametrize(
    ("rest", "more"),
    [(ONE_LINE, {}), slow(">&-", {}), (">&- 2>&- <&-", {}), ("", {"PYTHONIOENCODING": "ascii"})],
)
def test_a_training_ends_as_on_a_terminal(
    rest: str, more: dict[str, str], run: Path, overrides: list[str], tmp_path: Path
) -> None:
    arguments = [*overrides, "callbacks=none", "logger=none", "output_dir=.", "hydra.run.dir=run"]
    done = shell("train", arguments, rest, tmp_path, **more)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    assert_same_outcome(tmp_path / "run", run)
    assert ("accuracy" in done.stdout) == bool(more), "ASCII shows all of it"


@pytest.mark.slow
@pytest.mark.parametrize("rest", [ONE_LINE, ">&-"])
def test_a_sweep_ends_as_on_a_terminal(rest: str, overrides: list[str], tmp_path: Path) -> None:
    short = ["trainer.max_epochs=1", "callbacks=none", "logger=none", "output_dir=."]
    done = shell("train", ["-m", *overrides, *short, "seed=0,1"], rest, tmp_path)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    assert len([*tmp_path.rglob("result.json")]) == 2


@pytest.mark.parametrize("module", ["report", *map(slow, sorted(COMMANDS.keys() - {"report"}))])
@pytest.mark.parametrize("rest", [ONE_LINE, slow(">&-"), ""])
def test_every_command_ends_as_on_a_terminal(
    module: str, rest: str, run: Path, overrides: list[str], shapes: Path, tmp_path: Path
) -> None:
    if module == "export":
        pytest.importorskip("onnx", reason="needs the extra export")
    face = next((shapes / "test").rglob("*.png"))
    arguments = [word.replace("RUN", str(run)).replace("FACE", str(face)) for word in COMMANDS[module]]
    arguments += overrides[:4] if module == "data" else []
    more = {} if rest else {"PYTHONIOENCODING": "ascii"}
    done = shell(module, arguments, rest, tmp_path, **more)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    assert all((tmp_path / word).is_file() for word in arguments if word.startswith("OUT"))
    assert done.stdout or rest == ">&-" or module in ("predict", "export")
