"""Callbacks that watch for waits for the device."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result, or the shape of it, has to reach the CPU.
WAITING = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "equal", "is_nonzero"}


class Waits(TorchDispatchMode):
    """Collects the names of operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in WAITING or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Watch(L.Callback):
    """Looks at whole steps as the Trainer makes them, optimizer and hooks included."""

    def __init__(self) -> None:
        self.waits: dict[str, list[list[str]]] = {"train": [], "evaluation": []}

    def _start(self) -> None:
        self.mode = Waits()
        self.mode.__enter__()

    def _end(self, phase: str) -> None:
        self.mode.__exit__(None, None, None)
        self.waits[phase].append(self.mode.seen)

    def on_train_batch_start(self, *_: Any) -> None:
        self._start()

    def on_train_batch_end(self, *_: Any) -> None:
        self._end("train")

    def on_validation_batch_start(self, *_: Any) -> None:
        self._start()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._end("evaluation")
