"""Label noise: the statistics of the definition, nested and reproducible draws, and published lists read faithfully."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from PIL import Image
from scipy.stats import chisquare

from fer.config.compose import compose
from fer.config.instantiate import instantiate_node
from fer.data import given_labels, noise
from fer.data.instance_noise import instance_dependent
from fer.data.label_list import read_label_list, write_label_list
from fer.data.readers.raf_db import CLASS_NAMES
from fer.data.table import DatasetError, SampleTable
from fer.errors import ConfigError, OtherClasses

SEEDED = [noise.symmetric, noise.pair, noise.asymmetric]
RATES = st.floats(0, 0.99)
SEEDS = st.integers(0, 2**32)


def table_of(
    labels: ArrayLike, test: int = 0, classes: tuple[str, ...] = CLASS_NAMES, root: str = "set"
) -> SampleTable:
    """A table without files, whose last ``test`` rows are the test split."""
    rows = np.asarray(labels, dtype=np.int64)
    is_train = np.arange(len(rows)) < len(rows) - test
    names = tuple(f"{'train' if train else 'test'}_{row:05d}.jpg" for row, train in enumerate(is_train, start=1))
    return SampleTable("set", Path(root), tuple(Path(root, name) for name in names), rows, is_train, classes, (), names)


def balanced(count: int, classes: tuple[str, ...] = CLASS_NAMES) -> SampleTable:
    return table_of(np.arange(count) % len(classes), classes=classes)


@pytest.mark.parametrize("make", SEEDED)
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_share_of_wrong_labels_is_the_ratio_within_three_sigma(make: Any, ratio: float, seed: int) -> None:
    table = balanced(12271)
    changed = (make(table, ratio=ratio, seed=seed) != table.labels).sum()
    assert abs(changed - 12271 * ratio) <= 3 * math.sqrt(12271 * ratio * (1 - ratio))


def test_symmetric_targets_are_uniform_over_the_other_classes_and_never_the_own() -> None:
    table = balanced(70_000)
    given_noisy = noise.symmetric(table, ratio=0.5, seed=0)
    counts = noise.transition_counts(table.labels, given_noisy, 7)
    others = counts[~np.eye(7, dtype=bool)].reshape(7, 6)
    assert others.min() > 0
    assert all(chisquare(row).pvalue > 1e-3 for row in others)
    assert chisquare(others.sum(axis=1)).pvalue > 1e-3
    # A draw that could hit the own class would keep 1 in 7 of the labels.
    everyone = noise.symmetric(table, ratio=math.nextafter(1, 0), seed=0)
    assert (everyone != table.labels).all()


@pytest.mark.parametrize("make", SEEDED)
@settings(max_examples=30, deadline=None)
@given(ratios=st.tuples(RATES, RATES).map(sorted), seed=SEEDS)
def test_the_smaller_noise_lies_inside_the_larger_with_equal_targets(make: Any, ratios: list[float], seed: int) -> None:
    table = balanced(500)
    small, large = (make(table, ratio=ratio, seed=seed) for ratio in ratios)
    hit = small != table.labels
    np.testing.assert_array_equal(small[hit], large[hit])


@pytest.mark.parametrize("make", SEEDED)
@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 6), min_size=2, max_size=60), ratio=RATES, seed=SEEDS, data=st.data())
def test_test_labels_and_the_table_stay_as_they_are(
    make: Any, labels: list[int], ratio: float, seed: int, data: st.DataObject
) -> None:
    test = data.draw(st.integers(1, len(labels) - 1))
    table = table_of(labels, test)
    given_noisy = make(table, ratio=ratio, seed=seed)
    assert table.labels.tolist() == labels
    assert given_noisy.shape == (len(labels) - test,)
    assert given_noisy.dtype == np.int64
    assert set(given_noisy.tolist()) <= set(range(7))
    # What the test split holds has no influence on the training labels.
    other = table_of(
        [*labels[: len(labels) - test], *[(label + 1) % 7 for label in labels[len(labels) - test :]]], test
    )
    np.testing.assert_array_equal(make(other, ratio=ratio, seed=seed), given_noisy)


def test_only_the_noise_seed_decides() -> None:
    table = balanced(1000)
    first = noise.symmetric(table, ratio=0.3, seed=3)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(noise.symmetric(table, ratio=0.3, seed=3), first)
    assert (noise.symmetric(table, ratio=0.3, seed=4) != first).any()


def test_the_draws_are_the_same_for_ever() -> None:
    table = balanced(1000)
    assert noise.fingerprint(noise.symmetric(table, ratio=0.3, seed=0)) == "e4d5db2fa58680e271ac56dcfbec604d"
    assert noise.fingerprint(noise.pair(table, ratio=0.2, seed=7)) == "2c9f90a87e91a09f017c4249851926fc"


@pytest.mark.parametrize("make", SEEDED)
@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, math.nan, math.inf, "0.3", None, True])
def test_a_ratio_outside_0_to_1_is_refused(make: Any, ratio: Any) -> None:
    with pytest.raises(ValueError, match=r"noise\.ratio must be a number with 0 <= ratio < 1"):
        make(balanced(10), ratio=ratio, seed=0)


@pytest.mark.parametrize("seed", [-1, 0.5, None, "x"])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"noise\.seed must be a whole number"):
        noise.symmetric(balanced(10), ratio=0.1, seed=seed)


def test_no_noise_keeps_the_labels_and_refuses_a_ratio() -> None:
    table = table_of([0, 3, 6, 2], test=1)
    assert noise.none(table, ratio=0.0, seed=0).tolist() == [0, 3, 6]
    with pytest.raises(ValueError, match="noise=symmetric"):
        noise.none(table, ratio=0.3, seed=0)


def test_pair_noise_goes_to_the_next_class_and_round() -> None:
    classes = ("a", "b", "c")
    given_noisy = noise.pair(balanced(300, classes), ratio=math.nextafter(1, 0), seed=0)
    assert given_noisy.tolist() == [1, 2, 0] * 100


@settings(max_examples=30, deadline=None)
@given(order=st.permutations([*CLASS_NAMES[:3], "happy", "SAD", *CLASS_NAMES[5:]]))
def test_asymmetric_noise_follows_the_names_in_any_order(order: list[str]) -> None:
    table = balanced(70, tuple(order))
    given_noisy = noise.asymmetric(table, ratio=math.nextafter(1, 0), seed=0)
    flips = {order[a].lower(): order[b].lower() for a, b in zip(table.labels, given_noisy, strict=True)}
    assert flips == {
        "anger": "disgust",
        "disgust": "anger",
        "fear": "surprise",
        "happy": "neutral",
        "sad": "neutral",
        "surprise": "anger",
        "neutral": "sad",
    }


def test_asymmetric_noise_needs_the_seven_expressions() -> None:
    with pytest.raises(OtherClasses, match=r"has no class surprise, but cat, dog: give noise.map"):
        noise.asymmetric(balanced(10, ("cat", "dog")), ratio=0.3, seed=0)


def test_the_map_of_soft_is_that_of_its_published_list(shared: Path) -> None:
    """Each class of the list changes to exactly one other class."""
    entries = {}
    for name, folder in (("list_patition_label.txt", "raf_labels"), ("soft_asymmetric_03.txt", "noise_lists")):
        lines, faults = read_label_list(shared / "data" / folder / name, CLASS_NAMES)
        assert not faults
        entries[folder] = {line.name: line.label for line in lines if line.name.startswith("train")}
    flips = {
        (CLASS_NAMES[clean].lower(), CLASS_NAMES[entries["noise_lists"][name]].lower())
        for name, clean in entries["raf_labels"].items()
        if entries["noise_lists"][name] != clean
    }
    assert flips == set(noise.ASYMMETRIC_MAPS["soft"].items())


def test_pairs_of_ones_own_flip_these_classes_only() -> None:
    table = balanced(30, ("cat", "dog", "cow"))
    given_noisy = noise.asymmetric(table, ratio=math.nextafter(1, 0), seed=0, map={"Cat": "cow"})
    assert given_noisy.tolist() == [2, 1, 2] * 10
    for pairs in ({}, {"cat": "CAT"}):
        with pytest.raises(ValueError, match=r"noise\.map must lead from each"):
            noise.asymmetric(table, ratio=0.3, seed=0, map=pairs)
    config: Any = compose(["noise=asymmetric", "noise.map={cat: cow}"])
    with pytest.raises(ConfigError, match=r"noise\.map is 'la-net'; it must be la_net or soft or pairs"):
        instantiate_node({**config.noise, "map": "la-net"}, "noise")


# ---- Noise that depends on the picture -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> SampleTable:
    """600 small pictures of three classes, 300 of them twice."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(600):
        pixels = rng.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 48)).save(root / f"{number:03d}.png")
        paths.append(root / f"{number:03d}.png")
    labels = np.arange(1200) % 3
    return SampleTable("pictures", root, (*paths, *paths), labels, np.ones(1200, bool), ("a", "b", "c"))


