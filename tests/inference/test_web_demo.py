"""fer-demo: a real browser uploads pictures to the real server, and nobody else hears of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browsing import open_browser, open_page, train_with_class_names
from support.demo_pages import LOOPBACK, Server, start
from support.photographs import Pasted, photograph
from support.project import PROJECT

from fer.data.images.decode import decode, pixels
from fer.errors import UserError
from fer.inference.model import RunModel
from fer.inference.page.server import Demo
from fer.runs.run_folder import RunFolder

PLACES = [Pasted((150, 200), 180, 0), Pasted((450, 260), 140, 25)]


@pytest.fixture(scope="module")
def server(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason='the page needs Gradio: pip install -e ".[demo]"')
    started = start(run, tmp_path_factory.mktemp("server"))
    yield started
    if started.process.poll() is None:
        started.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with open_browser("--disable-gpu", *camera) as browser:
        yield browser


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """Open fer-demo's page, and check that page and server have connected to no other host."""
    asked: list[str] = []
    with open_page(browser, asked, viewport={"width": 1280, "height": 900}, permissions=["camera"]) as page:
        page.goto(server.url)
        page.get_by_text("its faces appear here").wait_for()
        yield page
    assert len(asked) > 10
    assert {url for url in asked if not url.startswith((server.url, "data:", "blob:"))} == set()
    assert {*server.heard.read_text().split()} <= LOOPBACK


STRANGE_NAMES = (
    "<img src=x onerror=document.title='owned'>",
    "**bold** [a](javascript:alert(1))",
    "$x$ ${1+1} {{1+1}}",
)


