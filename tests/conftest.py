"""Fixtures shared by the suite."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from support.disk_limits import lift_limit
from support.project import CHOICES, PROJECT, Train
from support.ranks import Ranks
from xdist.scheduler import LoadScopeScheduling

from fer.config.compose import compose
from fer.launch import run_job

USE_RANKS = ("test_batch_norm.py", "test_distributed.py", "test_methods_on_ranks.py")
START_ONCE = ("test_demo_strangers.py", "test_figures.py", "test_markup.py", "test_sweep.py", "test_web_demo.py")
FOR_PROCESSES = "COVERAGE_PROCESS_CONFIG"
"""Makes coverage trace processes that start."""

# The same examples every time: a failure is then always the change's own. No deadlines: machines differ.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


class KeepTogether(LoadScopeScheduling):
    """Runs tests that use the same ranks, server, sweep or runs in one process of the suite, which starts them once."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0]).name
        if file in USE_RANKS:
            return "ranks"
        return file if file in START_ONCE else nodeid


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        os.environ.pop(FOR_PROCESSES, None)  # else the suite's processes would be traced once more, and always


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Trace only tests marked ``measured``, and the processes that they start, because tracing costs time."""
    if not item.config.getoption("cov_source", None) or item.get_closest_marker("measured"):
        return (yield)
    tracers, for_processes = (sys.gettrace(), threading.gettrace()), os.environ.pop(FOR_PROCESSES, None)
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracers[0])
        threading.settrace(tracers[1])  # type: ignore[arg-type]
        if for_processes is not None:
            os.environ[FOR_PROCESSES] = for_processes


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> KeepTogether | None:
    # Not the mark xdist_group, which does nothing with xdist 3.8 and pytest 9.2.
    return KeepTogether(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def one_thread_per_worker() -> None:
    """The suite runs in parallel processes; more threads than cores would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_counts() -> None:
    """A suite that a shell has started in the background ignores Ctrl-C, and so would the commands that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data that is not part of the project; a test that asks for it is skipped where it is absent."""
    folder = Path(os.environ.get("FER_SHARED", PROJECT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the data folder in {folder} (set FER_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-folder data set of 60 training and 21 test images in three classes that a small network can tell."""
    root = tmp_path_factory.mktemp("shapes")
    generator = np.random.default_rng(0)
    draw = {"bar": ImageDraw.ImageDraw.rectangle, "disc": ImageDraw.ImageDraw.ellipse, "line": ImageDraw.ImageDraw.line}
    for split, count in (("train", 20), ("test", 7)):
        for name, shape in draw.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 90, (32, 32, 3), dtype=np.uint8))
                left, top = (int(v) for v in generator.integers(2, 12, 2))
                color = tuple(int(v) for v in generator.integers(150, 255, 3))
                shape(ImageDraw.Draw(image), (left, top, left + 15, top + 15), fill=color)
                image.save(root / split / name / f"{number:03}.png")
    return root


@pytest.fixture(scope="session")
def overrides(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training of a second on the CPU: three epochs of EAC with wrong labels."""
    return [
        "data=folder",
        f"data.root={shapes}",
        "data.store_size=32",
        f"cache_dir={tmp_path_factory.getbasetemp() / 'cache'}",
        "backbone=tiny",
        "backbone.width=8",
        "augment.size=32",
        "noise=symmetric",
        "noise.ratio=0.3",
        "batch_size=16",
        "trainer.max_epochs=3",
        f"trainer.accelerator={os.environ.get('FER_TEST_ACCELERATOR', 'cpu')}",
    ]


@pytest.fixture(scope="session")
def ranks() -> Iterator[dict[int, Ranks]]:
    """``ranks[2](function, *arguments)`` calls a function in two processes that work together; there are 2 and 3."""
    groups = {count: Ranks(count) for count in (2, 3)}
    yield groups
    for group in groups.values():
        group.stop()


@pytest.fixture
def unlimited() -> Iterator[None]:
    """Lift the limit on the size of files after the test."""
    yield
    lift_limit()


@pytest.fixture
def train(overrides: list[str]) -> Train:
    """``train(folder, "seed=1", ...)`` trains in this process as ``fer-train`` would and returns the result."""

    def run(folder: Path, *more: str) -> dict[str, Any]:
        return run_job.run(compose([*overrides, *more]), folder, CHOICES)

    return run


def slurm_answers() -> bool:
    try:
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture
def launcher(request: pytest.FixtureRequest) -> str:
    """The override that chooses a launcher; the test is skipped where there is none such."""
    name = str(request.param)
    if name == "cpus" and not (importlib.util.find_spec("ray") and importlib.util.find_spec("hydra_plugins")):
        pytest.skip('needs Ray: pip install "noisy-label-fer[sweep]"')
    if name == "slurm" and not slurm_answers():
        start = Path(os.environ.get("FER_SHARED", PROJECT.parent / "shared")) / "tools" / "slurm-up"
        if os.geteuid() == 0 and start.is_file():
            subprocess.run([start], timeout=300, check=False)
        if not slurm_answers():
            pytest.skip("needs SLURM: sinfo does not answer")
    return f"hydra/launcher={name}"