@pytest.mark.parametrize(("ratio", "mean"), [(0.1, 0.1288), (0.3, 0.3004), (0.5, 0.5)])
def test_instance_noise_has_the_share_of_the_truncated_normal(ratio: float, mean: float, pictures: SampleTable) -> None:
    given_noisy = instance_dependent(pictures, ratio=ratio, seed=3)
    share = (given_noisy != pictures.labels).mean()
    assert abs(share - mean) < 4 * math.sqrt(mean * (1 - mean) / 1200)
    assert np.array_equal(instance_dependent(pictures, ratio=ratio, seed=3), given_noisy)
    assert not np.array_equal(instance_dependent(pictures, ratio=ratio, seed=4), given_noisy)


def test_equal_pictures_of_a_class_are_mistaken_for_the_same_class(pictures: SampleTable) -> None:
    """Two copies of a picture have one class, and mostly the same wrong label."""
    given_noisy = instance_dependent(pictures, ratio=0.7, seed=0)
    wrong = (given_noisy != pictures.labels).reshape(2, 600).all(0)
    assert wrong.sum() > 200
    first, second = given_noisy.reshape(2, 600)[:, wrong]
    assert (first == second).mean() > 0.85, "a chance of 1/2 without features"


def test_instance_noise_needs_a_ratio_in_range(pictures: SampleTable) -> None:
    with pytest.raises(ValueError, match=r"noise\.ratio must be a number with 0 <= ratio < 1"):
        instance_dependent(pictures, ratio=1.0, seed=0)


