"""A running fer-demo to be looked at in a browser or spoken to by strangers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fer.runs.run_folder import RunFolder
from support.project import PROJECT

# Loaded by the server's Python first: it logs the hosts that the server connects to or looks up, and whether it
# opens what lies in the folder of secrets.
EARS = """
import os, sys

def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["HEARD"], "a") as stream:
            print(arguments[1][0] if event == "socket.connect" else arguments[0], file=stream)
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(os.environ["SECRETS"]):
        with open(os.environ["HEARD"], "a") as stream:
            print("opened", arguments[0], file=stream)

sys.addaudithook(hear)
"""
API = "/gradio_api"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Server(NamedTuple):
    """A running fer-demo."""

    process: subprocess.Popen[bytes]
    url: str
    temporary: Path
    heard: Path
    log: Path

    @property
    def secrets(self) -> Path:
        """Folder with files that the server must not show."""
        return self.log.with_name("secrets")

    @property
    def folder(self) -> Path:
        """Folder of uploaded files."""
        (folder,) = self.temporary.glob("fer-demo-*")
        return folder

    def end(self, by: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, by default that of Ctrl-C, and return the exit status."""
        self.process.send_signal(by)
        return self.process.wait(timeout=60)

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
    ) -> tuple[int, bytes]:
        """Send a request, with a Host header if one is given, and return the answer's status and body."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        headers = headers or {}
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, data: list[Any], function: int = 0, session: str = "stranger", **more: Any) -> Any:
        """Call a function of the page and return its answer, or the HTTP status of a refusal."""
        call = {"data": data, "fn_index": function, "session_hash": session, "trigger_id": 1, **more}
        status, _ = self.ask(f"{API}/queue/join", json.dumps(call).encode(), {"Content-Type": "application/json"})
        if status != 200:
            return status
        status, answers = self.ask(f"{API}/queue/data?session_hash={session}")
        assert status == 200
        (answer,) = (line for line in answers.splitlines() if b"process_completed" in line)
        return json.loads(answer.removeprefix(b"data: "))

    def upload(self, content: bytes, name: str = "a.png") -> str:
        """Upload a file and return its path on the server."""
        status, answer = self.ask(f"{API}/upload", part(name, content) + b"--x--\r\n", MULTIPART)
        assert status == 200, answer
        (path,) = json.loads(answer)
        assert isinstance(path, str)
        return path


def part(name: str, content: bytes) -> bytes:
    """Encode a file as one part of a multipart body."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def start(run: RunFolder, folder: Path, *options: str) -> Server:
    """Start fer-demo on a free port, with a folder for temporary files and one for secrets of its own."""
    for name in ("temporary", "ears", "secrets"):
        (folder / name).mkdir(parents=True)
    (folder / "ears" / "sitecustomize.py").write_text(EARS)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder / "ears"), str(PROJECT)]),
        "HEARD": str(folder / "heard"),
        "SECRETS": str(folder / "secrets"),
        "TMPDIR": str(folder / "temporary"),
    }
    log = folder / "log"
    command = [sys.executable, "-m", "fer.cli.demo_app", "--run", str(run.path), "--port=0", "--device=cpu", *options]
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    while process.poll() is None:
        if found := re.search(r"^http://\S+:\d+", log.read_text(), re.MULTILINE):
            return Server(process, found[0], folder / "temporary", folder / "heard", log)
        time.sleep(0.1)
    raise AssertionError(log.read_text())
