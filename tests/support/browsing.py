"""A real browser, the requests that its pages make, and runs whose names hold markup."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fer.config.compose import compose
from fer.launch import run_job
from fer.runs.run_folder import RunFolder
from support.project import CHOICES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def open_browser(*arguments: str) -> Iterator[Any]:
    """Start Chromium without a window; skip the test where Chromium or Playwright is missing."""
    if CHROMIUM is None:
        pytest.skip("needs chromium, chromium-browser or google-chrome")
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright, without its browsers")
    common = ["--headless", "--no-sandbox", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[*common, *arguments])


@contextmanager
def open_page(browser: Any, asked: list[str], **options: Any) -> Iterator[Any]:
    """Open an empty page in a context of its own, and append the URL of each of its requests to ``asked``."""
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)
    context.on("request", lambda request: asked.append(request.url))
    yield context.new_page()
    context.close()


def train_with_class_names(
    names: Sequence[str], overrides: Sequence[str], shapes: Path, data: Path, folder: Path
) -> RunFolder:
    """Copy the shapes' three classes, in turns, to classes called ``names`` below ``data``; train on them."""
    for split in ("train", "test"):
        for number, name in enumerate(names):
            shutil.copytree(shapes / split / ("bar", "disc", "line")[number % 3], data / split / name)
    run_job.run(compose([*overrides, f"data.root={data}"]), folder, CHOICES)
    return RunFolder(folder)
