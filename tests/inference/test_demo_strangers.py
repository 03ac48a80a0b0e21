"""fer-demo: what strangers send to the server is refused quietly, and shows them nothing of the machine."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image
from support.demo_pages import API, LOOPBACK, MULTIPART, Server, part, start

from fer.runs.run_folder import RunFolder

pytest.importorskip("gradio", reason='the page needs Gradio: pip install -e ".[demo]"')

LIMIT = 20 * 2**20
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def started(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(run, tmp_path_factory.mktemp("server"))
    Image.new("RGB", (32, 32), "red").save(server.secrets / "secret.png")
    yield server
    server.end()


@pytest.fixture
def server(started: Server) -> Iterator[Server]:
    """A server that logs nothing, opens no secret, talks to nobody and goes on, whatever a test does to it."""
    printed = started.log.read_text()
    yield started
    assert started.log.read_text() == printed
    heard = started.heard.read_text().splitlines() if started.heard.exists() else []
    assert {*heard} <= LOOPBACK
    found = started.call([{"path": started.upload(picture())}, True, False], session="after")
    assert found["success"] and found["output"]["data"][2] == {"visible": True, "__type__": "update"}


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "blue").save(stream, "PNG")
    return stream.getvalue()


def test_no_file_is_shown_but_uploads_and_nothing_tells_what_exists(server: Server) -> None:
    secret, folder = str(server.secrets / "secret.png"), server.folder
    mine = server.upload(picture())
    for name, target in (("link.png", secret), ("loop.png", folder / "loop.png"), ("folder", server.secrets)):
        (folder / name).symlink_to(target)
    meta = {"meta": {"_type": "gradio.FileData"}}
    paths: list[Any] = [
        secret, f"{secret}.absent", str(server.secrets), "/dev/zero", "/proc/self/environ", "", ".", "secret.png", "~",
        f"{folder}/../../secrets/secret.png", str(folder), f"{folder}/link.png", f"{folder}/loop.png",
        f"{folder}/folder/secret.png", f"{folder}/absent.png", f"{mine}\0", f"{secret}\0.png", "\ud800", "x" * 500_000,
        f"file://{secret}", "http://192.0.2.1/a.png", "https://example.com/a.png", 1, 1e400, True, None, [secret],
        {"path": secret},
    ]  # fmt: skip
    photos = [
        secret, mine, 1, 1.5, True, [], [secret], [{"path": secret}], {}, {"url": secret}, {"path": [mine]},
        {"url": "http://192.0.2.1/a.png", **meta}, {"is_stream": True, **meta}, {"orig_name": secret},
        *({"path": path} for path in paths),
        *({"path": path, "url": f"file={path}", "orig_name": "a.png", "size": -1, "is_stream": True} for path in paths),
        *({"path": path, "orig_name": "a.png", **meta} for path in paths),
    ]  # fmt: skip
    answers = {json.dumps(server.call([photo, True, True])["output"]["data"]) for photo in photos}
    assert len(answers) == 1 and "This picture was not uploaded" in answers.pop()
    for name in ("link.png", "loop.png", "folder"):
        (folder / name).unlink()


@pytest.mark.parametrize("function", [1, 2])
def test_faces_are_picked_only_where_there_are_some(server: Server, function: int) -> None:
    """Function 1 takes the number of a face, 2 a click."""
    looked = server.call([{"path": server.upload(picture())}, True, True], session="picks")
    assert looked["success"]
    clicks: list[Any] = [{"index": [3, 3]}, {"index": [-1e9, 1e9], "value": "<b>", "selected": 1}]
    numbers: list[Any] = [0, 1, -1, 10**9, 2**70, 0.5, "0", None, [], {}, True, "x" * 10_000]
    for session in ("picks", "has-none"):
        for number in numbers if function == 1 else [None]:
            for click in [None] if function == 1 else clicks:
                data = [None, number] if function == 1 else [None]
                answer = server.call(data, function, session, event_data=click)
                assert answer["success"], (number, click)
    for click in (None, 1, "ab", [], {}, {"index": 1}, {"index": [1]}, {"index": ["a", 1]}, {"index": [1, 2, 3]},
                  {"index": [float("nan"), 1]}, {"index": [1e400, 1]}, {"index": [10**400, 1]}):  # fmt: skip
        assert server.call([None], 2, "picks", event_data=click) == 400


def test_what_is_no_call_of_the_page_is_refused(server: Server) -> None:
    good: dict[str, Any] = {"data": [None, True, True], "fn_index": 0, "session_hash": "s"}
    changes: list[dict[str, Any]] = [
        {"data": None}, {"data": []}, {"data": {}}, {"data": "abc"}, {"data": [None] * 4}, {"fn_index": 3},
        {"fn_index": -1}, {"fn_index": None}, {"fn_index": "0"}, {"fn_index": False}, {"fn_index": 2**80},
        {"fn_index": [0]}, {"session_hash": None}, {"session_hash": ""}, {"session_hash": 1}, {"session_hash": "a/b"},
        {"session_hash": "a" * 65}, {"session_hash": "\ud800"}, {"session_hash": ["s"]},
    ]  # fmt: skip
    bodies = [json.dumps(good | change).encode() for change in changes]
    bodies += [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 200_000, b'{"data":' * 20_000, b"1" * 10_000, b"\0"]
    for body in bodies:
        assert server.ask(f"{API}/queue/join", body, JSON)[0] == 400, body[:80]
    more = {"event_id": "x" * 99, "trigger_id": {}, "batched": True, "simple_format": True, "event_data": {"a": 1}}
    assert server.call(good["data"], **more)["success"]


def test_routes_that_the_page_does_not_need_are_closed(server: Server) -> None:
    secret = server.secrets / "secret.png"
    mine = server.upload(picture())
    assert server.ask(f"{API}/file={quote(mine)}") == (200, picture())
    missing = server.ask("/no/such/thing")
    assert missing[0] == 404
    for path in (
        f"{API}/file={secret}", f"{API}/file={secret}.absent", f"{API}/file={server.secrets}", f"{API}/file=",
        f"{API}/file=http://192.0.2.1/a.png", f"{API}/file={server.folder}/../../secrets/secret.png",
        f"{API}/file={server.folder}", f"{API}/file={quote(mine)}%00", f"{API}/file/{secret}", f"{API}/file{mine}",
        f"{API}/proxy=http://192.0.2.1/", f"{API}/proxy=file://{secret}", f"{API}/info", f"{API}/openapi.json",
        f"{API}/custom_component/x/client/component/index.js", f"{API}/deep_link?session_hash=s", f"{API}/runs",
        f"{API}/stream/s/1/2/playlist.m3u8", f"{API}/queue/status", f"{API}/startup-events", f"{API}/user",
        f"{API}/dev/reload", f"{API}/vibe-code", f"{API}/login_check", f"{API}/profiling/traces", "/config",
        "/monitoring", "/monitoring/summary", "/robots.txt", "/manifest.json", "/pwa_icon", "/logout", "/svelte/x.js",
        "/docs", "/redoc", "/openapi.json", f"{API}/token", "/static/../routes.py", "/static/%2e%2e/routes.py",
        "/assets/..%2f..%2froutes.py",
        f"/assets/{secret}", "//etc/passwd", f"{API}/heartbeat/{'a' * 100}", f"{API}/mcp/sse",
    ):  # fmt: skip
        assert server.ask(path) == missing, path
    for query in ("", "?session_hash=", "?session_hash=a/b", f"?session_hash={'a' * 65}", "?session_hash=%00"):
        assert server.ask(f"{API}/queue/data{query}")[0] == 400, query
    for path in (
        f"{API}/run/predict", f"{API}/api/predict", f"{API}/call/predict", f"{API}/cancel", f"{API}/reset",
        f"{API}/component_server", f"{API}/process_recording", f"{API}/vibe-edit", f"{API}/stream/x", "/login", "/",
        f"{API}/file={secret}",
    ):  # fmt: skip
        assert server.ask(path, json.dumps({"data": [], "session_hash": "s"}).encode(), JSON) == missing, path
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "XYZ"):
        assert server.ask("/", method=method)[0] == 404


def test_another_host_is_refused(server: Server) -> None:
    port = urlsplit(server.url).port
    good = ["localhost", "LOCALHOST:1", "127.0.0.1", f"127.0.0.1:{port}", "[::1]", "[0:0::1]:80"]
    bad = ["evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "",
           "127.0.0.2", "localhost:x", "localhost:", "localhost/", "a@localhost", "localhost localhost", "localhost,x",
           "[::1", "::1", "[::2]", "http://localhost", socket.gethostname(), "l\xf6calhost", "a" * 5000]  # fmt: skip
    for host in good:
        assert server.ask("/theme.css", headers={"Host": host})[0] == 200, host
    for host in bad:
        for path in ("/", "/theme.css", f"{API}/queue/data?session_hash=s", "/absent"):
            assert server.ask(path, headers={"Host": host})[0] in (400, 421), host
        assert server.ask(f"{API}/upload", part("a.png", b"") + b"--x--", {"Host": host, **MULTIPART})[0] in (400, 421)
    for head in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), 20) as stream:
            stream.sendall(head)
            assert stream.recv(100).split()[1] in (b"400", b"421")
    believed = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "http://evil.example"}
    status, page = server.ask("/", headers=believed)
    assert status == 200 and b"evil.example" not in page


def test_pages_of_other_hosts_cannot_send_anything(server: Server) -> None:
    mine, host = server.url, urlsplit(server.url).netloc
    body = part("a.png", picture()) + b"--x--\r\n"
    kept = len([*server.folder.rglob("*")])
    for origin in ("http://evil.example", "null", "", "http://localhost:1", f"ftp://{host}", f"{mine}.evil.example",
                   f"{mine}/", host, "http://", f"{mine} http://evil.example", "file://"):  # fmt: skip
        assert server.ask(f"{API}/upload", body, {"Origin": origin, **MULTIPART})[0] == 403, origin
        assert server.ask(f"{API}/queue/join", b"{}", {"Origin": origin, **JSON})[0] == 403, origin
        assert server.ask("/", headers={"Origin": origin})[0] == 403, origin
    for site in ("cross-site", "same-site", "other", ""):
        assert server.ask(f"{API}/upload", body, {"Sec-Fetch-Site": site, **MULTIPART})[0] == 403, site
    assert len([*server.folder.rglob("*")]) == kept
    assert server.ask("/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200, "a link may lead here"
    allowed: list[dict[str, str]] = [
        {}, {"Origin": mine}, {"Origin": f"https://{host}"}, {"Origin": mine, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ]  # fmt: skip
    for headers in allowed:
        assert server.ask(f"{API}/upload", body, {**headers, **MULTIPART})[0] == 200, headers


def chunks(content: bytes, size: int = 2**18) -> Iterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


def send(server: Server, path: str, content: bytes, headers: dict[str, str]) -> int:
    """The status for a body that comes in chunks without saying its size."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("POST", path, chunks(content), headers, encode_chunked=True)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_limit_counts_a_request(server: Server) -> None:
    upload = f"{API}/upload"
    files = b"".join(part(f"{n}.png", bytes([n]) * 9 * 2**20) for n in range(3)) + b"--x--\r\n"
    allowed = part("a.png", bytes(LIMIT - 200)) + b"--x--\r\n"
    assert server.ask(upload, allowed, MULTIPART)[0] == 200
    assert send(server, upload, allowed, {**MULTIPART, "Transfer-Encoding": "chunked"}) == 200
    kept = sorted(server.folder.rglob("*"))
    large = {
        "files": files,
        "file": part("a.png", bytes(LIMIT)) + b"--x--\r\n",
        "field": b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + bytes(LIMIT) + b"\r\n--x--\r\n",
        "preamble": bytes(LIMIT) + part("a.png", b"") + b"--x--\r\n",
        "parts": b"".join(part(f"{n}.png", b"") for n in range(500)) + b"--x--\r\n",
    }
    for name, body in large.items():
        assert server.ask(upload, body, MULTIPART)[0] == 413, name
        refusals = (400, 413) if name == "preamble" else (413,)
        assert send(server, upload, body, {**MULTIPART, "Transfer-Encoding": "chunked"}) in refusals, name
    body = b" " * (LIMIT + 1)
    for path in (
        "queue/join",
        "cancel",
        "component_server",
        "absent",
        "file=/etc/passwd",
        "run/predict",
        "heartbeat/x",
    ):
        assert server.ask(f"{API}/{path}", body, JSON)[0] == 413, path
        assert send(server, f"{API}/{path}", body, {**JSON, "Transfer-Encoding": "chunked"}) == 413, path
    assert server.ask("/", body, method="GET")[0] == 413
    assert server.ask(f"{API}/queue/join", body[: 2**20 + 1], JSON)[0] == 413
    assert sorted(server.folder.rglob("*")) == kept, "nothing stays of what is refused"


