"""Reader of pickles that runs nothing: a subclass says what a pickle may name and call; by default nothing.

Python's own reader believes the file where it states sizes, positions and references, so that a few bytes can ask for
gigabytes or for ever. Here every byte must be in the file, work is counted, and nothing follows references.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from fer.models.weights.pickle_stream import LITERALS, DamagedPickleError, Stream

MOST_STEPS = 1_000_000
"""Operations, and items handed to a call, that one pickle may have; the weights of a network take some ten thousand."""

_NAME_SHOWN = 120
# Hashing a tuple hashes all of its content, each repetition again: nested shared pairs would take forever.
_KEYS = str | bytes | int | float | None


class UnsafePickleError(pickle.UnpicklingError):
    """The pickle asks for something that it may not have; the message says for what."""


def shown(name: object) -> str:
    """A name from a foreign file as it can be printed: short, in one line, without control characters."""
    text = name if isinstance(name, str) else type(name).__name__
    start = text[:_NAME_SHOWN] + ("..." if len(text) > _NAME_SHOWN else "")
    return start if start.isprintable() else ascii(start)[1:-1]


class PickleMachine:
    """Reads one pickle of plain values and dicts, and of what a subclass admits.

    Args:
        file: stands at the pickle's first byte, and after ``load`` behind its last.
    """

    admits_lists = False

    def __init__(self, file: BinaryIO) -> None:
        self._stream = Stream(file)
        self._steps_left = MOST_STEPS
        self._bytes_left = 3 * self._stream.left
        self._stack: list[Any] = []
        self._outer_stacks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The pickled object.

        Raises:
            UnsafePickleError: it asks for what is not admitted.
            DamagedPickleError: it cannot be read to its end.
        """
        try:
            return self._run()
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise DamagedPickleError(shown(str(error))) from error

    # ---- For subclasses -------------------------------------------------------------------------------------------

    def find(self, module: str, name: str) -> Any:
        """Stand-in for a name; only what is callable here can be called by the pickle."""
        raise UnsafePickleError(f"{shown(module)}.{shown(name)}")

    def build(self, target: Any, state: Any) -> None:
        """Hand an object its pickled state."""
        raise UnsafePickleError(f"attributes of a {type(target).__name__}")

    def find_persistent(self, identifier: Any) -> Any:
        """Stand-in for an object that lies outside the pickle."""
        raise UnsafePickleError("objects outside the pickle")

    def work(self, items: int) -> None:
        """Count the items that a call will read."""
        self._steps_left -= items
        if self._steps_left < 0:
            raise UnsafePickleError(f"more than {MOST_STEPS:,} steps to read it")

    def make(self, size: int) -> None:
        """Count the bytes that a call will create: an honest file holds each of them, and about once."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise UnsafePickleError("several times the bytes that are in it")

    def encode(self, text: object, encoding: object) -> bytes:
        """Stand-in for ``_codecs.encode``, as which protocols below 3 write bytes."""
        if not (isinstance(text, str) and isinstance(encoding, str) and encoding in ("latin1", "latin-1")):
            raise UnsafePickleError(f"text encoded as '{shown(encoding)}'")
        self.make(len(text))
        return text.encode("latin1")

    def fill(self, target: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Set items of a dict."""
        for key, value in zip(keys, values, strict=True):
            if not isinstance(key, _KEYS):
                raise UnsafePickleError(f"a {type(key).__name__} as key of a dict")
            target[key] = value

    # ---- Operations -----------------------------------------------------------------------------------------------

    def _run(self) -> Any:
        while True:
            self.work(1)
            operation = self._stream.take(1)
            literal = LITERALS.get(operation)
            if literal is not None:
                self._stack.append(literal(self._stream))
            elif operation == pickle.STOP:
                return self._stack.pop()
            elif operation in _OPERATIONS:
                _OPERATIONS[operation](self)
            elif operation in _LIST_OPERATIONS and self.admits_lists:
                _LIST_OPERATIONS[operation](self)
            else:
                raise UnsafePickleError(f"the operation {operation!r}")

    def _protocol(self) -> None:
        if self._stream.number(1) > pickle.HIGHEST_PROTOCOL:
            raise DamagedPickleError("it is not a pickle, or a later Python wrote it")

    def _frame(self) -> None:
        self._stream.take(8)

    def _mark(self) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer_stacks.pop()
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _last(self, count: int) -> tuple[Any, ...]:
        if count > len(self._stack):
            raise DamagedPickleError("it uses values that it does not hold")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _keep(self, position: int) -> None:
        self._memo[position] = self._stack[-1]

    def _dict(self) -> None:
        items = self._since_mark()
        self._push({})
        self._set_items(items)

    def _set_items(self, items: Sequence[Any]) -> None:
        if type(self._stack[-1]) is not dict:
            raise DamagedPickleError("it sets an item of an object that is not a dict")
        self.fill(self._stack[-1], items[::2], items[1::2])

    def _append(self, items: Sequence[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise DamagedPickleError("it appends to what is no list")
        self._stack[-1].extend(items)

    def _global(self) -> None:
        module, name = self._stream.text_line(), self._stream.text_line()
        self._push(self.find(module, name))

    def _stack_global(self) -> None:
        module, name = self._last(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedPickleError("it uses a name that is not text")
        self._push(self.find(module, name))

    def _instance(self) -> None:
        self._global()
        raise UnsafePickleError("an object of a class")

    def _reduce(self) -> None:
        function, arguments = self._last(2)
        if not callable(function):
            raise UnsafePickleError(f"a call of {shown(function)}")
        self._push(function(*arguments))

    def _build(self) -> None:
        (state,) = self._last(1)
        self.build(self._stack[-1], state)

    def _persistent(self) -> None:
        self._push(self.find_persistent(*self._last(1)))


_OPERATIONS: dict[bytes, Callable[[PickleMachine], None]] = {
    pickle.PROTO: PickleMachine._protocol,
    pickle.FRAME: PickleMachine._frame,
    pickle.MARK: PickleMachine._mark,
    pickle.POP: PickleMachine._pop,
    pickle.POP_MARK: lambda machine: machine._since_mark().clear(),
    pickle.DUP: lambda machine: machine._push(machine._stack[-1]),
    pickle.TUPLE: lambda machine: machine._push(tuple(machine._since_mark())),
    pickle.TUPLE1: lambda machine: machine._push(machine._last(1)),
    pickle.TUPLE2: lambda machine: machine._push(machine._last(2)),
    pickle.TUPLE3: lambda machine: machine._push(machine._last(3)),
    pickle.DICT: PickleMachine._dict,
    pickle.SETITEM: lambda machine: machine._set_items(machine._last(2)),
    pickle.SETITEMS: lambda machine: machine._set_items(machine._since_mark()),
    pickle.GET: lambda machine: machine._push(machine._memo[int(machine._stream.line())]),
    pickle.BINGET: lambda machine: machine._push(machine._memo[machine._stream.number(1)]),
    pickle.LONG_BINGET: lambda machine: machine._push(machine._memo[machine._stream.number(4)]),
    pickle.PUT: lambda machine: machine._keep(int(machine._stream.line())),
    pickle.BINPUT: lambda machine: machine._keep(machine._stream.number(1)),
    pickle.LONG_BINPUT: lambda machine: machine._keep(machine._stream.number(4)),
    pickle.MEMOIZE: lambda machine: machine._keep(len(machine._memo)),
    pickle.GLOBAL: PickleMachine._global,
    pickle.STACK_GLOBAL: PickleMachine._stack_global,
    pickle.INST: PickleMachine._instance,
    pickle.REDUCE: PickleMachine._reduce,
    pickle.BUILD: PickleMachine._build,
    pickle.BINPERSID: PickleMachine._persistent,
}
_LIST_OPERATIONS: dict[bytes, Callable[[PickleMachine], None]] = {
    pickle.EMPTY_LIST: lambda machine: machine._push([]),
    pickle.LIST: lambda machine: machine._push(machine._since_mark()),
    pickle.APPEND: lambda machine: machine._append(machine._last(1)),
    pickle.APPENDS: lambda machine: machine._append(machine._since_mark()),
}
