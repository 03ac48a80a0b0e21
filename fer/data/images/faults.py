"""Faults of the image files of a table: finding them, deciding which stop a run, and reporting them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fer.data.images.decode import FileFault, ImageFault, decode
from fer.data.table import DatasetError, SampleTable

ImageFaults = Mapping[int, ImageFault]
"""Faults by row of the table."""


def find_faults(table: SampleTable, workers: int | None = None) -> dict[int, ImageFault]:
    """Decode every image and keep none, on ``workers`` threads, by default one per core."""
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        found = pool.map(_fault, table.paths)
        return {row: fault for row, fault in enumerate(found) if fault is not None}


def _fault(path: Path) -> ImageFault | None:
    try:
        decode(path)
    except ImageFault as fault:
        return fault
    return None


def refuse(table: SampleTable, faults: ImageFaults, on_bad_image: str) -> None:
    """Refuse faults that stop a run; under "skip", images that cannot be decoded do not stop it.

    Files that are missing or cannot be read always stop a run, since half of an archive may be missing.

    Raises:
        DatasetError: a fault stops the run, or skipping leaves a split without images.
    """
    stops = {row: fault for row, fault in faults.items() if on_bad_image == "error" or isinstance(fault, FileFault)}
    told: list[str] = []
    whole = _wholly_missing(table, stops)
    for folder, rows in whole.items():
        archive = folder.with_suffix(".zip")
        remedy = f"unpack {archive.name} there" if archive.is_file() else "put them there"
        first = table.described(rows[0])
        told.append(f"{table.shown(folder)}: {stops[rows[0]]}, all {len(rows):,} images, first {first}; {remedy}")
    for row, fault in sorted(stops.items()):
        if table.paths[row].parent not in whole:
            or_skip = "" if isinstance(fault, FileFault) else ", or set data.on_bad_image=skip"
            told.append(f"{table.described(row)}: {fault}; restore it or take it out of the data set{or_skip}")
    for split, rows in (("train", table.train.tolist()), ("test", table.test.tolist())):
        if rows and all(row in faults and row not in stops for row in rows):
            told.append(f"no {split} image can be decoded, first {table.described(rows[0])}: {faults[rows[0]]}")
    if told:
        raise DatasetError(table.root, told)


def _wholly_missing(table: SampleTable, faults: ImageFaults) -> dict[Path, list[int]]:
    """Folders with two images or more that cannot be read for the same reason, all of them, with their rows."""
    if not any(isinstance(fault, FileFault) for fault in faults.values()):
        return {}
    rows_of: dict[Path, list[int]] = defaultdict(list)
    for row, path in enumerate(table.paths):
        rows_of[path.parent].append(row)
    return {
        folder: rows
        for folder, rows in rows_of.items()
        if len(rows) > 1
        and isinstance(faults.get(rows[0]), FileFault)
        and len({str(faults.get(row)) for row in rows}) == 1
    }
