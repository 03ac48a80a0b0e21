"""Names and values with markup in them are text in reports and in TensorBoard, for their readers and in a browser."""

from __future__ import annotations

import html
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.browsing import open_browser, open_page, train_with_class_names
from support.project import PROJECT
from support.run_folders import write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from fer.cli import report
from fer.files import terminal
from fer.files.visible_text import visible_name
from fer.reports import formats
from fer.reports.document import Document, Entry, Grid
from fer.reports.run_summary import print_run
from fer.runs.run_folder import RunFolder
from fer.training.callbacks.run_card import RunCard
from fer.training.loggers.make import make_loggers

MARKUP = (
    "<img src=x onerror=document.title='owned'>",
    "**bold** [a](javascript:alert(1)) ![b](http://192.0.2.1/b.png)",
    "$x$ _e_ `c` ~~s~~ {{1+1}} ${1+1} __init__",
    "tab\tand\nline\r\n```\n# h",
)
RENDERED = "img[src=x], img[src*='192.0.2.1'], a[href*=alert], a[href*='192.0.2.1'], .katex, mjx-container"


def class_name(markup: str) -> str:
    """The text as a folder may be called, and in one line, which the names of classes must be."""
    return " ".join(markup.replace("/", "\u2215").split())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser("--enable-unsafe-swiftshader") as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Open a page, and check that it rendered no markup and loaded nothing from elsewhere."""
    asked: list[str] = []
    with open_page(browser, asked, viewport={"width": 1500, "height": 1000}) as page:
        page.on("dialog", lambda dialog: (asked.append(f"dialog {dialog.message}"), dialog.dismiss()))
        yield page
        assert page.title() in ("TensorBoard", "fer-report")
        assert page.locator(RENDERED).count() == 0
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))] == []


@pytest.fixture(scope="module")
def strange_run(overrides: list[str], shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run with TensorBoard's files whose classes and folder have names with markup."""
    root = tmp_path_factory.mktemp("markup")
    folder = root / "[a](javascript:alert(1)) <img src=x>" / "**run**"
    names = [class_name(markup) for markup in MARKUP]
    return train_with_class_names(names, [*overrides, "logger=tensorboard"], shapes, root / "data", folder).path


def test_an_html_report_with_figures_shows_names_as_text(page: Any, strange_run: Path, tmp_path: Path) -> None:
    for seed, method in enumerate(MARKUP):
        write_run(tmp_path / "runs" / method.replace("/", "_"), {"choices.method": method, "seed": seed})
    write_run(tmp_path / "runs" / "<img src=x>", {"choices.method": "ce"}, state="failed")
    folders = [str(tmp_path / "runs"), str(strange_run)]
    file, figures = tmp_path / "report.html", ["--plots", str(tmp_path / "plots"), "--figures", str(tmp_path / "drawn")]
    report.main([*folders, "--rows", "method", "--output", str(file), *figures])
    page.goto(file.as_uri())
    fields = [" ".join(text.split()) for text in page.locator("td").all_inner_texts()]
    for method in MARKUP:
        assert " ".join(visible_name(method).split()) in fields
    assert "<img src=x>" in page.locator("ul").inner_text()
    assert page.locator("figure img").count() > 3
    assert page.locator("td *, th *, li *").evaluate_all("found => found.filter(e => e.tagName != 'B').length") == 0
    for drawn in (*(tmp_path / "plots").glob("*.svg"), *(tmp_path / "drawn").glob("*.svg")):
        page.goto(drawn.as_uri())
        assert page.evaluate("document.querySelectorAll('script, image[href^=http], a, foreignObject').length") == 0
        assert page.evaluate("document.documentElement.tagName") == "svg", "well-formed"
    page.goto(file.as_uri())


@given(st.lists(st.one_of(st.sampled_from(MARKUP), st.text("`_*~$[]()<>!#|\\\\&+-=.1 a\n")), min_size=3, max_size=3))
def test_markdown_reports_show_names_as_text(texts: list[str]) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    title, field, note = texts
    document = Document([Grid(f"x{title}", ["a", "b"], [[Entry(field), Entry("x")]], "ll")], [f"x{note}", note], [])
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(formats.markdown(document))
    allowed = {"paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td", "inline"}
    assert {token.type.removesuffix("_open").removesuffix("_close") for token in tokens} <= allowed
    inline = [token for token in tokens if token.type == "inline"]
    seen = ["".join(child.content for child in token.children) for token in inline]
    assert {child.type for token in inline[1:] for child in token.children} <= {"text", "text_special"}
    clean = [" ".join(text.split()) for text in (field, f"x{note}")]
    assert seen[3] == clean[0] and clean[1] in seen


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", "[bold]", "<b>", "a|b", "50%_x&y", ":smile:", "`$x$`\\"])
def test_reports_show_names_as_text(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"choices.method": name, "choices.data": name}
    folder = write_run(tmp_path / name, settings)
    result = json.loads((folder / "result.json").read_text())
    result["metrics"][f"test/recall/{name}"] = 0.5
    (folder / "result.json").write_text(json.dumps(result))
    write_run(tmp_path / f"{name} failed", {**settings, "seed": 1}, state="failed")
    written = {
        "terminal": name,
        "markdown": formats._markdown(name),
        "latex": formats._latex(name),
        "html": html.escape(name),
    }
    for chosen, shown in written.items():
        report.main([str(tmp_path), "--metric", f"test/recall/{name}", "--format", chosen])
        said = capsys.readouterr().out
        assert f"{shown} " in said and f"test/recall/{shown}" in "".join(said.split("\n")), chosen
        # LaTeX has notes as comments, in which nothing means anything.
        expected = f"{name if chosen == 'latex' else shown} failed: RuntimeError"
        assert "".join(expected.split()) in "".join(said.split()), chosen  # a long path is broken anywhere
    console = Console(record=True, file=io.StringIO(), width=300)
    print_run(folder, {**result, "choices": {**result["choices"], "experiment": None}}, console)
    said = " ".join(console.export_text().split())
    assert f"{name} · resnet18 · {name} · noise symmetric" in said and f"│ recall {name} │" in said
    assert f"fer-eval {shlex.quote(visible_name(folder))}" in said


