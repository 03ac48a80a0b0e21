"""fer-demo: a real browser uploads pictures to the real server, and nobody else hears of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import CHOICES, PROJECT
from photographs import Pasted, photograph

from fer import launch
from fer.config import compose
from fer.data.decode import decode, pixels
from fer.errors import UserError
from fer.inference.demo_server import Demo
from fer.inference.model import RunModel
from fer.runs import RunFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLACES = [Pasted((150, 200), 180, 0), Pasted((450, 260), 140, 25)]
# Loaded by the server's Python before anything else: writes down to whom it connects and whom it looks up.
EARS = """
import os, sys

def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["HEARD"], "a") as stream:
            print(arguments[1][0] if event == "socket.connect" else arguments[0], file=stream)

sys.addaudithook(hear)
"""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Server(NamedTuple):
    """A running fer-demo."""

    process: subprocess.Popen[bytes]
    url: str
    temporary: Path
    heard: Path
    log: Path

    def end(self) -> int:
        """The exit status after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)


def start(run: RunFolder, folder: Path) -> Server:
    for name in ("temporary", "ears"):
        (folder / name).mkdir(parents=True)
    (folder / "ears" / "sitecustomize.py").write_text(EARS)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder / "ears"), str(PROJECT)]),
        "HEARD": str(folder / "heard"),
        "TMPDIR": str(folder / "temporary"),
    }
    log = folder / "log"
    command = [sys.executable, "-m", "fer.web_demo", f"run={run.path}", "port=0", "accelerator=cpu"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    while process.poll() is None:
        if found := re.search(r"^http://127\.0\.0\.1:\d+", log.read_text(), re.MULTILINE):
            return Server(process, found[0], folder / "temporary", folder / "heard", log)
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def run(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("demo") / "run"
    launch.run(compose(overrides), folder, CHOICES)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def server(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason='the page needs Gradio: pip install -e ".[demo]"')
    started = start(run, tmp_path_factory.mktemp("server"))
    yield started
    if started.process.poll() is None:
        started.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs chromium, chromium-browser or google-chrome")
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright, without its browsers")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page in a browser of its own; it may have asked nobody but the server, and nor may the server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(server.url)
    page.get_by_text("its faces appear here").wait_for()
    yield page
    context.close()
    assert len(asked) > 10
    assert {url for url in asked if not url.startswith((server.url, "data:", "blob:"))} == set()
    assert {*server.heard.read_text().split()} <= LOOPBACK


def upload(page: Any, file: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(file)


def probabilities(page: Any) -> dict[str, float]:
    """What the bars say."""
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
    x, y = PLACES[1].centre
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


def test_uploads_are_limited(server: Server) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%b\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    url = f"{server.url}/gradio_api/upload"
    assert urllib.request.urlopen(urllib.request.Request(url, body % b"small", headers)).status == 200
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(urllib.request.Request(url, body % bytes(21 * 2**20), headers))


def test_no_file_of_the_server_is_read_that_was_not_uploaded(server: Server, shapes: Path) -> None:
    picture = {"path": str(shapes / "test" / "bar" / "000.png"), "meta": {"_type": "gradio.FileData"}}
    call = {"data": [picture, True, True], "fn_index": 0, "session_hash": "stranger", "trigger_id": 1}
    headers = {"Content-Type": "application/json"}
    api = f"{server.url}/gradio_api/queue"
    urllib.request.urlopen(urllib.request.Request(f"{api}/join", json.dumps(call).encode(), headers)).close()
    with urllib.request.urlopen(f"{api}/data?session_hash=stranger", timeout=60) as answers:
        (answer,) = (line for line in answers if b"process_completed" in line)
    assert json.loads(answer.removeprefix(b"data: "))["success"] is False
    assert b"it was not uploaded by a user" in answer


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
        "run_folder": str(run.path), "model": None, "host": "127.0.0.1", "port": 0, "accelerator": "cpu",
        "least_score": 0.8, "cam": True,
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={port}: Address already in use; choose another"):
            Demo(**options | {"port": port}).run()
    for wrong, message in (
        ({"port": 99999}, "port=99999"),
        ({"host": "no.such.host.invalid"}, r"host=no\.such\.host\.invalid"),
        ({"run_folder": None}, "run=FOLDER, or an exported file"),
        ({"least_score": 2.0}, "least_score=2"),
    ):
        with pytest.raises(UserError, match=message):
            Demo(**options | wrong).run()
    command = [sys.executable, "-m", "fer.web_demo", f"run={tmp_path}", "port=0"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("fer-demo: ") and "no finished run" in done.stderr
    assert "Traceback" not in done.stderr
