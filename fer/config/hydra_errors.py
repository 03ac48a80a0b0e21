"""Messages for mistakes in overrides of ``fer-train`` and ``fer-data``, with suggestions.

Hydra's exceptions carry no key and no list of alternatives, only English sentences, so these are read with patterns;
``tests/cli/test_errors.py`` fails if a release changes them.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fer.config.arguments import options_first, version_line
from fer.config.compose import compose
from fer.errors import ConfigError
from fer.files.terminal import report_errors

_PROGRAM = "fer-train"
_FULL = "HYDRA_FULL_ERROR"
_MISTAKES = (HydraException, OmegaConfBaseException)
_NOISE = ("full_key:", "object_type=", "Set the environment variable", "See https://", "To append to your config use")


@contextmanager
def report_composition_errors() -> Iterator[None]:
    """End ``fer-train`` with one message and exit status 2 if Hydra cannot compose its configuration.

    Hydra itself would print several lines for its own developers, and end with status 1.
    """
    if "--version" in sys.argv[1:]:  # Hydra would print its own
        print(version_line(_PROGRAM))
        raise SystemExit(0)
    sys.argv[1:] = options_first(sys.argv[1:])
    if os.environ.get(_FULL) == "1":  # the user asks for the traceback
        yield
        return
    os.environ[_FULL] = "1"  # makes Hydra raise what it would print
    try:
        with report_errors(_PROGRAM):
            if nameless := [given for given in sys.argv[1:] if given.partition("=")[0] in ("", "+", "++", "~")]:
                raise ConfigError(f"{nameless[0]!r} names no key; give KEY=VALUE")
            try:
                yield
            except _MISTAKES as error:
                raise ConfigError(explain_mistake(error, sys.argv[1:])) from error
            except ValueError as error:
                if not str(error).startswith("Config group override"):
                    raise
                raise ConfigError(
                    "a config group needs the name of one of its options, such as noise=symmetric"
                ) from error
    finally:
        del os.environ[_FULL]


def explain_mistake(error: Exception, overrides: Sequence[str]) -> str:
    """Say what is wrong with overrides that Hydra refuses, and name the nearest key or option.

    Args:
        error: Hydra's or OmegaConf's.
        overrides: the command line, of which options such as ``-m`` are ignored.
    """
    text = str(error) + (f"\n{error.__cause__}" if error.__cause__ else "")
    unknown = re.search(r"Could not override '([^'@=]+)", text) or re.search(r"Could not delete[^']*'([^'@=]+)", text)
    if unknown and re.search("not in struct|does not exist|No match", text):
        return _unknown_key(unknown[1], overrides)
    if absent := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = absent.groups()
        options = re.findall(r"^\t(\S+)$", text.partition("Config search path")[0], re.MULTILINE)
        return f"there is no {group}={option}{_or(option, options)}; choose one of {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: give KEY=VALUE, quote as '\"KEY=a, b\"', close every quote and bracket"
    lines = (line.strip() for line in text.splitlines())
    said = " ".join(line for line in lines if line and not line.startswith(_NOISE)) or repr(error)
    key = getattr(error, "full_key", None)
    return f"{key}: {said}" if key and key not in said else said


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    keys = _keys([given for given in overrides if given.lstrip("+~").partition("=")[0] != key])
    parent, _, name = key.rpartition(".")
    if key in keys:
        return f"{key} is null and cannot be taken away with ~"
    if same_name := [known for known in keys if known.rpartition(".")[2] == name]:
        near = _or(key, same_name)
    elif parent in keys:
        siblings = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == parent]
        near = _or(name, siblings, prefix=f"{parent}.")
    else:
        near = _or(key, keys)
    return f"there is no key {key}{near}; --cfg job shows all keys"


def _or(word: str, known: Sequence[str], prefix: str = "") -> str:
    near = known if len(known) == 1 else difflib.get_close_matches(word, known, 1)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def _keys(overrides: Sequence[str]) -> list[str]:
    """List the dotted keys of the composed configuration, or of the default one if the overrides do not compose."""
    given = [override for override in overrides if "=" in override and not override.startswith("-")]
    GlobalHydra.instance().clear()  # the program is about to end
    try:
        config = compose(given)
    except (*_MISTAKES, ConfigError):
        config = compose([])
    return [*_dotted(OmegaConf.to_container(config))]


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
