"""The study of a search with Optuna, which its trials reach by a file or by a database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_storage(storage: str) -> BaseStorage:
    """Open what keeps a study.

    Args:
        storage: path of a journal, which any number of processes may write at a time, or the URL of a database.

    Raises:
        ConfigError: it cannot be opened.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        if "://" in storage:
            return RDBStorage(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    except Exception as error:  # of whatever database it is
        said: Any = " ".join(str(error).split())
        raise ConfigError(f"hydra.sweeper.storage={storage} cannot be opened ({said[:200]}); name another") from error