def test_class_dependent_noise_has_the_rates_of_its_matrix() -> None:
    matrix = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]
    table = balanced(30_000, ("a", "b", "c"))
    counts = noise.transition_counts(table.labels, noise.class_dependent(table, matrix=matrix, seed=1), 3)
    expected = np.array(matrix)
    assert (counts[expected == 0] == 0).all()
    assert chisquare(counts[0, :2]).pvalue > 1e-3
    assert chisquare(counts[2], [2000, 3000, 5000]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 0], [0, 1]], "3 rows of 3 numbers"),
        ([[1, 0, 0], [0, 1, 0], [0, 1]], "3 rows of 3 numbers"),
        ([[1, 0, 0], [0, 0.9, 0], [0, 0, 1]], r"row of b: .* the sum is 0\.9"),
        ([[1, 0, 0], [0, 1, 0], [-0.5, 0.5, 1]], "row of c"),
        ([[1, 0, 0], [0, 1, 0], [math.nan, 0, 1]], "row of c"),
    ],
)
def test_a_matrix_that_is_not_stochastic_is_refused(matrix: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise.class_dependent(balanced(10, ("a", "b", "c")), matrix=matrix, seed=0)


def test_a_matrix_for_other_classes_and_a_ratio_are_refused() -> None:
    table = balanced(10, ("a", "b"))
    unit = [[1.0, 0.0], [0.0, 1.0]]
    assert noise.class_dependent(table, matrix=unit, classes=["A", "B"], seed=0).tolist() == table.labels.tolist()
    with pytest.raises(ValueError, match=r"for the classes b, a; .* has a, b"):
        noise.class_dependent(table, matrix=unit, classes=["b", "a"], seed=0)
    ratio: Any = 0.3
    with pytest.raises(ValueError, match=r"leave noise\.ratio out"):
        noise.class_dependent(table, matrix=unit, seed=0, ratio=ratio)
    with pytest.raises(ValueError, match=r"leave noise\.ratio and noise\.seed out"):
        given_labels.file(table, path="list.txt", ratio=ratio)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 6), min_size=2, max_size=40), ratio=RATES, seed=SEEDS)
