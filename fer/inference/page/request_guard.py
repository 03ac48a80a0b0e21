"""Guard of fer-demo: before Gradio sees a request, its host, origin, route and size are checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fer.inference.page.calls import NoCall, is_session, rebuild_call
from fer.inference.page.host_names import HostNames
from fer.inference.page.request_body import Refused, RequestBody, headers, refuse
from fer.inference.page.uploads import find_upload

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_UPLOAD = 20 * 2**20
"""Bytes of a request, whatever it consists of."""
_LARGEST_CALL = 2**20
_READS = ("GET", "HEAD")
_FILE = "/gradio_api/file="
# Gradio trusts the first two more than the Host header, and fails on some ranges.
_LEFT_OUT = (b"x-forwarded-host", b"x-gradio-server", b"range")
_FOREIGN = "Only pages of this server may ask for this."


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9]{0,32}", text) is not None


@dataclass(frozen=True)
class Route:
    """Paths that the page asks for."""

    path: str
    """Regular expression of all of the path."""
    methods: tuple[str, ...] = _READS
    query: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    """Parameters and what they may be, or the empty text where they are absent; all others are left out."""
    rebuild: Callable[[bytes], bytes] | None = None
    """Makes the body that Gradio gets of the one that was sent."""
    is_upload: bool = False


# app_id: an open page asks for it after the connection was lost.
ROUTES = (
    Route(r"/|/theme\.css|/favicon\.ico|/gradio_api/app_id"),
    Route(r"/(assets|static)(/[\w@.-]{1,100}){1,9}"),
    Route(re.escape(_FILE) + "/.+"),
    Route(r"/gradio_api/heartbeat/[\w-]{1,64}", ("GET",)),
    Route("/gradio_api/upload_progress", ("GET",), {"upload_id": _is_id}),
    Route("/gradio_api/queue/data", ("GET",), {"session_hash": is_session}),
    Route("/gradio_api/queue/join", ("POST",), rebuild=rebuild_call),
    Route("/gradio_api/upload", ("POST",), {"upload_id": _is_id}, is_upload=True),
)


class RequestGuard:
    """Passes to an application only what its page may ask for.

    Args:
        app: the application.
        hosts: names that it may be asked by.
        folder: the only one of which it shows files, without links in its path.
    """

    def __init__(self, app: ASGIApp, hosts: HostNames, folder: Path) -> None:
        self._app = app
        self._hosts = hosts
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            body = None
            try:
                self._check_sender(scope)
                route = self._find_route(scope)
                body = RequestBody(receive, _LARGEST_CALL if route and not route.is_upload else LARGEST_UPLOAD, scope)
                await self._pass_on(scope, route, body, send)
            except Refused as fault:
                await refuse(fault, body, receive, send)

    def _check_sender(self, scope: Scope) -> None:
        """Check that a request is meant for this server, and that no page of another one has sent it.

        Raises:
            Refused: it is not, or one has.
        """
        connected = scope["server"][0] if scope.get("server") else None
        hosts = headers(scope, "host")
        if len(hosts) != 1 or not self._hosts.allows(hosts[0], connected):
            raise Refused(421, "This server is not known by that name; --allowed-host of fer-demo adds names.")
        forwarded = [host for host in headers(scope, "x-forwarded-host") if self._hosts.allows(host, connected)]
        for origin in headers(scope, "origin"):
            scheme, _, host = origin.lower().partition("://")
            if scheme not in ("http", "https") or host not in {name.lower() for name in (*hosts, *forwarded)}:
                raise Refused(403, _FOREIGN)
        if scope["method"] not in _READS and {*headers(scope, "sec-fetch-site")} - {"same-origin", "none"}:
            raise Refused(403, _FOREIGN)

    def _find_route(self, scope: Scope) -> Route | None:
        """Find the route of a request; ``None`` where the page never asks for this."""
        path, method = scope["path"], scope["method"]
        fitting = (known for known in ROUTES if re.fullmatch(known.path, path, re.ASCII | re.DOTALL))
        route = next((known for known in fitting if method in known.methods), None)
        if route is None or ".." in path.split("/"):
            return None
        if path.startswith(_FILE) and find_upload(self._folder, path.removeprefix(_FILE)) is None:
            return None
        return route

    async def _pass_on(self, scope: Scope, route: Route | None, body: RequestBody, send: Send) -> None:
        """Let the application answer.

        Raises:
            Refused: the request has no route or does not fit it.
        """
        body.check_declared()
        content = b"" if route and route.is_upload else await body.read()
        if route is None:
            raise Refused(404, "Not found.")
        passed = dict(scope) | {"query_string": _query(route, scope)}
        passed["headers"] = [(key, value) for key, value in scope["headers"] if key not in _LEFT_OUT]
        if not route.is_upload:
            content = _rebuilt(route, content)
            body.replace(content)
            passed["headers"] = _with_size(passed["headers"], len(content))
        is_begun = False

        async def answer(message: Message) -> None:
            nonlocal is_begun
            if is_begun or body.fault is None:
                is_begun = True
                await send(message)

        try:
            await self._app(passed, body.receive, answer)
        except Exception:
            if body.fault is None:
                raise
        if body.fault and not is_begun:
            raise body.fault


def _query(route: Route, scope: Scope) -> bytes:
    """Leave of a query what a route knows.

    Raises:
        Refused: a parameter is not what it must be.
    """
    sent = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = {name: values[0] for name, values in sent.items() if name in route.query}
    if not all(fits(kept.get(name, "")) for name, fits in route.query.items()):
        raise Refused(400, "No request of the page.")
    return "&".join(f"{name}={value}" for name, value in kept.items()).encode()


def _rebuilt(route: Route, content: bytes) -> bytes:
    try:
        return route.rebuild(content) if route.rebuild else b""
    except NoCall as error:
        raise Refused(400, "No request of the page.") from error


def _with_size(pairs: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    kept = [pair for pair in pairs if pair[0] not in (b"content-length", b"transfer-encoding", b"content-encoding")]
    return [*kept, (b"content-length", b"%d" % size)] if size else kept
