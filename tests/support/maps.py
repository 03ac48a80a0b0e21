"""Comparison of kept maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.runs.cams import read_cam_records
from fer.runs.run_folder import RunFolder


def assert_same_maps(folder: Path, other: Path) -> None:
    records, expected = read_cam_records(RunFolder(folder)), read_cam_records(RunFolder(other))
    assert [*records] == [*expected]
    for epoch, record in records.items():
        for name, values in vars(record).items():
            np.testing.assert_array_equal(values, getattr(expected[epoch], name))
