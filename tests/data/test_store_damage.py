"""A store that does not hold what was written to it is noticed at the first opening and made anew."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.project import PROJECT
from support.stored_faces import SIZE, make_faces, open_store, pixels_of, table_of

from fer.data.images import store_files
from fer.data.images.block_sums import block_sum, first_damaged
from fer.data.images.sealed_json import read_sealed, write_sealed
from fer.data.images.store import ImageStore
from fer.data.images.store_files import DamagedStoreError, array_header, facts_file
from fer.errors import ConfigError


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks for five images."""
    for name in ("store_building", "store_files"):
        monkeypatch.setattr(f"fer.data.images.{name}.BLOCK", 2)


def damage(path: Path, position: int, content: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(content)


def restore_times(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


OPEN = """
import sys
from pathlib import Path
from support.stored_faces import open_store
print(open_store(Path(sys.argv[1]), Path(sys.argv[2])).images.sum())
"""


def opened_elsewhere(faces: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Open the store in a new process, as the next run would."""
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    return subprocess.run(
        [sys.executable, "-c", OPEN, str(faces), str(cache)],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_random_bytes_in_a_store_are_noticed_by_the_next_process(faces: Path, cache: Path) -> None:
    store = open_store(faces, cache)
    before = store.path.stat()
    damage(store.path, 1000, np.random.default_rng(0).bytes(500))
    restore_times(store.path, before)
    done = opened_elsewhere(faces, cache)
    assert int(done.stdout) == pixels_of(faces).sum()
    assert f"the image store {store.path} is damaged" in done.stderr
    assert "block 1 of 1, images 1 to 5, does not fit its checksum" in done.stderr
    assert "damaged" not in opened_elsewhere(faces, cache).stderr


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize(
    ("image", "block"), [(0, "1 of 3, images 1 to 2"), (3, "2 of 3, images 3 to 4"), (4, "3 of 3")]
)
def test_one_changed_bit_is_noticed_and_its_block_named(
    faces: Path, cache: Path, caplog: pytest.LogCaptureFixture, image: int, block: str
) -> None:
    store = open_store(faces, cache)
    position = store.path.stat().st_size - (5 - image) * 3 * SIZE * SIZE
    damage(store.path, position, bytes([store.images[image, 0, 0, 0] ^ 1]))
    assert (open_store(faces, cache).images == pixels_of(faces)).all()
    assert f"block {block}" in caplog.text


@given(st.lists(st.tuples(st.integers(0, 9_999), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4))
def test_no_change_of_bytes_passes_the_sums(changes: list[tuple[int, bytes]]) -> None:
    whole = np.random.default_rng(0).bytes(10_000)
    changed = bytearray(whole)
    for position, content in changes:
        content = content[: 10_000 - position]
        changed[position : position + len(content)] = content
    sums = [block_sum(np.frombuffer(whole[start : start + 3_000], np.uint8)) for start in range(0, 10_000, 3_000)]
    first = next((number for number in range(10_000) if whole[number] != changed[number]), None)
    with tempfile.TemporaryFile(buffering=0) as stream:
        stream.write(b"header" + changed)
        found = first_damaged(stream.fileno(), offset=6, length=10_000, block=3_000, sums=sums, workers=2)
    assert found == (None if first is None else first // 3_000)


def test_sums_are_those_of_the_published_polynomial() -> None:
    digits = np.frombuffer(b"123456789", np.uint8)
    assert block_sum(digits) == 0xE3069283
    assert block_sum(digits[4:], block_sum(digits[:4])) == 0xE3069283


def test_a_process_looks_at_every_block_once(faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    compare = store_files.first_damaged
    monkeypatch.setattr(store_files, "first_damaged", lambda *a, **b: (looked.append(1), compare(*a, **b))[1])
    store = open_store(faces, cache)
    assert looked == [1]
    open_store(faces, cache)
    pickle.loads(pickle.dumps(store))
    assert looked == [1], "not by loader workers either"
    store.path.touch()
    open_store(faces, cache)
    assert looked == [1, 1], "it could have been written to"


def test_a_store_that_is_gone_or_another_is_not_mapped_by_a_worker(faces: Path, cache: Path) -> None:
    store = open_store(faces, cache)
    packed = pickle.dumps(store)
    store.path.write_bytes(store.path.read_bytes()[:-1])
    with pytest.raises(DamagedStoreError, match="bytes instead of"):
        pickle.loads(packed)
    store.path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(packed)


def header_of(**changes: Any) -> bytes:
    stream = io.BytesIO()
    right = {"descr": "|u1", "fortran_order": False, "shape": (5, 3, SIZE, SIZE)}
    np.lib.format.write_array_header_1_0(stream, right | changes)
    return stream.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        header_of(fortran_order=True),
        header_of(shape=(5, SIZE, SIZE, 3)),
        header_of(shape=(10**12, 3, SIZE, SIZE)),
        header_of(descr="|i1"),
        header_of(descr="|O"),
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 117 + b"\n",
        bytes(128),
    ],
    ids=["fortran order", "other shape", "huge shape", "other type", "objects", "no header", "zeros"],
)
def test_an_array_with_another_header_is_made_anew(faces: Path, cache: Path, header: bytes) -> None:
    path = open_store(faces, cache).path
    assert len(header) == 128
    damage(path, 0, header)
    assert (open_store(faces, cache).images == pixels_of(faces)).all()
    assert path.read_bytes()[:128] == array_header((5, 3, SIZE, SIZE))


@pytest.mark.parametrize("shape", [(5, 3, 16, 16), (15_339, 3, 100, 100), (1, 3, 1, 1), (10**12, 3, 10**6, 10**6)])
def test_numpy_reads_the_array_as_it_is(shape: tuple[int, ...]) -> None:
    stream = io.BytesIO(array_header(shape))
    assert np.lib.format.read_magic(stream) == (1, 0)
    assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype(np.uint8))
    assert stream.tell() == len(array_header(shape)) and stream.tell() % 64 == 0


def test_numpy_reads_a_store(faces: Path, cache: Path) -> None:
    assert (np.load(open_store(faces, cache).path, allow_pickle=False) == pixels_of(faces)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"content": "0" * 63},
        {"content": 7},
        {"block_sums": []},
        {"block_sums": [1, 2]},
        {"block_sums": [-1]},
        {"block_sums": [2**32]},
        {"block_sums": [True]},
        {"block_sums": {"0": 1}},
        {"resized": 6},
        {"resized": 1.0},
        {"distorted": 1},
        {"bad": {"1": "empty"}},
        {"bad": [[5, "empty"]]},
        {"bad": [[-1, "empty"]]},
        {"bad": [[2, "empty"], [1, "empty"]]},
        {"bad": [[1, "empty"], [1, "empty"]]},
        {"bad": [[1, None]]},
        {"bad": [["1", "empty"]]},
        {"bad": [[1]]},
        {"key": "0" * 64},
        {"more": 1},
    ],
    ids=str,
)
def test_facts_that_no_store_has_are_not_believed(faces: Path, cache: Path, change: dict[str, Any]) -> None:
    file = facts_file(open_store(faces, cache).path)
    right = read_sealed(file)
    write_sealed(file, right | change)
    store = open_store(faces, cache)
    assert store.warnings == () and store.bad.tolist() == []
    assert read_sealed(file) == right


@pytest.mark.parametrize("text", ["[" * 200_000, "1" * 100_000, "[]", "null", "", "\0"], ids=lambda text: text[:3])
def test_other_files_than_facts_are_not_believed(faces: Path, cache: Path, text: str) -> None:
    file = facts_file(open_store(faces, cache).path)
    right = read_sealed(file)
    file.write_text(text)
    open_store(faces, cache)
    assert read_sealed(file) == right
    write_sealed(file, [])
    open_store(faces, cache)
    assert read_sealed(file) == right


def test_a_changed_digit_in_the_facts_is_noticed(faces: Path, cache: Path) -> None:
    (faces / "1.png").write_bytes(b"no image")
    path = open_store(faces, cache, "skip").path
    text = facts_file(path).read_text()
    changed = text.replace("[1,", "[2,") if "[1," in text else text.replace('"1":', '"2":')
    assert changed != text
    facts_file(path).write_text(changed)
    assert open_store(faces, cache, "skip").bad.tolist() == [1]


def test_a_store_under_the_name_of_another_is_not_used(faces: Path, cache: Path, tmp_path: Path) -> None:
    first = open_store(faces, cache).path
    other = make_faces(tmp_path / "other", 10)
    second = open_store(other, cache).path
    first.replace(second)
    facts_file(first).replace(facts_file(second))
    assert (open_store(other, cache).images == pixels_of(other)).all()


@pytest.mark.parametrize("which", ["array", "facts"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_in_the_place_of_a_store_is_replaced_and_not_followed(
    faces: Path, cache: Path, tmp_path: Path, kind: str, which: str
) -> None:
    path = open_store(faces, cache).path
    file = path if which == "array" else facts_file(path)
    other = tmp_path / "precious"
    other.write_text("precious")
    file.unlink()
    if kind == "link":
        file.symlink_to(other)
    else:
        os.mkfifo(file)
    assert opened_elsewhere(faces, cache).stdout.split() == [str(pixels_of(faces).sum())]
    assert file.is_file() and not file.is_symlink()
    assert other.read_text() == "precious"


def test_a_folder_in_the_place_of_a_store_is_named(faces: Path, cache: Path) -> None:
    path = open_store(faces, cache).path
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot write the image store"):
        open_store(faces, cache)


@pytest.mark.parametrize("thorough", [False, True])
def test_what_the_disk_cannot_read_is_made_anew(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, thorough: bool
) -> None:
    path = open_store(faces, cache).path
    broken = path.stat().st_ino
    path.touch()  # else this process would not look at it again
    read, digest = os.preadv, hashlib.file_digest

    def read_or_fail(descriptor: int, *arguments: Any) -> int:
        if os.fstat(descriptor).st_ino == broken:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, *arguments)

    def digest_or_fail(stream: Any, name: str) -> Any:
        if os.fstat(stream.fileno()).st_ino == broken:
            raise OSError(errno.EIO, "Input/output error")
        return digest(stream, name)

    monkeypatch.setattr(os, "preadv", read_or_fail)
    monkeypatch.setattr(hashlib, "file_digest", digest_or_fail)
    store = ImageStore.open(table_of(faces), size=SIZE, cache_dir=cache, thorough=thorough)
    assert store.path == path and path.stat().st_ino != broken
    assert "is made anew" in caplog.text


@pytest.mark.usefixtures("unlimited")
def test_a_damaged_store_that_cannot_be_made_anew_is_not_used(faces: Path, cache: Path) -> None:
    path = open_store(faces, cache).path
    damage(path, 1000, b"\0\1\2")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(ConfigError, match="cannot write the image store"):
        open_store(faces, cache)


def test_pixels_that_fit_their_sums_but_not_their_sha_256_are_noticed_by_a_full_look(
    faces: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = open_store(faces, cache).path
    damage(path, 1000, bytes(20))
    forged = block_sum(np.fromfile(path, np.uint8)[len(array_header((5, 3, SIZE, SIZE))) :])
    write_sealed(facts_file(path), read_sealed(facts_file(path)) | {"block_sums": [forged]})
    assert (open_store(faces, cache).images != pixels_of(faces)).any()
    store = ImageStore.open(table_of(faces), size=SIZE, cache_dir=cache, thorough=True)
    assert (store.images == pixels_of(faces)).all()
    assert "the pixels do not fit their SHA-256" in caplog.text


def test_facts_are_sealed_json(faces: Path, cache: Path) -> None:
    file = facts_file(open_store(faces, cache).path)
    whole = file.read_bytes()
    assert json.loads(whole)["content"] == read_sealed(file)
    for position, bit in itertools.product(range(0, len(whole), 7), (0, 5)):
        changed = bytearray(whole)
        changed[position] ^= 1 << bit
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="does not fit its own checksum"):
            read_sealed(file)
