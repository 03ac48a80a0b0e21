"""Summary printed at the end of a run: its result, its folder and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer.files.visible_text import visible_name
from fer.reports.epochs import epochs_of_results, read_epochs
from fer.reports.wording import METRICS, images_left_out, percent
from fer.runs.run_folder import RunFolder

_RECALL = "test/recall/"
_TEST = ("test/acc", "test/macro_acc", "test/f1", "test/ece")


def print_run(path: str | Path, result: Mapping[str, Any], console: Console | None = None) -> None:
    """Result table of one run, its folder and the next commands."""
    console = console or Console(highlight=False, soft_wrap=True)
    choices = result["choices"]
    noise = choices["noise"] + ("" if result["noise_ratio"] is None else f" {result['noise_ratio']:g}")
    title = f"{choices['method']} · {choices['backbone']} · {choices['data']} · noise {noise} · seed {result['seed']}"
    console.print(_table(title, result))

    def say(line: str) -> None:
        console.print(Text(line))  # a name is not markup and no emoji code

    if skipped := images_left_out(result):
        say(f"Left out        {skipped}")
    folder = visible_name(_shown(path))
    say(f"Run folder      {folder}")
    named = shlex.quote(folder)
    group = shlex.quote(visible_name(_shown(path).parent.parent))
    if any(RunFolder(path).tensorboard_folder.glob("events.*")):
        say(f"Watch it        tensorboard --logdir {group}")
    say(f"Report on it    fer-report {group} --figures {group}/figures")
    say(f"Use it          fer-predict IMAGES --run {named}")
    say(f"Test it again   fer-eval {named}")
    if choices["method"] != "ce" and not choices["experiment"] and choices["data"] == "demo":
        say("Compare it      fer-train method=ce")


def _table(title: str, result: Mapping[str, Any]) -> Table:
    table = Table(title=Text(visible_name(title)), title_justify="left", title_style="bold")
    epochs = epochs_of_results(result["protocol"], [read_epochs(result)])
    table.add_column(epochs if epochs.startswith("test") else f"test, {epochs}")
    table.add_column("%", justify="right")
    for key in _TEST:
        table.add_row(METRICS[key], percent(result["metrics"][key]))
    recalls = {k.removeprefix(_RECALL): v for k, v in result["metrics"].items() if k.startswith(_RECALL)}
    if len(recalls) <= 12:
        table.add_section()
        for name, value in recalls.items():
            table.add_row(Text(f"recall {visible_name(name)}"), percent(value))
    table.add_section()
    if "best_test_epoch_optimistic" in result:
        best = result["best_test_epoch_optimistic"]
        table.add_row(f"best test epoch ({best['epoch'] + 1}; optimistic)", percent(best["test/acc"]))
        table.add_row("its mean class accuracy", percent(best["test/macro_acc"]))
    for key, name in (("memorized", "wrong labels memorized"), ("recovered", "wrong labels recovered")):
        if key in result["after_training"]:
            table.add_row(f"{name}, after training", percent(result["after_training"][key]))
    return table


def _shown(path: str | Path) -> Path:
    """Write a path relative to the working folder if that is shorter."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
