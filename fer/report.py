"""fer-report: finished runs as a table, mean ± standard deviation over seeds; and what one run says at its end."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fer.errors import UserError, reported
from fer.runs import RunFolder

_TEST = {
    "test/acc": "accuracy",
    "test/macro_acc": "mean class accuracy",
    "test/f1": "macro F1",
    "test/ece": "calibration error (ECE)",
}
_PROTOCOL = {
    "last5": "mean of the last {count} epochs",
    "holdout": "test of the epoch selected on held-out training samples",
}
_COLUMNS = {
    "accuracy": ("metrics", "test/acc"),
    "mean class accuracy": ("metrics", "test/macro_acc"),
    "memorised": ("after_training", "memorized"),
    "recovered": ("after_training", "recovered"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 0; 2 where there is no finished run."""
    parser = argparse.ArgumentParser(prog="fer-report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with finished runs in them, at any depth")
    arguments = parser.parse_args(argv)
    with reported("fer-report"):
        print(markdown(arguments.folders))


def markdown(folders: Iterable[Path]) -> str:
    """A Markdown table with a row for each folder of seeds under ``folders``, in percent.

    ``±`` is the standard deviation over seeds with n - 1 in the denominator. Accuracies follow the protocol of the
    runs; memorised and recovered are the shares of the wrong training labels that the finished network predicts as
    labelled and as true.

    Raises:
        UserError: there is no finished run.
    """
    by_configuration: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted({file.resolve() for folder in folders for file in folder.glob("**/result.json")}):
        by_configuration[file.parent.parent].append(RunFolder(file.parent).result())
    if not by_configuration:
        raise UserError(f"no finished run under {', '.join(map(str, folders))}")
    head = ["run", "protocol", "seeds", *_COLUMNS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for path, results in by_configuration.items():
        protocol = "/".join(sorted({result["protocol"] for result in results}))
        cells = [_mean_and_deviation(results, *where) for where in _COLUMNS.values()]
        lines.append("| " + " | ".join([f"{path.parent.name}/{path.name}", protocol, str(len(results)), *cells]) + " |")
    return "\n".join(lines)


def _mean_and_deviation(results: Sequence[Mapping[str, Any]], part: str, key: str) -> str:
    values = [100 * result[part][key] for result in results if key in result[part]]
    if not values:
        return "–"
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def print_run(path: str | Path, result: Mapping[str, Any], console: Console | None = None) -> None:
    """Result table of one run, its folder and the next commands."""
    console = console or Console(highlight=False, soft_wrap=True)
    choices = result["choices"]
    noise = choices["noise"] + ("" if result["noise_ratio"] is None else f" {result['noise_ratio']:g}")
    title = f"{choices['method']} · {choices['backbone']} · {choices['data']} · noise {noise} · seed {result['seed']}"
    console.print(_table(title, result))
    folder = _shown(path)
    console.print(f"Run folder      {folder}", markup=False)
    console.print(f"Watch it        tensorboard --logdir {folder.parent.parent}", markup=False)
    console.print(f"Test it again   fer-eval run={folder}", markup=False)
    if choices["method"] != "ce" and not choices["experiment"] and choices["data"] == "demo":
        console.print("Compare it      fer-train method=ce", markup=False)


def _table(title: str, result: Mapping[str, Any]) -> Table:
    count = len(result.get("averaged_epochs", ()))
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("test, " + _PROTOCOL[result["protocol"]].format(count=count))
    table.add_column("%", justify="right")
    for key, name in _TEST.items():
        table.add_row(name, _percent(result["metrics"][key]))
    recalls = {k.rpartition("/")[2]: v for k, v in result["metrics"].items() if k.startswith("test/recall/")}
    if len(recalls) <= 12:
        table.add_section()
        for name, value in recalls.items():
            table.add_row(f"recall {name}", _percent(value))
    table.add_section()
    if "best_test_epoch_optimistic" in result:
        best = result["best_test_epoch_optimistic"]
        table.add_row(f"best test epoch ({best['epoch'] + 1}; optimistic)", _percent(best["test/acc"]))
    for key, name in (("memorized", "wrong labels memorised"), ("recovered", "wrong labels recovered")):
        if key in result["after_training"]:
            table.add_row(f"{name}, after training", _percent(result["after_training"][key]))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _shown(path: str | Path) -> Path:
    """Relative to the working folder where that is shorter."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
