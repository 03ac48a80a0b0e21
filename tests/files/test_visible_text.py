"""Control characters in names never reach a terminal, a log, Markdown or a table."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.run_folders import write_run

from fer.cli import data as data_cli
from fer.cli import report
from fer.data.loading.prepare import read_labels
from fer.data.readers import folder
from fer.data.table import DatasetError
from fer.errors import UserError
from fer.files.terminal import log_to_terminal, logging_to, report_errors, say
from fer.files.visible_text import has_controls, visible, visible_name

HOSTILE = "\x1b[31mred\x07\x9b2J\u202eetad\x00"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@given(st.text())
def test_nothing_but_controls_is_changed(text: str) -> None:
    shown = visible(text)
    assert not CONTROL.search(shown) and shown.encode("utf-8") is not None
    assert visible(shown) == shown
    if not has_controls(text):
        assert shown == visible_name(text) == text
    assert "\n" not in visible_name(text) and "\t" not in visible_name(text)


def test_escapes_say_which_character_it_was() -> None:
    assert visible("a\x1bb\u202ec\nd") == "a\\x1bb\\u202ec\nd"
    assert visible_name(Path("a\nb")) == "a\\x0ab"


def test_log_errors_and_prints_are_visible(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    logger = logging.getLogger("fer.somewhere")
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        log_to_terminal()
        with logging_to(tmp_path / "train.log"):
            logger.warning("%s: %s", Path(f"{HOSTILE}\nforged line"), HOSTILE)
        say(HOSTILE)
        say(HOSTILE, to_stderr=True)
        with pytest.raises(SystemExit), report_errors("fer"):
            raise UserError(HOSTILE)
    finally:
        root.handlers = kept
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, (tmp_path / "train.log").read_text()):
        assert "[31mred" in text and not CONTROL.search(text)
    assert not [line for line in printed.out.splitlines() if line.startswith("forged")]


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "html", "csv"])
def test_reports_are_visible(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "a", {"seed": 0, "data.note": f"{HOSTILE}1", "method": "eac"})
    write_run(tmp_path / "runs" / f"b{HOSTILE[:-1]}", {"seed": 0, "data.note": f"{HOSTILE}2"}, state="failed")
    (tmp_path / "runs" / f"b{HOSTILE[:-1]}" / "error.txt").write_text(f"RuntimeError: {HOSTILE}")
    report.main([str(tmp_path / "runs"), "--format", form, "--rows", "method,data.note"])
    printed = capsys.readouterr()
    without_colors = re.sub(r"\x1b\[[0-9;]*m", "", printed.out) if form == "terminal" else printed.out
    assert not CONTROL.search(without_colors) and not CONTROL.search(printed.err)
    assert "31mred" in printed.out


def test_data_with_such_names_is_refused_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "a" / "0\x1b[2J.png")
    with pytest.raises(DatasetError, match="control characters; rename it"):
        read_labels(lambda: folder.read(tmp_path), lambda table: table.labels[table.train])
    assert data_cli.main(["check", "data=folder", f"data.root={tmp_path}", f"cache_dir={tmp_path / 'cache'}"]) == 1
    assert not CONTROL.search(capsys.readouterr().err)


def test_classes_with_such_names_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b\x1b[2J"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    with pytest.raises(DatasetError, match=r"b\\x1b\[2J' cannot be the name of a class|b.*x1b.*class"):
        read_labels(lambda: folder.read(tmp_path), lambda table: table.labels[table.train])


def test_halves_of_characters_can_be_printed() -> None:
    print(visible_name("\ud800"), file=sys.stderr)
