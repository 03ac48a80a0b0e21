"""The processes that train a run: this one, fresh workers of torch's elastic agent, or those of torchrun or SLURM."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from fer.config.settings import Settings
from fer.errors import RunFailed, TrainingError, UserError
from fer.files.terminal import log_to_terminal
from fer.launch.malloc import keep_freed_memory
from fer.runs.run_folder import RunFolder

Result = dict[str, Any]

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_EXIT_DELAY = 1.0
"""Seconds that a failing rank waits before it ends.

The agent looks ten times a second, so it first sees the rank that died first, which has caused the other errors."""


def train_rank(settings: Settings, path: str | Path) -> Result | UserError | None:
    """Train in this process, which is one rank or the only one.

    Returns:
        The result on the first rank, ``None`` on others. A ``UserError`` is returned: every rank meets it alike, so
        that none waits for another, and a restart would meet it again.

    Raises:
        Exception: anything else, after its traceback was added to the folder's ``error.txt``.
    """
    from fer.training import experiment

    keep_freed_memory()
    folder = RunFolder(path)
    try:
        if not is_first_rank():
            return experiment.train(settings, folder)
        with folder.locked():
            return folder.result() if folder.state == "done" else experiment.train(settings, folder)
    except UserError as error:
        return error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # so Lightning ends after Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK and settings.trainer.world_size == 1:
            return TrainingError(f"{error}; make room, and the same command goes on after the last whole epoch")
        folder.add_error(in_one_line(error), traceback.format_exc())
        raise


def train_in_workers(settings: Settings, folder: RunFolder) -> Result:
    """Hand the job to one fresh process per device; ranks that crash are started again from the last checkpoint."""
    ranks = settings.trainer.ranks_per_node
    with _worker_environment(ranks), _signals_restored(), TemporaryDirectory(prefix="fer-ranks-") as meeting_place:
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the run says itself what went wrong
        agent = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            # Any free port, since on the usual one the agent would unpickle data from any other machine.
            rdzv_endpoint=str(Path(meeting_place, "store")),
            rdzv_configs={"store_type": "file"},
            local_addr="localhost",
            max_restarts=settings.launch.max_restarts,
            start_method="spawn",
            signals_to_handle=_signals_to_handle(),
        )
        try:
            outcome = elastic_launch(agent, _work)(settings, str(folder.path))[0]
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:  # other ranks may have written that they lost this one
                folder.add_error(f"rank {rank} ended with {failure.signal_name()}", "", is_cause=True)
            elif not folder.error_file.is_file():
                folder.add_error(f"rank {rank} ended with exit status {failure.exitcode}", "")
            raise RunFailed(folder.path, folder.error()) from None
        except SignalException as stop:
            # Hydra would take an Exception for a failed job and go on with the next one.
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stop.sigval) from None
    if isinstance(outcome, UserError):
        raise outcome
    result: Result = outcome
    return result


def _work(settings: Settings, path: str) -> Result | UserError | None:
    """Train one rank in a worker process."""
    log_to_terminal()
    if not is_first_rank():
        logging.disable(logging.WARNING)  # rank 0 alone logs; errors still appear
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        return train_rank(settings, path)
    except Exception:
        time.sleep(_EXIT_DELAY)
        raise


def _end_with_parent() -> None:
    """End this worker when its agent ends, even if the agent was killed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def ranks_exist() -> bool:
    """Tell whether torchrun, or SLURM with several tasks, has started a process for every rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ or _ranks_are_slurm_tasks()


def _ranks_are_slurm_tasks() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def is_first_rank() -> bool:
    """Tell whether this process is the only rank or rank 0."""
    return os.environ.get("SLURM_PROCID" if _ranks_are_slurm_tasks() else "RANK", "0") == "0"


def in_one_line(error: Exception) -> str:
    """Format an error in one line, as the first line of ``error.txt``."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _worker_environment(ranks: int) -> Iterator[None]:
    """Set environment variables for the worker processes, unless the user has set them."""
    cores = int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) or os.cpu_count() or 1
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // ranks)),
        # With a shared store, restarted ranks would find the keys of the crashed ones and wait forever.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def _signals_to_handle() -> str:
    """Signals at which the agent ends its workers.

    Under submitit, SIGTERM announces that SLURM takes the node away; the next signal makes it queue the job again.
    """
    return ",".join(["SIGINT", "SIGHUP", "SIGQUIT", *([] if "SUBMITIT_EXECUTOR" in os.environ else ["SIGTERM"])])


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Restore the signal handlers that torch's elastic agent replaces."""
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