def test_nothing_stays_of_an_upload_that_is_cut_off(server: Server) -> None:
    kept = sorted(server.folder.rglob("*"))
    for head in (b"Content-Length: 9999999", b"Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", urlsplit(server.url).port), 20) as stream:
            body = part("a.png", bytes(2**20))
            if b"chunked" in head:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            kind = b"Content-Type: multipart/form-data; boundary=x"
            path = f"{API}/upload".encode()
            stream.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n%b\r\n\r\n%b" % (path, kind, head, body))
            until(lambda: sorted(server.folder.rglob("*")) != kept)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: sorted(server.folder.rglob("*")) == kept)


def until(condition: Any) -> None:
    latest = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.02)


def test_websockets_are_refused(server: Server) -> None:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "x" * 16,
        "Sec-WebSocket-Version": "13",
    }
    assert server.ask(f"{API}/queue/join", headers=headers)[0] in (400, 403, 404)


def test_names_of_other_machines_and_of_a_proxy(run: RunFolder, tmp_path: Path) -> None:
    server = start(run, tmp_path, "--host=0.0.0.0", "--allowed-host=Demo.Example.org")
    try:
        local = server._replace(url=f"http://127.0.0.1:{urlsplit(server.url).port}")
        for host in (
            socket.gethostname(),
            socket.getfqdn(),
            "127.0.0.1",
            "localhost",
            "demo.example.org",
            "demo.example.org:81",
        ):
            assert local.ask("/theme.css", headers={"Host": host})[0] == 200, host
        for host in ("evil.example", "a.demo.example.org", "10.9.8.7", "0.0.0.0"):
            assert local.ask("/theme.css", headers={"Host": host})[0] == 421 or host == "0.0.0.0", host
        public = {"X-Forwarded-Host": "demo.example.org", "Origin": "https://demo.example.org", **JSON}
        assert local.ask(f"{API}/queue/join", b"{}", public)[0] == 400, "a call that may be made, but is none"
    finally:
        server.end()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGHUP))]
)
def test_uploads_are_removed_at_any_signal(run: RunFolder, tmp_path: Path, number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as by nohup, and so by programs started here")
    server = start(run, tmp_path)
    server.upload(picture())
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port), 20) as stream:
        stream.sendall(f"GET {API}/heartbeat/open HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert stream.recv(100).startswith(b"HTTP/1.1 200")
        server.process.send_signal(number)
        assert server.end(number) == 0, "an impatient second one changes nothing"
    assert [*server.temporary.iterdir()] == []
    assert "Traceback" not in server.log.read_text()
