"""The log on the terminal and in a file, and how a command ends on an error."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from fer.errors import RunFailed, UserError
from fer.files.atomic import open_to_append
from fer.files.visible_text import visible, visible_name

_KNOWN_HARMLESS = (
    # Our samplers return every index; Lightning cannot know.
    ".*custom batch sampler.*",
    # Batches are fetched from one mapped file; more workers would not be faster.
    ".*does not have many workers.*",
    ".*number of training batches.*smaller than the logging interval.*",
    # SLURM is used through its launcher only, and its jobs start their own ranks.
    ".*`srun` command is available.*",
    # Raised inside Lightning, about torch.
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*Checkpoint directory .* exists and is not empty.*",
    # The metrics that are logged are the same on every rank.
    ".*sync_dist=True.*",
    # Frozen BatchNorm stays in evaluation mode; Lightning cannot know that it should.
    ".*in eval mode at the start of training.*",
    # The replacement does not do the same yet and is missing in some versions.
    ".*`broadcast_buffers` is deprecated.*",
)
# Lightning sets the level of its top-level loggers when it is imported, but not of these.
_CHATTY = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.distributed",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


class _Formatter(logging.Formatter):
    """Formats records without control characters; a path among their arguments stays in one line."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            kept = record.args
            record.args = tuple(visible_name(value) if isinstance(value, Path) else value for value in kept)
            try:
                return visible(super().format(record))
            finally:
                record.args = kept
        return visible(super().format(record))


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print text, in which names from files may stand, without their control characters."""
    print(visible(text), file=sys.stderr if to_stderr else sys.stdout, flush=True)


class _AboveTheBar(logging.Handler):
    """Prints by the console that Lightning's progress bar uses, which keeps lines and bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        get_console().print(self.format(record), markup=False, emoji=False, highlight=False, soft_wrap=True)


class _Enduring(io.TextIOWrapper):
    """Standard output that no reader can break: when ``head`` has read enough, the rest goes nowhere."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def endure_output() -> None:
    """Let no terminal, pipe or closed stream change how a command ends; a command calls this first.

    Characters that the terminal's encoding lacks become question marks.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would be taken for it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.dup(number), "w", encoding="utf-8"))
        elif stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            stream.flush()
            errors = "replace" if name == "stdout" else stream.errors
            enduring = _Enduring(stream.buffer, stream.encoding, errors, line_buffering=stream.line_buffering)
            setattr(sys, name, enduring)


def log_to_terminal() -> None:
    """Show the project's log from INFO on and warnings of others, without what no user can act upon."""
    endure_output()
    terminal = _AboveTheBar() if sys.stdout.isatty() else logging.StreamHandler(sys.stdout)
    terminal.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[terminal])
    logging.getLogger("fer").setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _KNOWN_HARMLESS:
        warnings.filterwarnings("ignore", message)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the project's log to a file as well."""
    handler = logging.StreamHandler(open_to_append(path))
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("fer")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        handler.stream.close()


@contextmanager
def report_errors(program: str) -> Iterator[None]:
    """End the program with one clear message, and exit status 2 on a ``UserError`` or 1 on a ``RunFailed``."""
    try:
        _refuse_the_other_fer()
        yield
    except (UserError, RunFailed) as error:
        print(visible(f"{program}: {error}"), file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None


def _refuse_the_other_fer() -> None:
    """Refuse an environment in which another project's package has put its modules among these."""
    try:
        other = metadata.distribution("fer")
    except metadata.PackageNotFoundError:
        return
    raise UserError(
        f"another project's package, fer {other.version}, is installed here and uses the same import name; give this "
        "one an environment of its own, or: pip uninstall fer, then install noisy-label-fer again"
    )