def test_a_written_list_reads_back_as_the_same_labels(labels: list[int], ratio: float, seed: int) -> None:
    table = table_of(labels, test=1)
    given_noisy = noise.symmetric(table, ratio=ratio, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "noise.txt")
        write_label_list(path, [table.file_names[row] for row in table.train], given_noisy)
        np.testing.assert_array_equal(given_labels.file(table, path=path), given_noisy)


def test_a_list_may_be_in_any_order_and_repeat_clean_test_labels(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("test_00003.jpg 6\ntrain_00002.jpg 1\ntrain_00001.jpg 7\n")
    assert given_labels.file(table_of([0, 1, 5], test=1), path=path).tolist() == [6, 0]


def test_all_faults_of_a_list_come_in_one_report_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "train_00001.jpg 1\ntrain_00001.jpg 2\ntrain_00002.jpg 0\n"
        "train_99999.jpg 1\ntrain_00003.jpg\ntest_00006.jpg 2\n"
    )
    with pytest.raises(DatasetError) as caught:
        given_labels.file(table_of([0, 1, 2, 3, 4, 5], test=1), path=path)
    faults = "\n".join(caught.value.faults)
    for expected in (
        "line 2: train_00001.jpg was already listed in line 1",
        "line 3: label '0' of train_00002.jpg is not one of 1..7",
        "line 4: train_99999.jpg is not an image of",
        "line 5: 'train_00003.jpg' is one column",
        "no line for 2 of 5 training images, first train_00004.jpg",
    ):
        assert expected in faults
    assert len(caught.value.faults) == 5


def test_lines_that_would_change_test_labels_are_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("train_00001.jpg 3\ntrain_00002.jpg 2\ntest_00003.jpg 7\ntest_00004.jpg 1\ntest_00005.jpg 5\n")
    assert given_labels.file(table_of([0, 1, 2, 3, 4], test=3), path=path).tolist() == [2, 1]
    (record,) = caplog.records
    assert record.getMessage().endswith("list.txt: 2 lines would change labels of test images; test labels stay clean")


