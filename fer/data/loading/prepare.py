"""Preparation of a data set for training, or one report of all its faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fer.data.images.faults import find_faults, refuse
from fer.data.images.store import ImageStore
from fer.data.table import DatasetError, IntArray, SampleTable
from fer.files.class_names import class_names_fault
from fer.files.visible_text import has_controls

Reader = Callable[[], SampleTable]
Noise = Callable[[SampleTable], IntArray]


class PreparedData(NamedTuple):
    """A table, the labels in force of its training rows (N_train,), and its decoded images."""

    table: SampleTable
    given: IntArray
    store: ImageStore


def prepare(
    read: Reader,
    noise: Noise,
    *,
    size: int,
    cache_dir: str | Path | None,
    on_bad_image: str,
    thorough: bool = False,
    needs_test: bool = True,
) -> PreparedData:
    """Read a data set, apply the noise and decode the images; the settings are those of ``ImageStore.open``.

    ``needs_test=False`` takes a data set without test images.

    Raises:
        DatasetError: all faults of the data set's own list, of the noise list and of the images.
        ConfigError: the store cannot be written.
        ValueError: a setting out of range.
    """
    faults = _Faults()
    table, given = _labels(read, noise, faults, needs_test)
    with faults.collected():
        if table.partial:
            refuse(table, find_faults(table), on_bad_image)
        else:
            store = ImageStore.open(table, size=size, cache_dir=cache_dir, on_bad_image=on_bad_image, thorough=thorough)
    faults.report(table.root)
    return PreparedData(table, given, store)


def read_labels(read: Reader, noise: Noise, *, needs_test: bool = True) -> tuple[SampleTable, IntArray]:
    """Read the table and the given labels of its training rows (N_train,), without looking at the images.

    Raises:
        DatasetError: all faults of the data set's own list and of the noise list.
        ValueError: a setting out of range.
    """
    faults = _Faults()
    table, given = _labels(read, noise, faults, needs_test)
    faults.report(table.root)
    return table, given


class _Faults:
    """Collection of faults from several steps; later steps run even if earlier ones failed."""

    def __init__(self) -> None:
        self._errors: list[DatasetError] = []

    def add(self, error: DatasetError) -> None:
        self._errors.append(error)

    @contextmanager
    def collected(self) -> Iterator[None]:
        try:
            yield
        except DatasetError as error:
            self.add(error)

    def report(self, root: Path) -> None:
        """Raise all collected faults as one error."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise DatasetError(root, [fault for error in self._errors for fault in error.faults])


def _labels(read: Reader, noise: Noise, faults: _Faults, needs_test: bool) -> tuple[SampleTable, IntArray]:
    """Read the table and its labels, as far as possible; raise at once if no row can be read."""
    try:
        with _naming_files():
            table = _usable(read(), needs_test)
    except DatasetError as error:
        if error.partial is None or not error.partial.paths:
            raise
        table = error.partial
        faults.add(error)
    given = table.labels[table.train]
    with faults.collected(), _naming_files():
        try:
            given = noise(table)
        except DatasetError:
            raise
        except Exception:
            if not table.partial:  # else the fault may come from missing rows
                raise
    return table, given


def _usable(table: SampleTable, needs_test: bool) -> SampleTable:
    """Check a table for what every data set must fulfill, whichever reader made it."""
    faults = [] if len(table.train) else ["no train image; a data set needs images to train on"]
    if needs_test and not len(table.test):
        remedy = "add some (test/<class>/* in class folders), or test on folds with protocol=folds"
        faults += [f"no test image; {remedy}", *table.warnings]
    faults += [
        f"{str(table.shown(path))!r}: a name {_flaw(str(path))}; rename it"
        for path in table.paths
        if has_controls(str(path))
    ]
    if fault := class_names_fault(table.class_names):
        faults.append(f"{fault}; the names of the classes must be different texts in one line")
    if faults:
        raise DatasetError(table.root, faults, replace(table, partial=True))
    return table


def _flaw(name: str) -> str:
    """Say what is wrong with a name; Python carries other encodings as halves of characters, which no file takes."""
    halves = any("\ud800" <= character <= "\udfff" for character in name)
    return "that is not UTF-8" if halves else "with control characters"


@contextmanager
def _naming_files() -> Iterator[None]:
    """Turn the system's errors about files that a reader or a noise opens into faults."""
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename or "."))
        fault = f"{path}: {error.strerror or error}; look at the path, its permissions and the free space"
        raise DatasetError(path, [fault]) from error
