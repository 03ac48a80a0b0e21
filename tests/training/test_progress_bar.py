"""Log lines and progress bar of a training run."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from support.project import PROJECT

from fer.training.callbacks.progress_bar import epoch_line

SHARES = {"train/acc": 0.25, "train/memorized": 0.125, "test/acc": 0.5, "test/macro_acc": 0.375}


@pytest.fixture(scope="module")
def on_a_terminal(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that a run of three epochs writes on a terminal of 150 columns."""
    folder = tmp_path_factory.mktemp("terminal")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fer.cli.train", *overrides, "trainer.log_every_n_steps=2", "output_dir=out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "COLUMNS": "150", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux ends a terminal that nobody writes to any more with an error
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written.decode())


def test_a_line_tells_of_an_epoch() -> None:
    losses = {"train/loss": 1.5, "train/loss_cls": 1.0, "train/loss_consistency": 0.1}
    record = {"epoch": 2, **losses, "train/loss_consistency_weighted": 0.5, **SHARES}
    assert epoch_line(record, 60, 3725.4) == (
        "epoch 3/60  loss 1.500  cls 1  lam*consistency 0.5  train/acc 0.250  memorized 0.125  test/acc 0.5000  "
        "macro_acc 0.3750  1:02:05 left"
    )


def test_a_line_shows_the_parts_that_a_method_has() -> None:
    assert epoch_line({"epoch": 0, "train/loss": 1.5}, 2, 61) == "epoch 1/2  loss 1.500  0:01:01 left"
    record = {"epoch": 0, "train/loss": 1.5, "train/loss_first": 0.25, "train/loss_second": 1.25, "train/kept": 0.5}
    assert epoch_line(record, 2, 0) == "epoch 1/2  loss 1.500  first 0.25  second 1.25  0:00:00 left"


def test_every_epoch_leaves_its_line_above_the_bar(on_a_terminal: str) -> None:
    line = (
        r"[\r\n]epoch (\d)/3  loss \d[^\r]*memorized[^\r]*test/acc 0\.\d{4}  macro_acc 0\.\d{4}  "
        r"\d:\d\d:\d\d left *\r\n"
    )
    assert re.findall(line, on_a_terminal) == ["1", "2", "3"], "each once"


def test_the_bar_shows_loss_and_time_left(on_a_terminal: str) -> None:
    bars = re.findall(r"epoch (\d)/3 +━[^\r]* (\d)/4 [\d.]+it/s loss: (\S+) left: (\S+)", on_a_terminal)
    assert {epoch for epoch, *_ in bars} == {"1", "2", "3"}
    first = next(loss for epoch, step, loss, _ in bars if (epoch, step) == ("1", "1"))
    assert first == "-" and all(float(loss) > 0 for epoch, _, loss, _ in bars if epoch != "1")
    assert bars[-1][1:2] + bars[-1][3:] == ("4", "0:00:00")


def test_a_run_ends_with_the_commands_that_come_next(on_a_terminal: str) -> None:
    last = [re.split(" {2,}", line) for line in on_a_terminal.replace("\r", "").splitlines()[-5:]]
    folder = last[0][1]
    assert re.fullmatch(r"out/folder/eac-tiny-symmetric0\.3-lam5.*/seed0", folder)
    assert last == [
        ["Run folder", folder],
        ["Watch it", "tensorboard --logdir out/folder"],
        ["Report on it", "fer-report out/folder --figures out/folder/figures"],
        ["Use it", f"fer-predict IMAGES --run {folder}"],
        ["Test it again", f"fer-eval {folder}"],
    ]
