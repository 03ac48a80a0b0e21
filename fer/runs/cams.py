"""The maps of a few fixed faces after an epoch, as a run keeps them for figures: ``cams/epoch-0012.npz``."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fer.files.atomic import replacing
from fer.files.regular import open_regular
from fer.runs.run_folder import RunFolder, RunFolderError

_NAME = "epoch-{:04}.npz"
_FILE = re.compile(r"epoch-([0-9]{1,9})\.npz")
_MOST_BYTES = 1 << 30
# Kind of numbers (as NumPy's dtype.kind) and number of axes.
_AXES = {
    "split": ("U", 1), "file": ("U", 1), "image": ("u", 4), "clean": ("i", 1), "given": ("i", 1),
    "probabilities": ("f", 2), "cam": ("f", 4), "mirrored_cam": ("f", 4),
}  # fmt: skip


@dataclass
class CamRecord:
    """N faces, the same ones in every record of a run, in the order test, then training."""

    split: NDArray[np.str_]
    """``test`` or ``train``, (N,)."""
    file: NDArray[np.str_]
    """Names of the files as in ``predictions.csv``, (N,)."""
    image: NDArray[np.uint8]
    """(N, 3, h, w), the part that the network sees."""
    clean: NDArray[np.int64]
    """True labels, (N,)."""
    given: NDArray[np.int64]
    """Given labels, (N,)."""
    probabilities: NDArray[np.float32]
    """(N, K)."""
    cam: NDArray[np.float16]
    """(N, K, h', w')."""
    mirrored_cam: NDArray[np.float16]
    """CAMs (N, K, h', w') of the mirrored faces, in mirrored coordinates."""

    def write(self, folder: RunFolder, epoch: int) -> None:
        """Keep the record; one of the same epoch is replaced."""
        folder.cam_folder.mkdir(exist_ok=True)
        path = folder.cam_folder / _NAME.format(epoch)
        with replacing(path) as unfinished, unfinished.open("wb") as stream:
            self.write_to(stream)

    def write_to(self, file: IO[bytes]) -> None:
        # Not np.savez, which has a parameter named file. No compression: it hardly shrinks photographs.
        with zipfile.ZipFile(file, "w") as archive:
            for name, values in vars(self).items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, values, allow_pickle=False)


def read_cam_records(folder: RunFolder) -> dict[int, CamRecord]:
    """The records of a run by epoch, oldest first.

    Raises:
        RunFolderError: one cannot be read.
    """
    files = {
        int(found[1]): path for path in folder.cam_folder.glob("epoch-*.npz") if (found := _FILE.fullmatch(path.name))
    }
    return {epoch: _read(files[epoch]) for epoch in sorted(files)}


def _read(path: Path) -> CamRecord:
    try:
        with open_regular(path) as file:
            _check_sizes(file)
            with np.load(file, allow_pickle=False) as arrays:
                content: dict[str, Any] = dict(arrays)
        if fault := _fault(content):
            raise ValueError(fault)
        return CamRecord(**content)
    except Exception as error:  # zipfile and NumPy raise many kinds on damaged files
        raise RunFolderError(f"{path} cannot be read ({error}); remove it") from error


def _check_sizes(file: IO[bytes]) -> None:
    """Refuse an archive whose members would take more memory than the file, as compressed ones may."""
    size = file.seek(0, io.SEEK_END)
    if size > _MOST_BYTES:
        raise ValueError(f"it is larger than the allowed {_MOST_BYTES:,} bytes")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its arrays are compressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its arrays are larger than the file")
    file.seek(0)


def _fault(content: Mapping[str, NDArray[Any]]) -> str | None:
    """Say why arrays cannot be those of a record; ``None`` where they can."""
    if content.keys() != _AXES.keys():
        return "it holds other arrays"
    for name, (kind, axes) in _AXES.items():
        if content[name].dtype.kind != kind or content[name].ndim != axes:
            return f"{name} is no array of {axes} axes of its kind"
    if len({len(values) for values in content.values()}) > 1:
        return "its arrays differ in length"
    if any(0 in values.shape for values in content.values()):
        return "its arrays are empty"
    if not all(np.isfinite(content[name]).all() for name in ("probabilities", "cam", "mirrored_cam")):
        return "its numbers are not finite"
    counts = {content[name].shape[1] for name in ("probabilities", "cam", "mirrored_cam")}
    if len(counts) > 1 or content["image"].shape[1] != 3 or content["cam"].shape != content["mirrored_cam"].shape:
        return "its arrays do not fit each other"
    labels = np.concatenate([content["clean"], content["given"]])
    if not ((labels >= -1) & (labels < counts.pop())).all():
        return "it has labels of no class"
    return None
