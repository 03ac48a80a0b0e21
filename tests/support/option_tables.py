"""Tables of the options of every program but fer-train, made from their parsers for ``docs/command-line.md``.

``PYTHONPATH=tests python -m support.option_tables`` writes them there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from fer.cli import data, demo_app, evaluate, export, predict, report
from fer.config.command_parser import CommandParser
from support.project import PROJECT

PARSERS: dict[str, CommandParser] = {
    made.prog: made for made in (module.parser() for module in (data, report, evaluate, predict, export, demo_app))
}
PAGE = PROJECT / "docs" / "command-line.md"
FIRST = "<!-- Written by support.option_tables. -->"


def options(parser: CommandParser) -> Iterator[argparse.Action]:
    """List the options of a program, without ``--help``, ``--version`` and verbs."""
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._VersionAction | argparse._SubParsersAction):
            yield action


def tables() -> str:
    """A section for every program, and for every verb of ``fer-data``."""
    return "\n".join(
        part for parser in PARSERS.values() for one in (parser, *parser._verbs()) for part in _section(one)
    )


def _section(parser: CommandParser) -> Iterator[str]:
    yield f"{'#' * (3 + parser.prog.count(' '))} {parser.prog}\n"
    yield f"{parser.description}\n"
    if parser.epilog:
        yield "\n".join(["```bash", *(line.strip() for line in parser.epilog.splitlines()[1:]), "```\n"])
    rows = [f"| `{_name(action)}` | {_help(parser, action)} |" for action in options(parser)]
    if rows:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows, ""])


def _name(action: argparse.Action) -> str:
    value = action.metavar or "{" + ",".join(action.choices or ()) + "}"
    return " ".join([*action.option_strings, *([] if action.nargs == 0 else [str(value)])])


def _help(parser: CommandParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8").partition(FIRST)[0]
    PAGE.write_text(f"{text}{FIRST}\n\n{tables().rstrip()}\n", encoding="utf-8")
