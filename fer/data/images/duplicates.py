"""Warnings about pictures that a data set holds twice, and about such as show nothing."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from fer.data.images.copies import constant_images, find_copies
from fer.data.images.store import ImageStore
from fer.data.table import IntArray, SampleTable


def find_duplicates(table: SampleTable, store: ImageStore) -> list[str]:
    """Describe test images that are training images too, and pictures that stand under two labels."""
    return [*_equal_files(table, store.bad), *_copies(table, store)]


def _equal_files(table: SampleTable, bad: IntArray) -> list[str]:
    """A warning about test images whose files equal a training image's byte for byte; ``bad`` rows are not used."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for row in np.setdiff1d(np.arange(len(table.paths)), bad).tolist():
        by_size[table.paths[row].stat().st_size].append(row)
    train: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    for rows in by_size.values():
        if len({bool(table.is_train[row]) for row in rows}) == 1:
            continue
        for row in sorted(rows, key=lambda row: not table.is_train[row]):
            digest = hashlib.sha256(table.paths[row].read_bytes()).digest()
            if table.is_train[row]:
                train.setdefault(digest, row)
            elif digest in train:
                pairs.append((row, train[digest]))
    if not pairs:
        return []
    first_test, first_train = (table.file_names[row] for row in min(pairs))
    return [
        f"{len(pairs):,} test images are also training images, byte for byte, first {first_test} = {first_train}: "
        "test scores are too high; remove one copy of each"
    ]


def _copies(table: SampleTable, store: ImageStore) -> list[str]:
    """Warn about copies that are not equal byte for byte, pictures with two labels, and such as show nothing."""
    readable = np.setdiff1d(np.arange(len(table.paths)), store.bad)
    constant = constant_images(store.images, readable)
    rows = np.setdiff1d(readable, constant)
    train, test = rows[table.is_train[rows]], rows[~table.is_train[rows]]
    warnings = []
    if len(constant):
        warnings.append(
            f"{len(constant):,} images show nothing but one color, first {table.described(constant[0])}: remove them, "
            "they teach and test nothing"
        )
    copies = find_copies(store.images, test, train)
    altered = [one for one in copies if not np.array_equal(store.images[one.row], store.images[one.of])]
    if altered:
        first = altered[0]
        mirrored = sum(one.is_mirrored for one in altered)
        warnings.append(
            f"{len({one.row for one in altered}):,} test images are also training images, re-encoded or mirrored "
            f"({mirrored:,}), first {table.described(first.row)} = {table.described(first.of)}: test scores are too "
            "high; remove one copy of each"
        )
    twice = [one for one in find_copies(store.images, train, train) if table.labels[one.row] != table.labels[one.of]]
    if twice:
        first, names = twice[0], table.class_names
        labels = " and ".join(names[table.labels[row]] for row in (first.of, first.row))
        warnings.append(
            f"{len(twice):,} pictures stand under two labels in train, first {table.described(first.of)} and "
            f"{table.described(first.row)} ({labels}): one of each is wrong"
        )
    return warnings
