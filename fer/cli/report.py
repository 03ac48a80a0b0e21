"""fer-report: runs as tables, comparisons and plots, mean ± standard deviation over seeds, all numbers in percent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fer.config.command_parser import CommandParser, command_parser, file_path, filled_text
from fer.config.shared_options import add_reading
from fer.errors import UserError
from fer.files.atomic import replacing_text
from fer.files.regular import open_regular
from fer.files.terminal import report_errors, say
from fer.files.visible_text import visible_name

_SUFFIXES = {".csv": "csv", ".tex": "latex", ".html": "html", ".md": "markdown"}
_MOST_READ = 20_000_000
_HEADLINE = ["test/acc", "test/macro_acc"]
# Shown by default where each takes one column.
_SIDE_BY_SIDE = [*_HEADLINE, "memorized", "recovered"]


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 0; 2 where there is no run or an option does not fit the runs."""
    arguments = parser().read(argv)
    with report_errors("fer-report"):
        if arguments.output is not None:
            from fer.runs.output_files import Inputs, check_output

            check_output(
                arguments.output,
                Inputs([]),
                may_replace=arguments.overwrite or _is_report(arguments.output),
                remedy="it is no earlier report: choose another --output, or give --overwrite",
            )
        text = report(arguments)
        if arguments.output is None:
            print(text, end="")
            return
        try:
            with replacing_text(arguments.output) as stream:
                stream.write(text)
        except OSError as error:
            raise UserError(f"cannot write {arguments.output} ({error.strerror})") from error


def report(options: argparse.Namespace) -> str:
    """The text of a report; draws the plots on the way."""
    from fer.reports.collect import collect
    from fer.reports.csv_export import long_form
    from fer.reports.document import Document, comparison_grid, notes, results_grid
    from fer.reports.figures.curves import draw
    from fer.reports.formats import RENDERERS
    from fer.reports.published import series_beside
    from fer.reports.significance import compare
    from fer.reports.table import arrange

    found = collect(options.folders, options.where)
    table = arrange(found.runs, options.rows, options.cols)
    metrics = options.metric or (_SIDE_BY_SIDE if len(table.columns) == 1 else _HEADLINE)
    known = {metric for run in table.runs for metric in run.metrics}
    for metric in options.metric:
        if known and metric not in known:
            raise UserError(f"no finished run has the metric {metric!r}; there are {', '.join(sorted(known))}")
    series = series_beside(table, "test/acc") if options.published and "test/acc" in metrics else []
    compared = (options.metric or _HEADLINE) if options.against else []
    comparisons = [one for metric in compared for one in compare(table, metric, options.against, options.test)]
    remarks = notes(table, metrics, series, found.faults, compared=bool(comparisons))
    figures = draw(table, options.plots) if options.plots else []
    if options.figures:
        from fer.reports.figures.all_figures import draw_figures
        from fer.training.kept_config import ReadingOptions

        drawn = draw_figures(table, options.figures, options=ReadingOptions.of(options), shown=options.maps)
        figures, remarks = figures + drawn.files, remarks + drawn.notes
    if options.suspects:
        from fer.reports.label_cleaning import write_suspects
        from fer.training.kept_config import ReadingOptions

        sheets, said = write_suspects(
            table, options.suspects, options=ReadingOptions.of(options), overwrite=options.overwrite
        )
        figures, remarks = figures + sheets, remarks + said
    remarks = [visible_name(remark) for remark in remarks]
    chosen = options.format or _default_format(options.output)
    if chosen == "csv":
        say("\n".join(remarks), to_stderr=True)
        return long_form(table, metrics, series, comparisons)
    grids = [results_grid(table, metrics, series)]
    if comparisons:
        grids.append(comparison_grid(table, comparisons, options.against, options.test))
    return RENDERERS[chosen](Document(grids, remarks, figures))


def _is_report(path: Path) -> bool:
    """Tell whether a file is an earlier report in any format, which a new one may replace."""
    from fer.reports.csv_export import COLUMNS
    from fer.reports.document import FIRST_NOTE

    try:
        with open_regular(path) as stream:
            text = stream.read(_MOST_READ).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return FIRST_NOTE in " ".join(text.split()) or ",".join(COLUMNS) in text.partition("\n")[0]


def _default_format(output: Path | None) -> str:
    if output is not None:
        return _SUFFIXES.get(output.suffix, "markdown")
    return "terminal" if sys.stdout.isatty() else "markdown"


def parser() -> CommandParser:
    """Make the parser of the command line."""
    made = command_parser(
        "fer-report",
        (__doc__ or "").partition(": ")[2].capitalize(),
        [
            "fer-report outputs/raf_db --against ce --output table.tex",
            "fer-report outputs/demo --metric test/acc,memorized --figures figures",
        ],
    )
    add = made.add_argument
    add("folders", nargs="+", type=file_path, metavar="FOLDER", help="folders with runs in them, at any depth")
    add("--rows", type=_keys, default=[], metavar="KEY,…", help="configuration keys or groups (default: what differs)")
    add("--cols", type=_keys, default=[], metavar="KEY,…", help="the same for columns (default: noise and its ratio)")
    add(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE,…",
        help="only these runs; may be repeated (default: all)",
    )
    add(
        "--metric",
        type=_keys,
        default=[],
        metavar="NAME,…",
        help="test/acc, memorized, best (optimistic) … (default: test/acc, test/macro_acc; where each is one column, "
        "others beside them)",
    )
    add(
        "--against",
        type=filled_text,
        metavar="VALUE",
        help="compare with this value of the first row key, or with KEY=VALUE (default: no comparison)",
    )
    add("--test", choices=["t", "wilcoxon"], default="t", help="paired test of --against (default: %(default)s)")
    add(
        "--plots", type=file_path, metavar="DIR", help="draw what the runs support, as PNG and SVG (default: not drawn)"
    )
    add(
        "--figures",
        type=file_path,
        metavar="DIR",
        help="draw maps, features, confusion, calibration and suspect labels (default: not drawn)",
    )
    add(
        "--suspects",
        type=file_path,
        metavar="DIR",
        help="of cross-validations (protocol=folds): write the labels that are probably wrong, their faces, and a "
        "corrected list for noise=file (default: not written)",
    )
    add(
        "--maps",
        choices=["predicted", "given", "true"],
        default="predicted",
        help="for --figures: maps of this label (default: %(default)s)",
    )
    add(
        "--no-published",
        dest="published",
        action="store_false",
        help="without the published numbers of RAF-DB (default: with)",
    )
    add(
        "--format",
        choices=["terminal", *_SUFFIXES.values()],
        help="default: as FILE ends; without --output terminal, or markdown in a pipe",
    )
    add("--output", type=file_path, metavar="FILE", help="write the report there (default: print it)")
    add(
        "--overwrite",
        action="store_true",
        help="--output may replace a file that is no earlier report, --suspects a label list that differs (default: "
        "they are refused)",
    )
    add_reading(made, only_for="--figures and --suspects")
    return made


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


if __name__ == "__main__":
    main()
