"""What the log shows on the terminal, and in a file."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KNOWN_HARMLESS = (
    # Our samplers return every index; Lightning cannot know.
    ".*custom batch sampler.*",
    # Batches are fetched from one mapped file; more workers would not be faster.
    ".*does not have many workers.*",
    ".*number of training batches.*smaller than the logging interval.*",
    # SLURM is used by choosing its launcher, and its jobs start their own ranks.
    ".*`srun` command is available.*",
    # Raised inside Lightning, about torch.
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*Checkpoint directory .* exists and is not empty.*",
    # The metrics that are logged are the same on every rank.
    ".*sync_dist=True.*",
    # Its successor does not do the same yet, and is not in all versions.
    ".*`broadcast_buffers` is deprecated.*",
)
# Lightning sets the level of its top-level loggers when it is imported, but not of these.
_CHATTY = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.distributed",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


class _AboveTheBar(logging.Handler):
    """Prints by the console that Lightning's progress bar uses, which keeps lines and bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        get_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def log_to_terminal() -> None:
    """Show the project's log from INFO on and warnings of others, without what no user can act upon."""
    terminal = _AboveTheBar() if sys.stdout.isatty() else logging.StreamHandler(sys.stdout)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[terminal])
    logging.getLogger("fer").setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _KNOWN_HARMLESS:
        warnings.filterwarnings("ignore", message)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the project's log to a file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("fer")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
