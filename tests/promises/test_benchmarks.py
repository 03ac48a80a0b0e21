"""Benchmarks run end to end at a small size, and print ratios."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from support.project import PROJECT

SMALL = ["backbone=tiny", "backbone.width=8", "augment.size=32", "data.reader.train=140", "data.reader.test=70"]


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        (
            "bench_methods.py",
            ["--methods", "man", "--steps", "2", "--rounds", "1", "--overrides", *SMALL],
            r"(?m)^ce +\d+ +1\.00 .*\nman +\d+ +\d+\.\d\d ",
        ),
        ("bench_overhead.py", ["--help"], "usage: bench_overhead.py"),
        ("bench_pictures.py", ["--help"], "usage: bench_pictures.py"),
        ("bench_scaling.py", ["--help"], "usage: bench_scaling.py"),
        ("bench_step.py", ["--help"], "usage: bench_step.py"),
        ("bench_store.py", ["--help"], "usage: bench_store.py"),
        ("bench_sweep.py", ["--help"], "usage: bench_sweep.py"),
    ],
)
def test_a_benchmark_runs(script: str, arguments: list[str], expected: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, str(PROJECT / "scripts" / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout
