"""Command lines of the programs other than ``fer-train``: mistakes told in one line, and kinds of values.

A mistake ends the program with exit status 2 before anything is read. ``fer-train`` and the overrides of ``fer-data``
are read by Hydra, see ``fer.config.hydra_errors``.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

from fer.config.arguments import version_line
from fer.files.terminal import endure_output
from fer.files.visible_text import visible_name

_ABSENT = re.compile("(?:the following|one of the) arguments (?:are required: )?(.*?)(?: is required)?")
_SETTING = re.compile(r"([a-z][a-z_.]*)=(.*)", re.DOTALL)
_ALIKE = 0.8
"""Similarity from which a key is taken for the name of an option."""


class CommandParser(argparse.ArgumentParser):
    """Parser whose mistakes are one line, which names the option perhaps meant; options are never abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def read(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse a command line, in which options and other words may stand in any order.

        ``data.root=DIR``, as ``fer-train`` takes it, is read as ``--data-root DIR``, and so on.

        Args:
            words: without the program's name; ``None``: those that the program was started with.

        Raises:
            SystemExit: status 2 after a mistake, 0 after ``--help`` or ``--version``.
        """
        if words is None:
            endure_output()
        words = sys.argv[1:] if words is None else [*words]
        self._check_names(words)
        if self._subparsers is not None:
            read, left = self.parse_known_args(words)
        else:
            read, left = self.parse_known_intermixed_args(self._without_settings(words))
        if left:
            self.error(f"{left[0]!r} has no place here")
        return read

    def error(self, message: str) -> NoReturn:
        """End the program with one line and exit status 2."""
        said = message.removeprefix("argument ")
        if absent := _ABSENT.fullmatch(said):
            said = f"{absent[1].replace(' --', ' or --')} is missing"
        self._end(f"{said}; see {self.prog} --help")

    def _end(self, message: str) -> NoReturn:
        self.exit(2, f"{visible_name(f'{self.prog}: {message}')}\n")

    def _check_names(self, words: Sequence[str]) -> None:
        """Refuse an option that does not exist; argparse would name missing arguments first, and no nearest one."""
        known = {name for parser in (self, *self._verbs()) for name in parser._option_string_actions}
        for _, word in self._walk(words, options=True):
            name = word.partition("=")[0]
            if name not in known:
                begun = sorted(option for option in known if option.startswith(name))
                near = begun or difflib.get_close_matches(name.replace("_", "-"), sorted(known), 1)
                self.error(f"there is no option {name}" + (f" (did you mean {near[0]}?)" if near else ""))

    def _without_settings(self, words: Sequence[str]) -> list[str]:
        """Turn ``key=value``, as ``fer-train`` takes it, into the option or argument of that name.

        A key that only resembles a name ends the program, with the right form in the message.
        """
        actions = {action.dest: action for action in self._actions}
        right, is_exact = [[word] for word in words], True
        for place, word in self._walk(words, options=False):
            if (found := _SETTING.fullmatch(word)) is None or Path(word).exists() or glob(word):  # noqa: PTH207
                continue
            key = found[1].replace(".", "_")
            if near := difflib.get_close_matches(key, actions, 1, _ALIKE):
                right[place] = _as_option(actions[near[0]], found[2])
                is_exact = is_exact and near[0] == key
        written = [word for parts in right for word in parts]
        if not is_exact:
            self._end(f"KEY=VALUE is for fer-train; write {shlex.join([self.prog, *written])}")
        return written

    def _walk(self, words: Sequence[str], *, options: bool) -> Iterator[tuple[int, str]]:
        """The options of a command line, or the words that are neither options nor their values, with their places."""
        named: dict[str, argparse.Action] = {}
        for parser in (self, *self._verbs()):
            named |= parser._option_string_actions
        is_value = False
        for place, word in enumerate(words):
            if word == "--":
                return
            is_option = not is_value and re.match(r"-(?!\d|\.\d|$)", word) is not None and " " not in word
            if not is_value and is_option == options:
                yield place, word
            action = named.get(word) if is_option else None
            is_value = action is not None and action.nargs is None

    def _verbs(self) -> list[CommandParser]:
        groups = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return [verb for group in groups for verb in group.values()]


def command_parser(program: str, description: str, examples: Sequence[str] = ()) -> CommandParser:
    """Make the parser of a program, with ``--version`` and, at the end of its help, examples."""
    shown = "\n".join(["examples:", *(f"  {example}" for example in examples)]) if examples else None
    parser = CommandParser(prog=program, description=description, epilog=shown)
    parser.add_argument("--version", action="version", version=version_line(program), help="show the version and exit")
    return parser


def filled_text(text: str) -> str:
    """Take a text that is not blank.

    Raises:
        argparse.ArgumentTypeError: it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is blank")
    return text


def file_path(text: str) -> Path:
    """Take the path of a file or folder, which need not exist.

    Raises:
        argparse.ArgumentTypeError: it is blank.
    """
    return Path(filled_text(text))


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make the reader of a whole number from ``least`` to ``most``, of which ``None`` sets no limit."""
    wanted = f"of {least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text) and least <= int(text) <= (math.inf if most is None else most):
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number {wanted}")

    return read


def share(text: str) -> float:
    """Take a number between 0 and 1, neither of both.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")
    return value


def _as_option(action: argparse.Action, value: str) -> list[str]:
    """Write a value that was given as ``key=value`` as words for an argument or option."""
    if action.nargs == 0:
        return [action.option_strings[0]] if value.lower() == str(action.const).lower() else []
    is_list = (value[:1], value[-1:]) == ("[", "]")
    values = [part.strip() for part in value[1:-1].split(",")] if is_list else [value]
    return [word for one in values for word in (*action.option_strings[:1], one)]
