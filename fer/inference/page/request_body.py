"""Body of a request to fer-demo, counted while it arrives, and the answer to one that is refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.formparsers import MultiPartException

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

# The page sends one file in a request. Gradio opens up to a thousand, as many as a process may have open.
_MOST_PARTS = 16
# Bytes in the head of every part.
_PART = b"content-disposition"
# Clients read an answer only after they have sent their request, so a part of a refused request's rest is read.
_SECONDS_TO_READ_ON = 10
_READ_ON = 100 * 10**6


class Refused(Exception):
    """A request that the guard answers itself.

    Args:
        status: of the answer.
        text: its body.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BodyRefused(Refused, MultiPartException):
    """A body that is refused while it is read: as an error of the parser it makes Gradio remove what it has stored."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.message = text


class RequestBody:
    """Receives a body of limited size.

    Args:
        receive: the server's.
        largest: number of bytes that it may have.
        scope: of the request, whose headers may tell its size.
    """

    def __init__(self, receive: Receive, largest: int, scope: Scope) -> None:
        self.fault: BodyRefused | None = None
        self._receive = receive
        self._largest = largest
        self._declared = sum(int(size) for size in headers(scope, "content-length"))
        self._size = self._parts = 0
        self._end_of_last = b""
        self._is_whole = False
        self._instead: bytes | None = None

    @property
    def is_whole(self) -> bool:
        """True once the whole body has been read."""
        return self._is_whole

    async def receive(self) -> Message:
        """Receive for the application.

        Raises:
            BodyRefused: it is too large, has too many parts, or ends too early.
        """
        if self._instead is not None:
            content, self._instead = self._instead, None
            return {"type": "http.request", "body": content, "more_body": False}
        if self._is_whole:
            return await self._receive()
        self.check_declared()
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._refuse(400, "The request was cut off.")
        self._count(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        return message

    def check_declared(self) -> None:
        """Refuse what is too large by its own account.

        Raises:
            BodyRefused: it is.
        """
        if self._declared > self._largest:
            self._refuse_size()

    async def read(self) -> bytes:
        """Read all of it.

        Raises:
            BodyRefused: as from ``receive``.
        """
        read = bytearray()
        while not self._is_whole:
            read += (await self.receive()).get("body", b"")
        return bytes(read)

    def replace(self, content: bytes) -> None:
        """Give the application another body than the one that has been read."""
        self._instead = content

    def _count(self, piece: bytes) -> None:
        self._size += len(piece)
        seen = self._end_of_last + piece.lower()
        self._parts += seen.count(_PART)
        self._end_of_last = seen[-len(_PART) + 1 :]
        if self._size > self._largest:
            self._refuse_size()
        if self._parts > _MOST_PARTS:
            self._refuse(413, f"The request has more than {_MOST_PARTS} parts.")

    def _refuse_size(self) -> None:
        self._refuse(413, f"The request is larger than the maximum allowed size, {self._largest:,} bytes.")

    def _refuse(self, status: int, text: str) -> None:
        self.fault = BodyRefused(status, text)
        raise self.fault


async def refuse(fault: Refused, body: RequestBody | None, receive: Receive, send: Send) -> None:
    """Answer a request that is refused; the connection is closed after it."""
    text = f"{fault}\n".encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": fault.status, "headers": [*head, (b"connection", b"close")]})
    if body is None or not body.is_whole:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_READ_ON):
                await _read_on(receive)
    await send({"type": "http.response.body", "body": text})


def headers(scope: Scope, name: str) -> list[str]:
    """Get all values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()]


async def _read_on(receive: Receive) -> None:
    size, is_more = 0, True
    while is_more and size < _READ_ON:
        message = await receive()
        size += len(message.get("body", b""))
        is_more = message.get("more_body", False)
