"""fer-eval RUN: test a finished run again and compare with what it recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fer.config.command_parser import CommandParser, command_parser, whole_number
from fer.config.shared_options import add_device, add_reading, add_run
from fer.files.terminal import log_to_terminal, report_errors, say
from fer.files.visible_text import visible_name
from fer.runs.protocol import protocol_named
from fer.runs.run_folder import RunFolder, RunFolderError

_LARGEST = 1e9
"""Largest recorded metric that is shown; JSON may hold numbers of any length."""


def parser() -> CommandParser:
    """Make the parser of the command line."""
    made = command_parser(
        "fer-eval",
        "Test a finished run again and compare with what it recorded.",
        [
            "fer-eval outputs/demo/eac-tiny-symmetric0.3-lam5/seed0",
            "fer-eval RUN --data-root /data/raf-db --device cpu",
        ],
    )
    add_run(made)
    made.add_argument(
        "--batch-size",
        type=whole_number(1),
        metavar="N",
        help="images tested at once (default: as the run was trained)",
    )
    add_device(made)
    add_reading(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 0; 2 for a mistake on the command line or a folder that holds no finished run."""
    options = parser().read(argv)
    log_to_terminal()
    with report_errors("fer-eval"):
        folder = RunFolder(options.run)
        result = folder.result()

        from fer.training import experiment
        from fer.training.kept_config import ReadingOptions, read_kept_config

        settings = read_kept_config(folder, ReadingOptions.of(options)).on(options.device)
        if options.batch_size is not None:
            settings = settings.changed(batch_size=options.batch_size)
        recorded = _recorded(folder, result, settings.protocol)
        metrics = experiment.evaluate(settings, folder)
    say(f"{'metric':24} {'now':>10} {'recorded':>10}")
    for name, value in metrics.items():
        then = recorded.get(name)
        is_number = isinstance(then, int | float) and abs(then) < _LARGEST
        remark = "" if value == then else "  differs"
        say(f"{visible_name(name):24} {value:10.6f} {then if is_number else math.nan:10.6f}{remark}")


def _recorded(folder: RunFolder, result: Mapping[str, Any], protocol: str) -> Mapping[str, Any]:
    """Pick the metrics that a test of the run's checkpoint should find again."""
    recorded = protocol_named(protocol).metrics_of_checkpoint(result)
    if not isinstance(recorded, Mapping):
        raise RunFolderError(f"{folder.result_file} is no run's result; restore it, or train again")
    return recorded


if __name__ == "__main__":
    main()
