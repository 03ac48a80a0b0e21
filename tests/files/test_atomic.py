"""Files are replaced whole, locks follow no links, and only files that nobody writes any more are removed."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from fer.files.atomic import open_lock, remove_unfinished, replacing

pytestmark = pytest.mark.measured


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.unfinished"))


def test_a_lock_file_is_made_and_its_content_stays(tmp_path: Path) -> None:
    with open_lock(tmp_path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not os.get_inheritable(lock.fileno())
        lock.write(b"mine")
        with open_lock(tmp_path / "lock") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert (tmp_path / "lock").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_only_a_file_is_opened_as_a_lock(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / ("precious" if kind == "link" else "nothing"))
    with pytest.raises(OSError, match=r"symbolic|directory|not a regular file"):
        open_lock(path)
    assert not (tmp_path / "nothing").exists()


def name_of(machine: str) -> str:
    return f".file.{machine}-0123abcd.unfinished"


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def test_unfinished_files_are_removed_when_their_process_is_gone(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as mine:
        machine = mine.name.split(".")[2].partition("-")[0]
        age(mine, 2)
        of_another = name_of(machine).replace("file", "files")
        names = [name_of(machine), name_of("0" * 8), ".file.0123abcd.unfinished", of_another]
        for name in names:
            (tmp_path / name).touch()
        (tmp_path / name_of("link").replace("link", machine[::-1])).symlink_to("file")
        remove_unfinished(tmp_path, "file")
        left = {path.name for path in unfinished(tmp_path)}
        assert left == {mine.name, names[1], names[3], name_of(machine[::-1])}
        for name in (names[1], names[3]):
            age(tmp_path / name, 2)
        remove_unfinished(tmp_path, "file")
        assert {path.name for path in unfinished(tmp_path)} == {mine.name, name_of(machine[::-1])}
        mine.write_text("done")
    assert (tmp_path / "file").read_text() == "done"
    remove_unfinished(tmp_path / "nowhere")


def test_where_locks_do_not_work_a_file_stays_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with replacing(tmp_path / "file") as mine:
        mine.write_text("done")
        remove_unfinished(tmp_path)
        assert mine.exists()
        left = mine.with_name(mine.name.replace("file", "other"))
        left.touch()
        age(left, 2)
        remove_unfinished(tmp_path)
        assert unfinished(tmp_path) == [mine]
    assert (tmp_path / "file").read_text() == "done"


def test_a_file_taken_for_left_over_before_it_was_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def remove_first(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise BlockingIOError
        if len(calls) == 2:
            unfinished(tmp_path)[0].unlink()
        flock(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with replacing(tmp_path / "file") as mine:
        assert unfinished(tmp_path) == [mine]
        mine.write_text("done")
    assert len(calls) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
