"""A store belongs to what the image files hold; files that did not change are not read again."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import pytest
from support.stored_faces import SIZE, make_faces, open_store, picture, pixels_of, table_of

from fer.data.images import content_hashes
from fer.data.images.content_hashes import Hashes, HashIndex
from fer.data.images.sealed_json import read_sealed, write_sealed
from fer.data.images.store import ImageStore
from fer.data.table import DatasetError


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Make five .bmp files of the same size."""
    return make_faces(tmp_path / "faces", suffix=".bmp")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Calling it makes all files that exist by then old enough for their hashes to be kept."""
    monkeypatch.setattr(content_hashes, "_SETTLED", 20_000_000)  # clocks of file systems tick every 1 to 10 ms
    return lambda: time.sleep(0.05)


def index_file(cache: Path) -> Path:
    (file,) = cache.glob("content-hashes-*.json")
    return file


def never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise AssertionError(f"read {path} again")

    monkeypatch.setattr(content_hashes, "read_content", refuse)


def test_data_sets_with_equal_names_sizes_and_times_have_stores_of_their_own(tmp_path: Path, cache: Path) -> None:
    roots = [make_faces(tmp_path / name, first, ".bmp") for name, first in (("one", 0), ("two", 10))]
    for root, number in itertools.product(roots, range(5)):
        os.utime(root / f"{number}.bmp", ns=(1, 1))
    one, two = (open_store(root, cache) for root in roots)
    np.testing.assert_array_equal(one.images, pixels_of(roots[0]))
    np.testing.assert_array_equal(two.images, pixels_of(roots[1]))
    assert one.content_fingerprint != two.content_fingerprint
    assert one.path != two.path


def test_a_file_changed_under_its_old_size_and_time_gives_another_store(
    faces: Path, cache: Path, settled: Callable[[], None]
) -> None:
    settled()
    open_store(faces, cache)
    before = (faces / "2.bmp").stat()
    picture(99).save(faces / "2.bmp")
    os.utime(faces / "2.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (faces / "2.bmp").stat().st_size == before.st_size
    np.testing.assert_array_equal(open_store(faces, cache).images, pixels_of(faces))


def test_a_file_that_another_with_its_size_and_times_has_replaced_is_noticed_by_its_inode(
    faces: Path, cache: Path, settled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_change(state: os.stat_result) -> str:
        return f"{state.st_size} {state.st_mtime_ns} 0 {state.st_ino} {state.st_dev}"

    monkeypatch.setattr(content_hashes, "_shown", without_change)  # file systems of Windows have no such time
    os.utime(faces / "2.bmp", ns=(1, 1))
    settled()
    open_store(faces, cache)
    picture(99).save(faces / "new.bmp")
    os.utime(faces / "new.bmp", ns=(1, 1))
    (faces / "new.bmp").replace(faces / "2.bmp")
    np.testing.assert_array_equal(open_store(faces, cache).images, pixels_of(faces))


@pytest.mark.parametrize("change", ["moved", "copied", "touched", "renamed", "linked"])
def test_data_may_be_moved(faces: Path, cache: Path, tmp_path: Path, settled: Callable[[], None], change: str) -> None:
    settled()
    first = open_store(faces, cache)
    made = first.path.stat()
    if change == "moved":
        faces = faces.rename(tmp_path / "elsewhere")
    elif change == "copied":
        faces = Path(shutil.copytree(faces, tmp_path / "elsewhere", copy_function=shutil.copyfile))
    elif change == "touched":
        (faces / "3.bmp").touch()
    elif change == "renamed":
        for number in range(5):
            (faces / f"{number}.bmp").rename(faces / f"face{number}.bmp")
    else:
        (tmp_path / "link").symlink_to(faces)
        faces = tmp_path / "link"
    again = open_store(faces, cache)
    assert again.path == first.path
    assert again.path.stat().st_ino == made.st_ino, "not decoded again"
    np.testing.assert_array_equal(again.images, pixels_of(faces))


def test_the_order_of_the_files_belongs_to_the_content(faces: Path, cache: Path) -> None:
    table = table_of(faces)
    turned = replace(table, paths=table.paths[::-1])
    first, second = (ImageStore.open(each, size=SIZE, cache_dir=cache) for each in (table, turned))
    np.testing.assert_array_equal(second.images, first.images[::-1])


def test_stores_of_other_decoders_are_not_used(faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store(faces, cache).path
    monkeypatch.setattr(PIL.features, "version", lambda name: f"another {name}")
    assert open_store(faces, cache).path != first


def test_unchanged_files_are_not_read_again(
    faces: Path, cache: Path, settled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled()
    first = open_store(faces, cache)
    never_read(monkeypatch)
    assert open_store(faces, cache).path == first.path
    (faces / "1.bmp").touch()
    with pytest.raises(AssertionError, match=r"1\.bmp again"):
        open_store(faces, cache)


def test_a_file_that_has_just_changed_is_read_again_for_clocks_are_coarse(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_hashes, "_shown", lambda state: f"{state.st_size} 0 0 0 0")  # as if no time had passed
    open_store(faces, cache)
    picture(99).save(faces / "2.bmp")
    np.testing.assert_array_equal(open_store(faces, cache).images, pixels_of(faces))


def test_tables_of_one_folder_share_its_hashes_and_files_that_are_gone_leave_them(
    faces: Path, cache: Path, settled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled()
    table = table_of(faces)
    halves = [
        replace(table, paths=paths, labels=table.labels[: len(paths)], is_train=np.arange(len(paths)) > 0)
        for paths in (table.paths[:3], table.paths[2:])
    ]
    for half in halves:
        ImageStore.open(half, size=SIZE, cache_dir=cache)
    assert len(read_sealed(index_file(cache))["files"]) == 5
    with monkeypatch.context() as patch:
        never_read(patch)
        for half in halves:
            ImageStore.open(half, size=SIZE, cache_dir=cache)
    (faces / "4.bmp").unlink()
    (faces / "3.bmp").touch()
    settled()
    open_store(faces, cache)
    assert sorted(read_sealed(index_file(cache))["files"]) == [f"{number}.bmp" for number in range(4)]


def test_a_name_that_is_not_utf_8_has_its_hash_kept(
    tmp_path: Path, faces: Path, cache: Path, settled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (faces / "4.bmp").rename(faces / os.fsdecode(b"\xff\n.bmp"))
    settled()
    open_store(faces, cache)
    never_read(monkeypatch)
    open_store(faces, cache)


def sealed(text: str) -> bytes:
    body = text.encode()
    return b'{"sha256": "%s",\n"content": ' % hashlib.sha256(body).hexdigest().encode() + body + b"}\n"


HOSTILE = {
    "empty": b"",
    "noise": np.random.default_rng(0).bytes(5_000),
    "no seal": b'{"format": 1, "files": {}}',
    "a false seal": sealed("{}").replace(b"{}", b"[]"),
    "a list": sealed("[]"),
    "deeply nested": sealed("[" * 100_000 + "]" * 100_000),
    "a long number": sealed("1" * 100_000),
    "no JSON": sealed("{"),
    "no UTF-8": sealed("[]").replace(b"[]", b"\xff\xff"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_file_of_hashes_is_made_anew(
    faces: Path, cache: Path, settled: Callable[[], None], content: bytes
) -> None:
    settled()
    first = open_store(faces, cache)
    index_file(cache).write_bytes(content)
    assert open_store(faces, cache).path == first.path
    assert len(read_sealed(index_file(cache))["files"]) == 5


@pytest.mark.parametrize("entry", [None, 1, [], {}, "", "x", "1 2 3 4 5 zz", " " * 9 + "0" * 63, "é" * 64])
def test_entries_of_other_kinds_are_read_again(
    faces: Path, cache: Path, settled: Callable[[], None], entry: object
) -> None:
    settled()
    first = open_store(faces, cache)
    content = read_sealed(index_file(cache))
    write_sealed(index_file(cache), content | {"files": content["files"] | {"2.bmp": entry}})
    assert open_store(faces, cache).path == first.path
    write_sealed(index_file(cache), content | {"files": [entry]})
    assert open_store(faces, cache).path == first.path
    write_sealed(index_file(cache), content | {"root": "/elsewhere"})
    assert open_store(faces, cache).path == first.path


def test_no_bit_of_the_file_of_hashes_changes_unnoticed(
    faces: Path, cache: Path, settled: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    settled()
    path = open_store(faces, cache).path
    whole = index_file(cache).read_bytes()
    for position in range(0, len(whole), 41):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        index_file(cache).write_bytes(damaged)
        caplog.clear()
        assert open_store(faces, cache).path == path
        assert "the image files are read again" in caplog.text


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_in_the_place_of_the_hashes_is_replaced_and_not_followed(
    faces: Path, cache: Path, tmp_path: Path, settled: Callable[[], None], kind: str
) -> None:
    settled()
    first = open_store(faces, cache)
    file = index_file(cache)
    other = tmp_path / "precious"
    file.replace(other)
    precious = other.read_bytes()
    if kind == "link":
        file.symlink_to(other)
    else:
        os.mkfifo(file)
    assert open_store(faces, cache).path == first.path
    assert file.is_file() and not file.is_symlink()
    assert other.read_bytes() == precious


def test_a_folder_in_the_place_of_the_hashes_costs_reading_only(
    faces: Path, cache: Path, settled: Callable[[], None]
) -> None:
    settled()
    first = open_store(faces, cache)
    index_file(cache).unlink()
    HashIndex(faces, cache).path.mkdir()
    assert open_store(faces, cache).path == first.path


def test_a_full_look_reads_every_file_and_tells_of_false_hashes(
    faces: Path, cache: Path, settled: Callable[[], None]
) -> None:
    settled()
    first = open_store(faces, cache)
    content = read_sealed(index_file(cache))
    state = content["files"]["2.bmp"].rpartition(" ")[0]
    write_sealed(index_file(cache), content | {"files": content["files"] | {"2.bmp": f"{state} {'0' * 64}"}})
    thorough = ImageStore.open(table_of(faces), size=SIZE, cache_dir=cache, thorough=True)
    assert thorough.path == first.path
    (warning,) = thorough.warnings
    assert warning.startswith(
        "1 image files were changed while their size, times and inode stayed the same, first 2.bmp"
    )
    assert read_sealed(index_file(cache)) == content
    assert ImageStore.open(table_of(faces), size=SIZE, cache_dir=cache, thorough=True).warnings == ()


def test_a_file_that_changes_between_hashing_and_decoding_gives_the_store_of_what_was_decoded(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hash_all, seeds = HashIndex.of, iter([99])

    def change_afterwards(self: HashIndex, paths: Sequence[Path], workers: int, **options: Any) -> Hashes:
        hashes = hash_all(self, paths, workers, **options)
        for seed in seeds:
            picture(seed).save(faces / "2.bmp")
        return hashes

    monkeypatch.setattr(HashIndex, "of", change_afterwards)
    store = open_store(faces, cache)
    np.testing.assert_array_equal(store.images, pixels_of(faces))
    assert "2.bmp has changed since it was hashed" in caplog.text
    assert open_store(faces, cache).path == store.path
    assert [file.name for file in cache.glob("*.npy")] == [store.path.name]
    picture(2).save(faces / "2.bmp")
    np.testing.assert_array_equal(open_store(faces, cache).images, pixels_of(faces))


def test_files_that_do_not_stop_changing_are_a_fault(faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_all, seeds = HashIndex.of, itertools.count(100)

    def change_afterwards(self: HashIndex, paths: Sequence[Path], workers: int, **options: Any) -> Hashes:
        hashes = hash_all(self, paths, workers, **options)
        picture(next(seeds)).save(faces / "2.bmp")
        return hashes

    monkeypatch.setattr(HashIndex, "of", change_afterwards)
    with pytest.raises(DatasetError, match="wait until the data set is complete"):
        open_store(faces, cache)
    assert list(cache.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_has_no_hash_to_keep(
    faces: Path, settled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled()
    assert content_hashes.read_content(faces / "2.bmp", keep=True).state is not None
    states, look = itertools.count(), os.fstat

    def changing(descriptor: int) -> os.stat_result:
        if next(states) == 2:  # the first is of the opening
            with (faces / "2.bmp").open("ab") as stream:
                stream.write(b"more")
        return look(descriptor)

    monkeypatch.setattr(os, "fstat", changing)
    assert content_hashes.read_content(faces / "2.bmp", keep=True).state is None


def test_without_a_cache_folder_no_hashes_are_kept(faces: Path, settled: Callable[[], None]) -> None:
    settled()
    store = open_store(faces, None)
    np.testing.assert_array_equal(store.images, pixels_of(faces))
    assert sorted(path.suffix for path in store.path.parent.iterdir()) == [".json", ".npy"]


def test_the_facts_of_a_store_are_plain_json(faces: Path, cache: Path) -> None:
    store = open_store(faces, cache)
    facts = json.loads(store.path.with_suffix(".json").read_text())
    assert facts["content"]["content"] == store.content_fingerprint
