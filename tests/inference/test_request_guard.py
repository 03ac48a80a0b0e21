"""The guard of fer-demo by itself: names of hosts, calls, uploads, the folder, and what reaches the application."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason='fer-demo needs it: pip install -e ".[demo]"')

from fer.errors import ConfigError
from fer.inference.page.calls import NoCall, printable, rebuild_call
from fer.inference.page.host_names import HostNames
from fer.inference.page.request_guard import LARGEST_UPLOAD, RequestGuard
from fer.inference.page.uploads import find_upload, temporary_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("path", "orig_name", "meta", "url", "_type", "index", "data", "fn_index")
PHOTO = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4) | JSON
CALL = st.fixed_dictionaries(
    {"data": st.lists(PHOTO, max_size=4), "fn_index": st.integers(-1, 3), "session_hash": st.just("s") | JSON},
    optional={"event_data": st.dictionaries(st.just("index"), st.lists(JSON, max_size=3)) | JSON, "batched": JSON},
)


@given(CALL.map(lambda call: json.dumps(call).encode()) | JSON.map(lambda v: json.dumps(v).encode()) | st.binary())
def test_a_call_is_rebuilt_or_refused(body: bytes) -> None:
    try:
        rebuilt = rebuild_call(body)
    except NoCall:
        return
    call = json.loads(rebuilt)
    assert len(rebuilt) < 60_000 and set(call) <= {"data", "fn_index", "session_hash", "event_data"}
    assert len(call["data"]) == (3, 2, 1)[call["fn_index"]]
    if call["fn_index"] == 0 and call["data"][0] is not None:
        assert set(call["data"][0]) == {"path", "orig_name"}
        assert all(isinstance(text, str) and text.isprintable() for text in call["data"][0].values())
    assert rebuild_call(rebuilt) == rebuilt


def test_names_of_files_are_short_lines() -> None:
    assert printable("a b.png") == "a b.png"
    assert printable("a\n\x1b[1m\u202eb\0.png") == "a[1mb.png"
    assert printable("x" * 10**6) == "x" * 79 + "…"
    assert [printable(name) for name in (None, 1, ["a"], {})] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("bound", "address", "host", "connected", "is_allowed"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost:7860", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", "[::1]", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.1", False),
        ("face.lan", "192.0.2.7", "FACE.lan:80", "192.0.2.7", True),
        ("face.lan", "192.0.2.7", "192.0.2.7", "192.0.2.7", True),
        ("face.lan", "192.0.2.7", "192.0.2.8", "192.0.2.7", False),
        ("0.0.0.0", "0.0.0.0", "192.0.2.7", "192.0.2.7", True),
        ("0.0.0.0", "0.0.0.0", "192.0.2.8", "192.0.2.7", False),
        ("0.0.0.0", "0.0.0.0", "machine", "192.0.2.7", True),
        ("0.0.0.0", "0.0.0.0", "machine.lan", "192.0.2.7", True),
        ("127.0.0.1", "127.0.0.1", "machine", "127.0.0.1", False),
        ("::", "::", "[2001:db8:0::7]:80", "2001:db8::7", True),
        ("::", "::", "192.0.2.7", "::ffff:192.0.2.7", True),
        ("::", "::", "[fe80::7]", "fe80::7%eth0", True),
        ("127.0.0.1", "127.0.0.1", "demo.example.org", None, True),
        ("127.0.0.1", "127.0.0.1", "evil.example", None, False),
        ("127.0.0.1", "127.0.0.1", "", None, False),
    ],
)
def test_hosts(
    bound: str, address: str, host: str, connected: str | None, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "machine")
    monkeypatch.setattr("socket.getfqdn", lambda: "machine.lan")
    assert HostNames(bound, address, ["Demo.example.org"]).allows(host, connected) == is_allowed


@pytest.mark.parametrize("name", ["http://demo.example.org", "a:80", ""])
def test_allowed_hosts_are_names(name: str) -> None:
    with pytest.raises(ConfigError, match="--allowed-host"):
        HostNames("127.0.0.1", "127.0.0.1", [name])


def test_only_files_of_the_folder_are_found(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.png"
    (folder / "ab").mkdir(parents=True)
    file = folder / "ab" / "a.png"
    for path in (file, outside):
        path.write_text("x")
    assert find_upload(folder, str(file)) == file
    os.mkfifo(folder / "pipe")
    (folder / "out.png").symlink_to(outside)
    (folder / "in.png").symlink_to(file)
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    assert find_upload(folder, str(folder / "in.png")) == file
    for name in (
        outside, folder, folder / "ab", folder / "pipe", folder / "out.png", folder / "up" / "outside.png",
        folder / "loop", f"{folder}/ab/../../outside.png", f"{folder}/../folder/ab/a.png", "ab/a.png", f"{file}\0",
        f"{folder}/{'x' * 5000}", f"{folder}/\ud800", f"{folder}2/a.png", "", "~",
    ):  # fmt: skip
        assert find_upload(folder, str(name)) is None, name
    for odd in (None, 1, True, [str(file)], {"path": str(file)}, file, str(file).encode()):
        assert find_upload(folder, odd) is None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_folder_goes_and_handlers_come_back(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(error), temporary_folder() as folder:
        (folder / "ab").mkdir()
        (folder / "ab" / "a.png").write_text("x")
        raise error
    assert not folder.exists()
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), temporary_folder() as folder:
        signal.raise_signal(number)
    assert not folder.exists()


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with temporary_folder():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def ask(path: str, *pieces: bytes, **more: Any) -> tuple[int | None, list[Any], bytes]:
    """Status, what an application got (its scope, then the pieces of the body), and the answer."""
    got: list[Any] = []
    sent: list[Any] = []
    left = [*pieces]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(scope)
        if scope["type"] == "http":
            while (message := await receive())["type"] == "http.request":
                got.append(message["body"])
                if not message["more_body"]:
                    break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"app"})

    async def receive() -> Any:
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), *more.pop("headers", [])]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers,
             "server": ("127.0.0.1", 1), **more}  # fmt: skip
    guard = RequestGuard(app, HostNames("127.0.0.1", "127.0.0.1"), Path("/no/such/folder"))
    asyncio.run(guard(scope, receive, send))
    status = sent[0].get("status") if sent else None
    return status, got, b"".join(message.get("body", b"") for message in sent)


def test_what_passes_is_trimmed() -> None:
    headers = [(b"x-forwarded-host", b"evil.example"), (b"x-gradio-server", b"a"), (b"accept", b"b")]
    status, (scope, body), answer = ask("/", b"dropped", headers=headers, query_string=b"deep_link=a&page=b")
    assert (status, body, answer, scope["query_string"]) == (200, b"", b"app", b"")
    assert {name for name, _ in scope["headers"]} == {b"host", b"accept"}
    _, (scope, _), _ = ask("/gradio_api/queue/data", query_string=b"session_hash=abc&session_hash=d&a=b")
    assert scope["query_string"] == b"session_hash=abc"
    call = {"data": [None, 1, True], "fn_index": 0, "session_hash": "s", "oauth_token": "t"}
    body = json.dumps(call).encode()
    sizes = [(b"content-length", b"%d" % len(body))]
    _, (scope, content), _ = ask("/gradio_api/queue/join", body[:9], body[9:], method="POST", headers=sizes)
    assert json.loads(content) == {"session_hash": "s", "fn_index": 0, "data": [None, False, True]}
    assert dict(scope["headers"])[b"content-length"] == b"%d" % len(content)


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/absent", "/"])
def test_no_body_over_the_limit_passes(path: str) -> None:
    piece = bytes(LARGEST_UPLOAD // 4)
    method = "GET" if path == "/" else "POST"
    status, got, _ = ask(path, *[piece] * 5, method=method)
    assert status == 413 and (path == "/gradio_api/upload" or got == [])
    declared = [(b"content-length", b"%d" % (LARGEST_UPLOAD + 1))]
    assert ask(path, b"", method=method, headers=declared)[:2] == (413, [])
    if path == "/gradio_api/upload":
        status, (_, *received), _ = ask(path, *[piece] * 4, method=method)
        assert status == 200 and sum(map(len, received)) == LARGEST_UPLOAD
        parts = b"content-disposition: form-data"
        assert ask(path, *[parts] * 16, method=method)[0] == 200
        assert ask(path, *[parts[:5], parts[5:].upper()] * 17, method=method)[0] == 413


def test_other_kinds_of_connections_do_not_pass() -> None:
    assert ask("/", type="websocket")[1] == ask("/", type="unknown")[1] == []
    assert [scope["type"] for scope in ask("/", type="lifespan")[1]] == ["lifespan"]
