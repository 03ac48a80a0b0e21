"""Processes that work together over gloo, for tests of what several devices do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed

PATIENCE = 120.0
"""Seconds after which ranks are taken to wait for each other for ever."""


class Ranks:
    """``Ranks(2)(function, *arguments)`` calls a module's function in two ranks and returns what each of them returns.

    The processes are as torchrun starts them, so that ``fer.launch.run_job.run`` in all of them trains one run. They
    start with the first call and serve later ones; those of a call that fails are ended.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: list[tuple[BaseProcess, Connection]] = []
        self._folder = tempfile.TemporaryDirectory()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        if not self._processes:
            self._start()
        for _, connection in self._processes:
            connection.send((function, arguments))
        try:
            return self._answers(time.monotonic() + PATIENCE)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for process, _ in self._processes:
            process.kill()
            process.join()
        self._processes = []

    def _start(self) -> None:
        # Imports take seconds, so one process makes them once, starts no threads, and forks the ranks.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lightning.pytorch", "fer.training.experiment"])
        store = Path(tempfile.mkdtemp(dir=self._folder.name)) / "store"
        for rank in range(self.count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.count, store, there), daemon=True)
            process.start()
            there.close()
            self._processes.append((process, here))

    def _answers(self, deadline: float) -> list[Any]:
        answers: dict[int, Any] = {}
        while len(answers) < self.count:
            for rank, (_, connection) in enumerate(self._processes):
                if rank not in answers and connection.poll(0.01):
                    answer, error = pickle.loads(connection.recv_bytes())
                    if error is not None:
                        raise error
                    answers[rank] = answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"of {self.count} ranks only {sorted(answers)} have answered")
        return [answers[rank] for rank in range(self.count)]


def _serve(rank: int, count: int, store: Path, connection: Connection) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE)
    )
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments), None
        except BaseException as error:
            answer = None, error
        connection.send_bytes(pickle.dumps(answer))  # by value, unlike a tensor that is sent
