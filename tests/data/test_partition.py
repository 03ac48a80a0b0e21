"""Folds and held-out samples: every sample once, every class in its share, no person on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.data_modules import module

from fer.data.loading.partition import fold_of_each, held_out
from fer.data.persons import read_persons
from fer.data.readers import folder
from fer.data.table import DatasetError


def persons_of(root: Path, file: Path) -> dict[str, str]:
    """Write a list with four persons in every class folder, and return it."""
    known = {
        str(path.relative_to(root)): f"{path.parent.name}{number % 4}"
        for path in sorted(root.glob("train/*/*.png"))
        for number in [int(path.stem)]
    }
    file.write_text("file,person\n" + "".join(f"{name},{person}\n" for name, person in known.items()))
    return known


@given(counts=st.lists(st.integers(7, 60), min_size=2, max_size=6), folds=st.integers(2, 7), seed=st.integers(0, 2**40))
def test_every_fold_has_its_share_of_every_class(counts: list[int], folds: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    dealt = fold_of_each(labels, folds, seed=seed)
    assert {*dealt.tolist()} == {*range(folds)}
    for label, count in enumerate(counts):
        shares = np.bincount(dealt[labels == label], minlength=folds)
        assert shares.min() >= count // folds and shares.max() <= -(-count // folds)
    assert np.array_equal(dealt, fold_of_each(labels, folds, seed=seed))


@given(seed=st.integers(0, 2**40), folds=st.integers(2, 5))
def test_nobody_is_in_two_folds(seed: int, folds: int) -> None:
    generator = np.random.default_rng(seed)
    persons = generator.integers(0, 40, 600)
    labels = generator.integers(0, 4, 600)
    dealt = fold_of_each(labels, folds, seed=seed, persons=persons)
    for person in np.unique(persons):
        assert len({*dealt[persons == person].tolist()}) == 1
    sizes = np.bincount(dealt, minlength=folds)
    assert sizes.min() > 0.6 * 600 / folds and sizes.max() < 1.5 * 600 / folds
    held = held_out(labels, 1 / folds, seed=seed, persons=persons)
    assert not {*persons[held].tolist()} & {*np.delete(persons, held).tolist()}


def test_another_seed_deals_in_another_way() -> None:
    labels = np.tile(np.arange(3), 50)
    assert not np.array_equal(fold_of_each(labels, 5, seed=0), fold_of_each(labels, 5, seed=1))


def test_more_folds_than_samples_of_a_class_or_persons_are_refused() -> None:
    with pytest.raises(ValueError, match="a class has only 2 training samples; choose fewer folds"):
        fold_of_each(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0)
    with pytest.raises(ValueError, match="only 2 persons; choose fewer folds"):
        fold_of_each(np.tile([0, 1], 9), 3, seed=0, persons=np.repeat([4, 5], 9))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_folds_test_every_training_sample_once_by_its_given_label(shapes: Path, seed: int) -> None:
    whole = module(shapes)
    rows = []
    for fold in range(3):
        made = module(shapes, protocol="folds", folds=3, fold=fold, seed=seed)
        assert sorted([*made.train.rows, *made.test.rows]) == whole.train.rows.tolist()
        given_of = dict(zip(whole.train.rows.tolist(), whole.train.given.tolist(), strict=True))
        assert made.test.given.tolist() == [given_of[row] for row in made.test.rows]
        assert made.train.given.tolist() == [given_of[row] for row in made.train.rows]
        rows += made.test.rows.tolist()
    assert sorted(rows) == whole.train.rows.tolist()


def test_a_listed_person_is_on_one_side_of_a_fold_and_of_a_holdout(shapes: Path, tmp_path: Path) -> None:
    known = persons_of(shapes, tmp_path / "persons.csv")
    fold = module(shapes, protocol="folds", folds=3, fold=1, persons=tmp_path / "persons.csv")
    tested, fitted = ({known[fold.table.file_names[row]] for row in part.rows} for part in (fold.test, fold.train))
    assert tested and fitted and not tested & fitted
    holdout = module(shapes, protocol="holdout", holdout_share=0.25, persons=tmp_path / "persons.csv")
    held, rest = (
        {known[holdout.table.file_names[row]] for row in holdout.train.rows[positions]}
        for positions in (holdout.holdout_rows, holdout.fit_rows)
    )
    assert held and rest and not held & rest


def test_class_folders_without_test_images_can_be_divided_into_folds_only(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(shapes / "train")
    assert len(module(tmp_path / "data", protocol="folds", folds=4, fold=3).test) == 15
    (tmp_path / "data" / "tests").mkdir()
    with pytest.raises(DatasetError, match=r"no test image; add some .*protocol=folds\n.*tests/ is not read"):
        module(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: lines[:-1], "no line for 1 training images, first train/line/019.png"),
        (lambda lines: [*lines, "train/bar/999.png,x"], "line 62: train/bar/999.png is not an image of"),
        (lambda lines: [*lines, "train/bar/000.png,other"], "line 62: train/bar/000.png was already of bar0"),
        (lambda lines: [*lines, "train/bar/000.png"], "line 62: 1 columns, where two are expected"),
    ],
)
def test_faults_of_a_list_of_persons_are_named(change: Any, fault: str, shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "persons.csv"
    persons_of(shapes, path)
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(DatasetError) as error:
        read_persons(path, folder.read(shapes))
    assert fault in str(error.value)


def test_a_missing_list_of_persons_is_named(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read .*; set persons to a list"):
        read_persons(tmp_path / "none.csv", folder.read(shapes))