def test_the_log_shows_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, file=io.StringIO(), width=300)
    monkeypatch.setattr("rich.get_console", lambda: console)
    for name in ("[red]x[/red]", "[/]", ":smile:"):
        terminal._AboveTheBar().emit(logging.LogRecord("fer", logging.INFO, "", 0, "%s", (name,), None))
        assert console.export_text().strip() == name


def test_math_links_and_strikes_are_escaped_in_markdown() -> None:
    grid = Grid("t", ["a"], [[Entry("$x$ ~~s~~ [a](b) __init__ label_noise")]], "l")
    assert r"\$x\$ \~\~s\~\~ [a\](b) \_\_init\_\_ label_noise" in formats.markdown(Document([grid], [], []))


@pytest.mark.parametrize(
    "text",
    [
        "a: |\n```\n![a](http://192.0.2.1/a.png)\n<b>b</b>\n",
        "no line end ```",
        "~~~\n````\n```\n# h\n\n\n    [a](javascript:alert(1))\n```",
        "",
        "\x02wzxhzdk:0\x03 \x02amp\x03",
    ],
)
def test_configuration_and_stamp_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "stamp.json").write_text("{}")
    nodes = {"tensorboard": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}}
    (logger,) = make_loggers(nodes, RunFolder(tmp_path), "run")
    trainer: Any = SimpleNamespace(
        is_global_zero=True, default_root_dir=str(tmp_path), current_epoch=0, loggers=[logger],
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    RunCard().on_train_start(trainer, L.LightningModule())
    logger.experiment.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (shown,) = events.Tensors("config.yaml/text_summary")
    page = markdown_to_safe_html(shown.tensor_proto.string_val[0])
    code = re.fullmatch(r"<pre><code>(.*)</code></pre>", page, re.DOTALL)
    assert code, page
    plain = code[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert plain.strip("\n") == re.sub("[\x02\x03]", "\ufffd", text).strip("\n")


def test_the_projector_reads_names_with_markup(strange_run: Path) -> None:
    (file,) = strange_run.rglob("metadata.tsv")
    (tensors,) = strange_run.rglob("tensors.tsv")
    header, *rows = (line.split("\t") for line in file.read_text().removesuffix("\n").split("\n"))
    assert header == ["given label", "true label", "label is"]
    assert len(rows) == len(tensors.read_text().splitlines()) and {len(row) for row in rows} == {3}
    assert {row[1] for row in rows} == {*map(class_name, MARKUP)}


def shown_frame(page: Any, text: str) -> Any:
    """The frame of a page in which a text appears."""
    for _ in range(600):
        for frame in page.frames:
            if frame.get_by_text(text).count():
                return frame
        page.wait_for_timeout(100)
    raise AssertionError(f"no {text}")


def test_tensorboard_shows_names_as_text(page: Any, strange_run: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(strange_run.parent.parent),
        "--host",
        "127.0.0.1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [*command, "--port", "0", "--load_fast", "false"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        name = MARKUP[0]
        for tab, ready in (
            ("text", "cache_dir:"), ("timeseries", name), ("scalars&tagFilter=recall", name),
            ("custom_scalars", "evaluation"), ("hparams", "Trial ID"),
        ):  # fmt: skip
            page.goto("about:blank")
            page.goto(f"{address}/?tagFilter=recall#{tab}")
            page.get_by_text(ready).first.wait_for()
            assert page.locator(RENDERED).count() == 0, tab
        page.goto("about:blank")
        page.goto(f"{address}/#projector")
        frame = shown_frame(page, "metadata.tsv")
        assert frame.get_by_text("do not match").count() == 0
        page.wait_for_timeout(1000)
        frame.locator("#search-box input").first.press_sequentially("img")
        frame.get_by_text(name).first.click()
        frame.get_by_text("Nearest points").first.wait_for()
        assert frame.locator(RENDERED).count() == 0
    finally:
        server.terminate()
        server.wait()
