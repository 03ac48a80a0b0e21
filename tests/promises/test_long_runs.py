"""Nothing grows with the number of epochs or of jobs but the records themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as L
import pytest
from support.project import Train
from support.sweeping import Command

pytestmark = pytest.mark.slow

MEBIBYTE = 2**20


class Footprint(NamedTuple):
    """Resources of the machine that a process holds."""

    memory: int
    """Bytes that are resident and its own, not those of mapped files."""
    files: int
    threads: int
    children: int


def footprint(process: int | str) -> Footprint:
    folder = Path("/proc", str(process))
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    children = [(task / "children").read_text().split() for task in (folder / "task").iterdir()]
    return Footprint(
        memory=int(status["RssAnon"].split()[0]) * 1024,
        files=len([*(folder / "fd").iterdir()]),
        threads=int(status["Threads"]),
        children=sum(map(len, children)),
    )


class Measure(L.Callback):
    """Writes down the footprint after every epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with Path(trainer.default_root_dir, "footprints.jsonl").open("a") as stream:
            stream.write(json.dumps(footprint("self")) + "\n")


def assert_flat(footprints: Sequence[Footprint], mebibytes: float) -> None:
    """Compare the last quarter with the second one: what is kept once is there by then."""
    count = len(footprints) // 4
    early, late = footprints[count : 2 * count], footprints[-count:]
    growth = max(f.memory for f in late) - max(f.memory for f in early)
    print(f"memory {early[0].memory / MEBIBYTE:.0f} MiB, growth {growth / MEBIBYTE:.2f} MiB", early[0], late[-1])
    assert growth < mebibytes * MEBIBYTE
    for name in ("files", "threads", "children"):
        assert max(getattr(f, name) for f in late) <= max(getattr(f, name) for f in early), name


@pytest.mark.parametrize("method", ["eac", "dividemix"])
def test_two_hundred_epochs_take_no_more_than_fifty(method: str, train: Train, tmp_path: Path) -> None:
    epochs = 200
    train(
        tmp_path, f"method={method}", f"trainer.max_epochs={epochs}", "num_workers=1",
        "+callbacks.measure._target_=test_long_runs.Measure",
    )  # fmt: skip
    lines = (tmp_path / "footprints.jsonl").read_text().splitlines()
    assert_flat([Footprint(*json.loads(line)) for line in lines], mebibytes=4)
    events = list((tmp_path / "tensorboard").rglob("events.out.*"))
    size = sum(file.stat().st_size for file in events)
    print(f"{len(events)} event files, {size / MEBIBYTE:.1f} MiB")
    assert len(events) <= 2
    assert size < 4 * MEBIBYTE
    assert len([*(tmp_path / "cams").iterdir()]) <= 6


def test_a_hundred_jobs_take_no_more_than_fifty(overrides: list[str], tmp_path: Path) -> None:
    jobs = 100
    command = Command(
        [
            "-m", *overrides, "trainer.max_epochs=1", "train_samples=16", "callbacks=none", f"seed=range({jobs})",
            "output_dir=out",
        ],
        tmp_path,
    )  # fmt: skip
    footprints: list[Footprint] = []
    done = 0
    while command.process.poll() is None:
        now = len([*(tmp_path / "out").rglob("result.json")])
        if now > done:
            done = now
            footprints.append(footprint(command.process.pid))
        time.sleep(0.1)
    assert command.wait() == 0, command.output
    assert f"{jobs} jobs: {jobs} done" in command.output
    assert len(footprints) > 0.8 * jobs
    assert_flat(footprints, mebibytes=8)
