"""Transition matrix of a data set's labels, written as an option of the noise group."""

from __future__ import annotations

import json
from pathlib import Path

from fer.data.noise import transition_counts
from fer.data.table import IntArray, SampleTable
from fer.errors import ConfigError
from fer.files.atomic import replacing_text


def write_matrix(path: Path, table: SampleTable, given: IntArray) -> None:
    """Write how often each class is labeled as each other one, as a file of ``conf/noise``.

    Args:
        path: YAML file that does not exist yet.
        table: of the data set.
        given: labels in force of its training rows, (N_train,).

    Raises:
        ConfigError: a class without training images.
        FileExistsError: there is such a file.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten; remove it or choose another name")
    counts = transition_counts(table.labels[table.train], given, table.num_classes)
    absent = [name for name, row in zip(table.class_names, counts, strict=True) if not row.sum()]
    if absent:
        raise ConfigError(f"no training image of {', '.join(absent)}: the matrix would have a row without numbers")
    rows = [f"  - [{', '.join(f'{share:.9f}' for share in row / row.sum())}]" for row in counts]
    text = [
        f"# Transition matrix of {table.name}'s labels: row i holds the shares of class i that are labeled 1..K.",
        "_target_: fer.data.noise.class_dependent",
        "_partial_: true",
        f"classes: {json.dumps(table.class_names, ensure_ascii=False)}",
        "matrix:",
        *rows,
        "ratio: null  # the matrix states the rates",
        "seed: 0",
    ]
    with replacing_text(path) as stream:
        stream.write("\n".join(text) + "\n")
