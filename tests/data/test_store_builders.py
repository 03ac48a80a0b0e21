"""Processes that build one store wait for each other and never remove each other's files, however one of them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.project import PROJECT
from support.stored_faces import SIZE, open_store, pixels_of, table_of

from fer.data.images.store import ImageStore

# The process says when it decodes, and then waits until "go", or "go" and its own number, lies beside the data set.
OPEN = """
import errno, fcntl, os, sys, time
from pathlib import Path
from fer.data.images import decode, store
from support.stored_faces import SIZE, table_of
root, cache, name, locks = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
right = decode._to_rgb
def wait(image):
    print("decoding", flush=True)
    while not any((root.parent / go).exists() for go in ("go", f"go{os.getpid()}")):
        time.sleep(0.01)
    return right(image)
decode._to_rgb = wait
if locks == "without locks":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
print("started", flush=True)
try:
    opened = store.ImageStore.open(table_of(root, name=name), size=SIZE, cache_dir=cache, workers=1)
    print("opened", opened.images.sum(), flush=True)
except BaseException as error:
    print(type(error).__name__, error, flush=True)
"""


class Builder:
    """A process that opens the store of ``faces``."""

    def __init__(self, faces: Path, cache: Path, name: str = "files", locks: str = "with locks") -> None:
        environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", OPEN, str(faces), str(cache), name, locks],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.line() == "started"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def last_line(self) -> str:
        return self.process.communicate(timeout=60)[0].splitlines()[-1]

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    def end_by_ctrl_c(self, faces: Path) -> None:
        """Interrupt it amid decoding; the threads that decode end their work first."""
        self.process.send_signal(signal.SIGINT)
        (faces.parent / f"go{self.process.pid}").touch()
        assert self.last_line().startswith("KeyboardInterrupt")


Start = Callable[..., Builder]


@pytest.fixture
def start(faces: Path, cache: Path) -> Iterator[Start]:
    builders: list[Builder] = []

    def begin(**options: str) -> Builder:
        builders.append(Builder(faces, cache, **options))
        return builders[-1]

    yield begin
    for builder in builders:
        builder.process.kill()
        builder.process.communicate()


def unfinished(cache: Path) -> list[Path]:
    return sorted(cache.glob(".*.unfinished"))


def go_on(faces: Path) -> None:
    (faces.parent / "go").touch()


def opened(faces: Path) -> str:
    return f"opened {pixels_of(faces).sum()}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_a_builder_ends_one_of_those_that_wait_builds_and_the_others_leave_its_files(
    faces: Path, cache: Path, start: Start, number: int
) -> None:
    first = start()
    assert first.line() == "decoding"
    second = start()
    time.sleep(0.5)  # it waits for the lock
    assert len(unfinished(cache)) == 1
    if number == signal.SIGKILL:
        first.end(number)
    else:
        first.end_by_ctrl_c(faces)
    assert second.line() == "decoding"
    (of_second,) = unfinished(cache)
    third = start()
    time.sleep(0.5)
    assert unfinished(cache) == [of_second]
    go_on(faces)
    assert second.last_line() == opened(faces)
    assert third.last_line() == opened(faces)
    assert third.process.returncode == 0
    assert unfinished(cache) == []
    assert list(cache.glob("*.lock")) == []
    assert (open_store(faces, cache).images == pixels_of(faces)).all()


def test_a_builder_that_waits_and_is_interrupted_leaves_everything_to_the_others(
    faces: Path, cache: Path, start: Start
) -> None:
    first = start()
    assert first.line() == "decoding"
    before = sorted(cache.iterdir())
    for number in (signal.SIGINT, signal.SIGKILL):
        waiting = start()
        time.sleep(0.5)
        waiting.end(number)
        assert sorted(cache.iterdir()) == before
    later = start()
    time.sleep(0.5)
    assert sorted(cache.iterdir()) == before
    go_on(faces)
    assert [builder.last_line() for builder in (first, later)] == [opened(faces)] * 2


def test_where_there_are_no_locks_several_build_and_leave_each_others_files(
    faces: Path, cache: Path, start: Start
) -> None:
    builders = [start(locks="without locks") for _ in range(2)]
    assert [builder.line() for builder in builders] == ["decoding"] * 2
    builders.append(start(locks="without locks"))
    assert builders[-1].line() == "decoding"
    assert len(unfinished(cache)) == 3
    go_on(faces)
    assert [builder.last_line() for builder in builders] == [opened(faces)] * 3
    assert unfinished(cache) == []
    assert (open_store(faces, cache).images == pixels_of(faces)).all()


@pytest.mark.parametrize("name", ["[a-z]*", "*", "files", "file", "?"])
def test_a_builder_leaves_the_files_of_stores_with_like_names(
    faces: Path, cache: Path, start: Start, name: str
) -> None:
    other = start(name="files-16px")
    assert other.line() == "decoding"
    (in_work,) = unfinished(cache)
    left = in_work.with_name(in_work.name.replace("files-16px", "files-16px-16px"))
    left.write_bytes(b"of a killed process, perhaps")
    store = ImageStore.open(table_of(faces, name=name), size=SIZE, cache_dir=cache)
    assert (store.images == pixels_of(faces)).all()
    assert unfinished(cache) == sorted([in_work, left])
    go_on(faces)
    assert other.last_line() == opened(faces)
    assert unfinished(cache) == [left]


def test_a_name_with_a_slash_stays_in_the_cache_folder(faces: Path, cache: Path) -> None:
    store = ImageStore.open(table_of(faces, name="../up/and away"), size=SIZE, cache_dir=cache)
    assert store.path.parent == cache
    assert store.path.name.startswith(".._up_and away-16px-")


def test_what_a_killed_builder_left_is_removed_by_the_next(faces: Path, cache: Path, start: Start) -> None:
    killed = start()
    assert killed.line() == "decoding"
    killed.end(signal.SIGKILL)
    assert len(unfinished(cache)) == 1
    assert len(list(cache.glob("*.lock"))) == 1
    path = open_store(faces, cache).path
    assert sorted(file.suffix for file in cache.iterdir() if file.stem == path.stem) == [".json", ".npy"]
    assert unfinished(cache) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "file"])
def test_what_lies_in_the_place_of_the_lock_keeps_its_content(
    faces: Path, cache: Path, tmp_path: Path, kind: str
) -> None:
    path = open_store(faces, cache).path
    path.unlink()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    lock = path.with_suffix(".lock")
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        os.link(precious, lock)
    assert (open_store(faces, cache).images == pixels_of(faces)).all()
    assert precious.read_text() == "precious"
