"""Identities of a run at servers of loggers, kept in its folder, so that a resumed run goes on where it was."""

from __future__ import annotations

from fer.files.atomic import write_json
from fer.files.plain_data import PlainDataError, read_json
from fer.runs.run_folder import RunFolder


def kept_identity(folder: RunFolder, server: str) -> str | None:
    """Read a run's identity at a server; ``None`` for a run that has none yet."""
    identity = _read(folder).get(server)
    return identity if isinstance(identity, str) else None


def keep_identity(folder: RunFolder, server: str, identity: str) -> None:
    """Write a run's identity at a server down.

    Raises:
        OSError: the disk is full, or whatever else the system says.
    """
    known = _read(folder)
    if known.get(server) != identity:
        write_json(folder.loggers_file, {**known, server: identity})


def _read(folder: RunFolder) -> dict[str, object]:
    try:
        return read_json(folder.loggers_file)
    except (OSError, PlainDataError):  # a damaged file costs a second run at the server
        return {}
