"""README and docs: commands compose or parse, and every option, file and link that they name exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.option_tables import FIRST, PAGE, PARSERS, tables
from support.project import PROJECT

from fer.config.compose import compose

PAGES = [PROJECT / "README.md", PROJECT / "RESULTS.md", *sorted((PROJECT / "docs").glob("*.md"))]
KNOWN = [one for parser in PARSERS.values() for one in (parser, *parser._verbs())]
BLOCK = re.compile(r"^```bash\n(.*?)^```|((?:^ {4}\S.*\n)+)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
NAMED_FILE = re.compile(r"\b((?:fer|conf|tests|scripts|docs)/[\w/.-]+\.(?:py|yaml|sh|md|jpg))\b")
ROOM_FILE = re.compile(
    r"`((?:cli|launch|reports|inference|training|methods|data|models|views|runs|config|files)/[\w/]+\.py)`"
)
EXAMPLES = (
    "fer/methods/focal.py", "conf/method/focal.yaml", "fer/models/densenet.py", "conf/backbone/densenet121.yaml",
    "fer/data/readers/csv_table.py", "conf/data/csv_table.yaml",
)  # fmt: skip


def commands(program: str) -> list[list[str]]:
    """Arguments of every command line of a program, comments and what follows ``&&`` left out."""
    found = []
    for page in PAGES:
        for bash, indented in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in (bash or indented).replace("\\\n", " ").splitlines():
                parts = line.split("#")[0].split("&&")
                found += [shlex.split(part)[1:] for part in parts if part.strip().startswith(f"{program} ")]
    return found


@pytest.mark.parametrize("arguments", commands("fer-train"), ids=" ".join)
def test_a_training_command_composes(arguments: list[str]) -> None:
    overrides = [word for word in arguments if word not in ("-m", "--multirun")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    if any(word.startswith("continue=") for word in overrides):
        return
    first = [
        f"{override.key_or_group}={next(iter(override.sweep_iterator()))}" if override.is_sweep_override() else text
        for text, override in zip(overrides, parsed, strict=True)
    ]
    assert compose(first).method


def test_there_are_commands_of_every_program() -> None:
    for program in ("fer-train", *PARSERS):
        assert commands(program), program


@pytest.mark.parametrize(
    ("program", "words"), [(program, words) for program in PARSERS for words in commands(program)], ids=str
)
def test_a_command_of_another_program_can_be_read(program: str, words: list[str]) -> None:
    read = PARSERS[program].read(words)
    if program == "fer-data" and hasattr(read, "overrides"):
        assert compose(read.overrides).data


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_exist(page: Path) -> None:
    """Code in a sentence or a table that begins with an option, or with the name of a program."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    known = {name for parser in KNOWN for name in parser._option_string_actions}
    for script in (PROJECT / "scripts").glob("*.py"):
        known |= {*re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8"))}
    for span in re.findall(r"`((?:--|fer-)[^`\n]+)`", text):
        if not span.startswith("fer-train"):
            assert {*re.findall(r"(?<!\S)--[a-z-]+", span)} <= known, f"{page.name}: {span}"


def test_the_page_of_the_command_line_lists_what_help_lists() -> None:
    shown = PAGE.read_text(encoding="utf-8").partition(FIRST)[2].strip()
    assert shown == tables().strip(), "write it anew: PYTHONPATH=tests python -m support.option_tables"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, _ in LINK.findall(text):
        assert not target or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_groups_that_are_named_exist(page: Path) -> None:
    groups = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()}
    for group, option in re.findall(r"(?<![\w.])([a-z]+)=([a-z0-9_]+)\b", page.read_text(encoding="utf-8")):
        if group in groups and option not in ("null", "csv_table", "focal", "densenet121"):
            assert (PROJECT / "conf" / group / f"{option}.yaml").is_file(), f"{page.name}: {group}={option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in NAMED_FILE.findall(text):
        assert name in EXAMPLES or (PROJECT / name).is_file(), f"{page.name}: {name}"
    for name in ROOM_FILE.findall(text):
        assert (PROJECT / "fer" / name).is_file(), f"{page.name}: {name}"


def test_the_readme_takes_ten_minutes() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "AttentionConsistency" in (tmp_path / "site" / "api" / "methods" / "index.html").read_text(encoding="utf-8")
