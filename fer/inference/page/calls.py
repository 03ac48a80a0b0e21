"""Calls of the page of fer-demo, rebuilt from the few values of a client's request that the page accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

# Numbers of the page's functions, in the order in which it connects them.
LOOK, SHOW, PICK = range(3)

_SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
_LONGEST_PATH = 4096
_LONGEST_NAME = 80
_NO_FACE = -1


class NoCall(ValueError):
    """A request that calls no function of the page."""


def rebuild_call(body: bytes) -> bytes:
    """Rebuild a call, so that Gradio never sees a value of a kind or size that the page does not send.

    Of a photo stay path and name. Without the rest Gradio neither opens nor fetches anything for it.

    Raises:
        NoCall: it is none.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoCall from error
    if not isinstance(call, dict) or not isinstance(call.get("data"), list):
        raise NoCall
    session, function = call.get("session_hash"), call.get("fn_index")
    if not is_session(session) or not isinstance(function, int) or isinstance(function, bool):
        raise NoCall
    if function not in _REBUILD:
        raise NoCall
    rebuilt = _REBUILD[function](call["data"], call.get("event_data"))
    return json.dumps({"session_hash": session, "fn_index": function, **rebuilt}).encode()


def is_session(text: object) -> bool:
    """Tell whether a value can be the name of a browser's session."""
    return isinstance(text, str) and _SESSION.fullmatch(text) is not None


def printable(name: object) -> str:
    """The name of a file as a client gives it: one line of at most 80 characters, none of them invisible."""
    if not isinstance(name, str):
        return ""
    shown = "".join(character for character in name[:1000] if character.isprintable()).strip()
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


def _look(data: list[Any], _: object) -> dict[str, Any]:
    if len(data) != 3:
        raise NoCall
    photo, is_face, with_cam = data
    return {"data": [None if photo is None else _photo(photo), is_face is True, with_cam is True]}


def _photo(photo: object) -> dict[str, str]:
    """Path and name of a photo; both empty where it has none, which then is no upload."""
    if not isinstance(photo, dict):
        return {"path": "", "orig_name": ""}
    path = photo.get("path")
    if not isinstance(path, str) or len(path) > _LONGEST_PATH or not path.isprintable():
        path = ""
    return {"path": path, "orig_name": printable(photo.get("orig_name"))}


def _show(data: list[Any], _: object) -> dict[str, Any]:
    if len(data) != 2:
        raise NoCall
    is_number = isinstance(data[1], int) and not isinstance(data[1], bool) and 0 <= data[1] < 2**31
    return {"data": [None, data[1] if is_number else _NO_FACE]}


def _pick(_: list[Any], event: object) -> dict[str, Any]:
    place = event.get("index") if isinstance(event, dict) else None
    if not isinstance(place, list) or len(place) != 2 or not all(map(_is_pixel, place)):
        raise NoCall
    return {"data": [None], "event_data": {"index": place, "value": None}}


def _is_pixel(value: object) -> bool:
    """Tell whether a value can be a pixel coordinate; NaN cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2**31) < value < 2**31


_REBUILD: dict[int, Callable[[list[Any], object], dict[str, Any]]] = {LOOK: _look, SHOW: _show, PICK: _pick}
