"""Checkpoints of a run: written whole or not at all, read without running code from them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fer.files.atomic import replacing
from fer.files.regular import open_regular
from fer.models.weights import torch_file
from fer.runs.run_folder import RunFolder, RunFolderError

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Replaces a checkpoint when the new one is on disk.

    What goes wrong is kept in ``error`` and not raised: only the first rank writes, and the others wait for it. The
    run's own callbacks look there; for the checkpoint of another callback a warning has to do.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._own = {folder.last_checkpoint, folder.interrupted_checkpoint}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.error = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with replacing(Path(path)) as unfinished, unfinished.open("wb") as stream:
                torch.save(checkpoint, stream)
        except OSError as error:
            self.error = error
        except RuntimeError as error:  # of torch, which tries to end its archive on a disk that is full
            if not isinstance(error.__context__, OSError):
                raise
            self.error = error.__context__
        if self.error is not None and Path(path) not in self._own:
            log.warning("%s cannot be written (%s), and the run goes on", path, self.error.strerror or self.error)


def copy_checkpoint(source: Path, target: Path) -> None:
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run, on the CPU.

    Raises:
        RunFolderError: it is missing, damaged, or holds other objects than tensors in plain containers.
    """
    try:
        with open_regular(path) as file:
            content = torch_file.load(file)
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing; restore it, or remove the folder and train again") from None
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RunFolderError(f"{path} cannot be read ({reason}); restore it, or remove it and train again") from error
    if not isinstance(content, dict) or not content.keys() >= {"state_dict", "epoch"}:
        raise RunFolderError(f"{path} is no checkpoint of a run; restore it, or remove it and train again")
    return content
