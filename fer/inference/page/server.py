"""A whole call of fer-demo: open the model, serve the page to browsers, leave nothing behind."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fer.errors import ConfigError
from fer.files.terminal import say
from fer.inference.faces import FaceDetector
from fer.inference.open_model import open_model
from fer.inference.page.host_names import HostNames
from fer.inference.page.uploads import temporary_folder
from fer.training.kept_config import ReadingOptions

if TYPE_CHECKING:
    from fer.inference.page.app import DemoPage

_SECONDS_TO_END = 1
# Seconds to wait for calls that are still computing, since they may write a picture.
_SECONDS_FOR_CALLS = 10
# Browser sessions whose faces are kept; in an older session, a click on a face shows nothing.
_MOST_SESSIONS = 200
# Gradio reads these when it is imported. The page then works offline and sends no statistics.
_ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
# Browsers then send no request of the page to another host, whatever a later version of Gradio adds.
_ONLY_THIS_HOST = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'"


@dataclass
class Demo:
    """The options of ``fer-demo``, in the ranges that its command line checks.

    Raises:
        UserError: from ``run``, for what cannot be used, before the page is served.
    """

    run_folder: Path | None
    model: Path | None
    host: str
    port: int
    device: str
    least_score: float
    cam: bool
    allowed_hosts: list[str] = field(default_factory=list)
    reading: ReadingOptions | None = None
    """Options for reading the run's configuration."""

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or SIGHUP."""
        if find_spec("gradio") is None:
            raise ConfigError('the page needs more packages: pip install "noisy-label-fer[demo]"')
        with _listening(self.host, self.port) as listener:
            hosts = HostNames(self.host, listener.getsockname()[0], self.allowed_hosts)
            model = open_model(self.run_folder, self.model, self.device, self.reading)
            detector = FaceDetector(self.least_score)
            template = model.face_template(detector)
            with temporary_folder() as folder, _calls_awaited():
                os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=str(folder))
                from fer.inference.page.app import DemoPage

                page = DemoPage(model, template, detector, folder, title=self._title(), show_cam=self.cam)
                say(f"{_address(listener)}  shows {self._title()}; Ctrl-C ends it")
                _serve(page, listener, hosts, folder)

    def _title(self) -> str:
        """The last parts of the path, which name a run by its content."""
        path = (self.run_folder or self.model or Path()).resolve()
        return "/".join(path.parts[-2:])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is taken before the model is read, so that a port in use is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise ConfigError(
            f"--host {host} --port {port}: {reason}; choose another port, or --port 0 for any that is free"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _calls_awaited() -> Iterator[None]:
    """Wait in the end for threads that compute: they would write to the folder that is being removed."""
    before = {*threading.enumerate()}
    try:
        yield
    finally:
        latest = time.monotonic() + _SECONDS_FOR_CALLS
        for thread in {*threading.enumerate()} - before:
            thread.join(max(0.0, latest - time.monotonic()))


def _serve(page: DemoPage, listener: socket.socket, hosts: HostNames, folder: Path) -> None:
    import gradio
    import uvicorn
    from fastapi import FastAPI

    from fer.inference.page.request_guard import LARGEST_UPLOAD, RequestGuard

    # This logger reports every body that it cannot read.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # Otherwise Gradio would accept any path on this machine as an uploaded picture.
    page.blocks.has_launched = True
    page.blocks.state_session_capacity = _MOST_SESSIONS
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        page.blocks,
        path="/",
        css=page.style,
        max_file_size=LARGEST_UPLOAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
    )
    config = uvicorn.Config(
        RequestGuard(app, hosts, folder),
        log_level="critical",  # Closed connections of browsers would be logged as errors at the end.
        headers=[("Content-Security-Policy", _ONLY_THIS_HOST), ("X-Content-Type-Options", "nosniff")],
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    uvicorn.Server(config).run(sockets=[listener])
