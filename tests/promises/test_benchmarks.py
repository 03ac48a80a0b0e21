"""Benchmarks run end to end at a small size, and print ratios."""

from __future__ import annotations

import contextlib
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.project import PROJECT

SMALL = ["backbone=tiny", "backbone.width=8", "augment.size=32", "data.reader.train=140", "data.reader.test=70"]
SCRIPTS = sorted((PROJECT / "scripts").glob("bench_*.py"))


Bench = Callable[..., str]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """``bench(script, "--option")`` runs a script in this process, where torch is loaded, and returns its text."""

    def run(script: Path, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(script), *options])
        monkeypatch.syspath_prepend(script.parent)
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_says_what_it_takes(script: Path, bench: Bench) -> None:
    assert f"usage: {script.name}" in bench(script, "--help")


def test_methods_are_timed_beside_cross_entropy(bench: Bench) -> None:
    options = ["--methods", "man", "--steps", "2", "--rounds", "1", "--overrides", *SMALL]
    text = bench(PROJECT / "scripts" / "bench_methods.py", *options)
    assert re.search(r"(?m)^ce +\d+ +1\.00 .*\nman +\d+ +\d+\.\d\d ", text), text


@pytest.mark.slow
def test_many_files_are_measured_from_their_list_to_the_first_epoch(bench: Bench) -> None:
    text = bench(PROJECT / "scripts" / "bench_scaling.py", "--sizes", "--ranks", "--workers", "--files", "140")
    assert re.search(r"(?m)^ +files +list s +hash s .*\n +140( +\d+\.\d){6} ", text), text