@pytest.fixture(scope="module")
def strange_run(overrides: list[str], shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Train a run whose classes and folder have names with markup."""
    root = tmp_path_factory.mktemp("strange")
    folder = root / "<b>${1+1} {{1+1}} **b** $x$ _e_" / "[a](javascript:alert(1)) `c`"
    return train_with_class_names(STRANGE_NAMES, overrides, shapes, root / "data", folder)


def upload(page: Any, file: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(file)


def probabilities(page: Any) -> dict[str, float]:
    """Read the probabilities that the bars show."""
    bars = page.get_by_role("meter").all()
    return {bar.get_attribute("aria-label"): float(bar.get_attribute("value")) for bar in bars}


def test_a_face_gets_the_probabilities_of_the_run(page: Any, run: RunFolder, shapes: Path) -> None:
    model, file = RunModel(run, "cpu"), shapes / "test" / "disc" / "000.png"
    (expected,) = model.predict(np.stack([pixels(decode(file), model.image_size)])).probabilities
    best = model.class_names[int(expected.argmax())]
    page.get_by_label("a face cut out already").check()
    upload(page, file)
    page.get_by_role("heading", name=best, exact=True).wait_for()
    page.get_by_text(f"{100 * expected.max():.0f}%", exact=True).wait_for()
    page.get_by_text(f"CAM of {best}").wait_for()
    by_class = dict(zip(model.class_names, expected.tolist(), strict=True))
    assert probabilities(page) == pytest.approx(by_class, abs=1e-5)
    page.get_by_label("class activation map").uncheck()
    page.get_by_text(f"CAM of {best}").wait_for(state="hidden")
    assert probabilities(page) == pytest.approx(by_class, abs=1e-5)


def test_of_several_faces_each_can_be_picked(page: Any, tmp_path: Path) -> None:
    photograph(PLACES).save(tmp_path / "group.png")
    upload(page, tmp_path / "group.png")
    faces = page.get_by_role("radio")
    faces.nth(1).wait_for()
    assert faces.count() == len(PLACES) and faces.nth(0).is_checked()
    first = probabilities(page)
    picture = page.locator("img").nth(1).bounding_box()
    x, y = PLACES[1].center
    page.mouse.click(picture["x"] + picture["width"] * x / 640, picture["y"] + picture["height"] * y / 480)
    page.wait_for_function("document.querySelectorAll('input[type=radio]')[1].checked")
    second = probabilities(page)
    assert second != first
    faces.nth(0).check()
    page.wait_for_function("value => document.querySelector('meter').value == value", arg=max(first.values()))
    assert probabilities(page) == first


def test_what_cannot_be_read_is_told_on_the_page_and_the_next_picture_is_taken(
    page: Any, server: Server, shapes: Path, tmp_path: Path
) -> None:
    printed = server.log.read_text()
    (tmp_path / "letter.png").write_text("Dear reader")
    (tmp_path / "cut.png").write_bytes((shapes / "test" / "bar" / "000.png").read_bytes()[:500])
    page.get_by_label("a face cut out already").check()
    upload(page, tmp_path / "letter.png")
    page.get_by_text("letter.png: not an image in a known format").wait_for()
    upload(page, tmp_path / "cut.png")
    page.get_by_text("cut.png: cannot be decoded").wait_for()
    upload(page, shapes / "test" / "bar" / "000.png")
    page.get_by_text("CAM of").wait_for()
    assert page.locator(".fault").count() == 0
    page.get_by_label("a face cut out already").uncheck()
    page.get_by_text("No face was found").wait_for()
    assert server.log.read_text() == printed, "no traceback"


def test_the_camera_takes_a_photo(page: Any) -> None:
    page.get_by_label("a face cut out already").check()
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    page.get_by_text("CAM of").wait_for()
    assert len(probabilities(page)) == 3


def test_names_with_markup_are_text(browser: Any, strange_run: RunFolder, shapes: Path, tmp_path: Path) -> None:
    started = start(strange_run, tmp_path / "server")
    try:
        page = browser.new_page()
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(started.url)
        page.get_by_text(f"by {strange_run.path.parent.name}/{strange_run.path.name}", exact=True).wait_for()
        photograph(PLACES).save(tmp_path / "group.png")
        upload(page, tmp_path / "group.png")
        page.get_by_role("radio").nth(1).wait_for()
        seen = probabilities(page)
        assert {*seen} == {*STRANGE_NAMES}
        for bar_label in STRANGE_NAMES:
            assert page.get_by_text(bar_label, exact=True).first.inner_text() == bar_label
        best = max(seen, key=lambda name: seen[name])
        assert page.get_by_text(f"CAM of {best}", exact=True).inner_text() == f"CAM of {best}"
        assert page.get_by_text(f"1: {best} {100 * seen[best]:.0f} %", exact=True).count() == 1
        name = "<img src=x onerror=document.title='owned'> **b** $x$ ${1+1} {{1+1}}.png"
        (tmp_path / name).write_text("Dear reader")
        upload(page, tmp_path / name)
        page.get_by_text(f"{name}: not an image in a known format").wait_for()
        page.get_by_label("a face cut out already").check()
        upload(page, shapes / "test" / "disc" / "000.png")
        page.get_by_role("heading", level=2).nth(1).wait_for()
        assert page.get_by_role("heading", level=2).nth(1).inner_text() in STRANGE_NAMES
        assert page.title() == "fer-demo" and dialogs == []
        assert page.locator("img[src=x], a[href^=javascript], strong, b, em, .katex").count() == 0
    finally:
        started.end()


def test_ctrl_c_ends_it_under_an_open_page_and_no_file_is_left(page: Any, server: Server, shapes: Path) -> None:
    page.get_by_label("a face cut out already").check()
    upload(page, shapes / "test" / "bar" / "001.png")
    page.get_by_text("CAM of").wait_for()
    assert [*server.temporary.rglob("001.png")]
    printed = server.log.read_text()
    assert server.end() == 0
    assert server.log.read_text() == printed, "no traceback"
    assert not [*server.temporary.iterdir()]


def test_what_cannot_be_shown_is_refused_before_anything_is_served(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    options: dict[str, Any] = {
        "run_folder": run.path, "model": None, "host": "127.0.0.1", "port": 0, "device": "cpu",
        "least_score": 0.8, "cam": True,
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: Address already in use; choose another"):
            Demo(**options | {"port": port}).run()
    for wrong, message in (
        ({"host": "no.such.host.invalid"}, r"--host no\.such\.host\.invalid"),
        ({"run_folder": None}, "--run RUN, or an exported file"),
        ({"allowed_hosts": ["http://x"]}, "--allowed-host 'http://x' is not the name"),
    ):
        with pytest.raises(UserError, match=message):
            Demo(**options | wrong).run()
    command = [sys.executable, "-m", "fer.cli.demo_app", "--run", str(tmp_path), "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("fer-demo: ") and "no finished run" in done.stderr
    assert "Traceback" not in done.stderr
