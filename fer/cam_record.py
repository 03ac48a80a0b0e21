"""The maps of a few fixed faces after an epoch, as a run keeps them for figures: ``cams/epoch-0012.npz``."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fer.runs import RunFolder, RunFolderError
from fer.whole_file import replacing

_NAME = "epoch-{:04}.npz"


@dataclass
class CamRecord:
    """N faces, the same ones in every record of a run, in the order test, then training."""

    split: NDArray[np.str_]
    """``test`` or ``train``, (N,)."""
    file: NDArray[np.str_]
    """As in ``predictions.csv``, (N,)."""
    image: NDArray[np.uint8]
    """(N, 3, h, w), as stored."""
    clean: NDArray[np.int64]
    """True labels, (N,)."""
    given: NDArray[np.int64]
    """Given labels, (N,)."""
    probabilities: NDArray[np.float32]
    """(N, K)."""
    cam: NDArray[np.float16]
    """(N, K, h', w')."""
    mirrored_cam: NDArray[np.float16]
    """Of the mirrored faces, as the network sees them: not mirrored back."""

    def write(self, folder: RunFolder, epoch: int) -> None:
        """Keep the record; one of the same epoch is replaced."""
        folder.cam_folder.mkdir(exist_ok=True)
        path = folder.cam_folder / _NAME.format(epoch)
        with replacing(path) as unfinished, unfinished.open("wb") as stream:
            self.write_to(stream)

    def write_to(self, file: IO[bytes]) -> None:
        # Not np.savez, which has a parameter called file itself. Photographs would hardly become smaller.
        with zipfile.ZipFile(file, "w") as archive:
            for name, values in vars(self).items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, values, allow_pickle=False)


def read_cam_records(folder: RunFolder) -> dict[int, CamRecord]:
    """The records of a run by epoch, oldest first.

    Raises:
        RunFolderError: one cannot be read.
    """
    return {
        int(path.stem.removeprefix("epoch-")): _read(path) for path in sorted(folder.cam_folder.glob("epoch-*.npz"))
    }


def _read(path: Path) -> CamRecord:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content: dict[str, Any] = dict(arrays)
        if len({len(values) for values in content.values()}) > 1:
            raise ValueError("its arrays differ in length")
        return CamRecord(**content)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); remove it") from error