def test_a_list_may_count_from_0(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("train_00001.jpg 0\ntrain_00002.jpg 6\n")
    table = table_of([0, 1, 2], test=1)
    assert given_labels.file(table, path=path, first_label=0).tolist() == [0, 6]
    with pytest.raises(DatasetError, match=r"label '0' of train_00001\.jpg is not one of 1\.\.7"):
        given_labels.file(table, path=path)
    path.write_text("train_00001.jpg 0\ntrain_00002.jpg 7\n")
    with pytest.raises(DatasetError, match=r"label '7' of train_00002\.jpg is not one of 0\.\.6; labels count from 0"):
        given_labels.file(table, path=path, first_label=0)
    with pytest.raises(ValueError, match="first_label is 2; it must be 0 or 1"):
        given_labels.file(table, path=path, first_label=2)


@pytest.mark.parametrize("name", ["resup_01", "resup_03", "resup_05", "resup_usnoise", "soft_symmetric_03"])
def test_lists_as_others_publish_them_are_read(
    name: str, shared: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    listed = shared / "data" / "raf_labels" / "list_patition_label.txt"
    rows = [line.split() for line in listed.read_text().splitlines()]
    table = SampleTable(
        "raf_db", tmp_path, tuple(tmp_path / row[0] for row in rows), np.array([int(row[1]) - 1 for row in rows]),
        np.array([row[0].startswith("train") for row in rows]), CLASS_NAMES, names=tuple(row[0] for row in rows),
    )  # fmt: skip
    path = shared / "data" / "noise_lists" / f"{name}.txt"
    given = given_labels.file(table, path=path)
    published = dict(line.split() for line in path.read_text().splitlines())
    assert given.tolist() == [int(published[row[0]]) - 1 for row in rows if row[0].startswith("train")]
    changed = sum(published[row[0]] != row[1] for row in rows if row[0].startswith("test"))
    assert [f"{changed:,} lines" in record.getMessage() for record in caplog.records] == ([True] if changed else [])


def test_different_labels_have_different_digests() -> None:
    a, b = np.array([0, 10]), np.array([10, 0])
    assert noise.fingerprint(a) == noise.fingerprint(b), "the published one joins without a separator"
    assert noise.labels_digest(a) != noise.labels_digest(b)
    assert noise.labels_digest(np.array([1, 2], dtype=np.int32)) == noise.labels_digest(np.array([1, 2]))


def test_a_relative_list_is_found_in_the_data_set(tmp_path: Path) -> None:
    table = table_of([0, 1], root=str(tmp_path))
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel" / "noise01.txt").write_text("train_00001.jpg 3\ntrain_00002.jpg 3\n")
    assert given_labels.file(table, path="noise01.txt").tolist() == [2, 2]
    with pytest.raises(DatasetError, match=r"noise09\.txt: no such file; set noise\.path"):
        given_labels.file(table, path="noise09.txt")


def test_a_list_that_is_not_text_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("train_00001.jpg 1".encode("utf-16"))
    with pytest.raises(DatasetError) as caught:
        given_labels.file(table_of([0, 1], test=1), path=path)
    assert [fault.partition(";")[0] for fault in caught.value.faults] == [f"{path}: not UTF-8 text"]


@pytest.mark.parametrize("path", ["~no_such_user/noise01.txt", f"{'long' * 100}.txt"])
def test_a_path_that_cannot_be_looked_at_is_refused_by_name(path: str) -> None:
    with pytest.raises(DatasetError, match=r"set noise\.path to the label list"):
        given_labels.file(table_of([0, 1]), path=path)


@pytest.mark.parametrize("label", ["9" * 5000, "-" + "9" * 5000, "0" * 5000 + "1"])
def test_a_label_of_thousands_of_digits_is_a_fault_of_its_line(tmp_path: Path, label: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"train_00001.jpg 1\ntrain_00002.jpg {label}\n")
    with pytest.raises(DatasetError, match=r"line 2: label '.*' of train_00002.jpg is not one of 1\.\.7"):
        given_labels.file(table_of([0, 1]), path=path)


@pytest.fixture(scope="module")
def published(shared: Path) -> tuple[Path, SampleTable]:
    """The folder of the published lists and the table that the clean one describes."""
    folder = shared / "data" / "raf_labels"
    entries, faults = read_label_list(folder / "list_patition_label.txt", CLASS_NAMES)
    assert not faults
    names = tuple(entry.name for entry in entries)
    labels = np.array([entry.label for entry in entries])
    is_train = np.array([name.startswith("train_") for name in names])
    return folder, SampleTable(
        "raf_db", folder, tuple(folder / name for name in names), labels, is_train, CLASS_NAMES, (), names
    )


@pytest.mark.parametrize(
    ("name", "changed", "digest"),
    [
        ("list_patition_label.txt", 0, "04979a548a2708f0a4fdf1802760bbc8"),
        ("noise01.txt", 1241, "6cc38cfbf8d1b63a581820808228f45e"),
        ("noise02.txt", 2498, "6e86cf725ba43e90e02e56d5f6504bb5"),
        ("noise03.txt", 3722, "640e17d534fc712c8fc2a417480049e7"),
    ],
)
def test_the_published_lists_give_their_known_labels(
    published: tuple[Path, SampleTable], name: str, changed: int, digest: str
) -> None:
    folder, table = published
    given_noisy = given_labels.file(table, path=folder / name)
    assert (given_noisy != table.labels[table.train]).sum() == changed
    assert noise.fingerprint(given_noisy) == digest


def test_our_symmetric_noise_has_the_statistics_of_the_published_lists(published: tuple[Path, SampleTable]) -> None:
    folder, table = published
    clean = table.labels[table.train]
    for name, ratio in (("noise01.txt", 0.1), ("noise02.txt", 0.2), ("noise03.txt", 0.3)):
        ours = noise.transition_counts(clean, noise.symmetric(table, ratio=ratio, seed=0), 7)
        theirs = noise.transition_counts(clean, given_labels.file(table, path=folder / name), 7)
        expected = np.bincount(clean)[:, None] * np.where(np.eye(7, dtype=bool), 1 - ratio, ratio / 6)
        # 42 degrees of freedom; mean 42, and theirs for 30 % is known to be a little irregular.
        for counts in (ours, theirs):
            assert ((counts - expected) ** 2 / expected).sum() < 80
