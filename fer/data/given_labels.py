"""Label noise that is no draw: labels of a published list, or those that other annotators gave to the same images.

Each function returns int64 (N_train,) in 0..K-1, in the order of ``table.train``. Test labels stay as they are.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from fer.data.label_list import read_label_list
from fer.data.table import DatasetError, IntArray, SampleTable
from fer.errors import OtherClasses

log = logging.getLogger(__name__)


def file(
    table: SampleTable, *, path: str | Path, first_label: int = 1, ratio: None = None, seed: None = None
) -> IntArray:
    """Read the labels of a published list: lines ``train_00001.jpg 5``, in any order.

    A relative ``path`` is looked for in the working folder, in the data set and in its ``EmoLabel``. Lines of test
    images change nothing: test labels stay clean, and one warning counts the lines that would change them.

    Args:
        table: of the data set.
        path: of the list.
        first_label: what the list calls the first class: 1 (the usual) or 0.
        ratio: stands for the noise's common keys, and must be left out.
        seed: the same.

    Raises:
        DatasetError: with every fault of the list: unknown or repeated names, labels out of range, training images
            without a line.
        ValueError: a ratio or seed is given, which a list does not use, or another first label.
    """
    if ratio is not None or seed is not None:
        raise ValueError("noise=file takes the labels from noise.path: leave noise.ratio and noise.seed out")
    if first_label not in (0, 1) or isinstance(first_label, bool):
        raise ValueError(f"noise.first_label is {first_label!r}; it must be 0 or 1")
    path = _find(Path(path), table.root)
    shown = str(table.shown(path))
    entries, faults = read_label_list(path, table.class_names, shown, first_label=first_label)
    if faults and not entries:
        raise DatasetError(path, faults)
    row_of = {name: row for row, name in enumerate(table.file_names)}
    labels = table.labels.copy()
    listed = np.zeros(len(labels), dtype=np.bool_)
    changed_tests = 0
    for entry in entries:
        where = f"{shown}, line {entry.line}"
        row = row_of.get(entry.name)
        if row is None:
            faults.append(f"{where}: {entry.name} is not an image of {table.root}; remove the line")
        elif table.is_train[row]:
            labels[row] = entry.label
            listed[row] = True
        elif -1 not in (entry.label, table.labels[row]):
            changed_tests += int(entry.label != table.labels[row])
    absent = table.train[~listed[table.train]]
    if len(absent):
        faults.append(
            f"{shown}: no line for {len(absent):,} of {len(table.train):,} training images, first "
            f"{table.file_names[absent[0]]}; add them with their labels"
        )
    if faults:
        raise DatasetError(path, faults)
    if changed_tests:
        log.warning(
            "%s: %s lines would change labels of test images; test labels stay clean", shown, f"{changed_tests:,}"
        )
    return labels[table.train]


def annotated(table: SampleTable, *, source: str, ratio: None = None, seed: None = None) -> IntArray:
    """Take the labels that somebody else gave to the same images: real label noise with a known truth.

    Args:
        table: of a data set whose reader gives ``other_labels``.
        source: which of them, such as ``fer2013``.
        ratio: stands for the noise's common keys, and must be left out.
        seed: the same.

    Raises:
        OtherClasses: the data set has no such labels.
        DatasetError: training images without such a label.
        ValueError: a ratio or seed is given, which real labels do not use.
    """
    if ratio is not None or seed is not None:
        raise ValueError(f"noise={source} takes labels that people gave: leave noise.ratio and noise.seed out")
    if source not in table.other_labels:
        known = ", ".join(table.other_labels) or "none"
        raise OtherClasses(
            f"noise.source={source}: {table.root} has no such labels beside its own (it has {known}); FER2013's come "
            "with data=ferplus and both fer2013.csv and fer2013new.csv in data.root, or with FER2013's class folders "
            "and fer2013new.csv"
        )
    labels = table.other_labels[source][table.train]
    absent = np.flatnonzero(labels < 0)
    if len(absent):
        first = table.described(int(table.train[absent[0]]))
        raise DatasetError(table.root, [f"{first}: no label of {source}, like {len(absent):,} training images in all"])
    return labels.copy()


def _find(path: Path, root: Path) -> Path:
    try:
        path = path.expanduser()
        places = dict.fromkeys((path, root / path, root / "EmoLabel" / path))
        for place in places:
            if place.is_file():
                return place
    except (OSError, RuntimeError) as error:  # name too long, unreadable folder, or unknown user
        raise DatasetError(path, [f"{path.name}: {error}; set noise.path to the label list"]) from error
    looked = ", ".join(str(place) for place in places)
    raise DatasetError(path, [f"{path.name}: no such file; set noise.path to the label list (looked at {looked})"])
