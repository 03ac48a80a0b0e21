"""Everything that is wrong with a data set comes in one report before training, each fault once and with its place."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from support.project import Train

from fer.cli.data import main
from fer.data import given_labels, noise
from fer.data.images import decode as decode_module
from fer.data.loading.datamodule import FaceDataModule
from fer.data.loading.prepare import PreparedData, prepare, read_labels
from fer.data.readers import folder, raf_db
from fer.data.table import DatasetError, SampleTable
from fer.errors import UserError
from fer.reports.run_summary import print_run
from fer.runs.run_folder import RunFolder

LIST = "list_patition_label.txt"
TRAIN = [f"train_{number:05d}.jpg" for number in range(1, 7)]
TEST = [f"test_{number:04d}.jpg" for number in range(1, 4)]
NOBODY = 65534


def encoded(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


JPEGS = {name: encoded(number) for number, name in enumerate(TRAIN + TEST)}
LABELS = {name: number % 7 + 1 for number, name in enumerate(JPEGS)}


def shown(name: str) -> str:
    return f"Image/aligned/{name.replace('.', '_aligned.')}"


def make(root: Path, lines: Sequence[str] = ()) -> Path:
    """A small data set in RAF-DB's layout; its list is right, or has these lines."""
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image" / "aligned").mkdir(parents=True)
    right = [f"{name} {label}" for name, label in LABELS.items()]
    (root / "EmoLabel" / LIST).write_text("\n".join(lines or right))
    for name, data in JPEGS.items():
        (root / shown(name)).write_bytes(data)
    return root


def prepared(root: Path, on_bad_image: str = "error", noise_list: Path | None = None) -> PreparedData:
    return prepare(
        partial(raf_db.read, root, expected=None),
        partial(given_labels.file, path=noise_list) if noise_list else partial(noise.symmetric, ratio=0.3, seed=0),
        size=8,
        cache_dir=root.with_name("cache"),
        on_bad_image=on_bad_image,
    )


def faults_of(call: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(DatasetError) as caught:
        call()
    return caught.value.faults


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def text(path: Path) -> None:
    path.write_text("<html>404</html>")


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing.jpg")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BAD_IMAGES: dict[Callable[[Path], None], str] = {
    empty: "empty",
    truncated: "cannot be decoded",
    text: "not an image in a known format",
}
NO_FILES: dict[Callable[[Path], None], str] = {
    Path.unlink: "missing",
    link_to_nothing: "a link that leads to no file",
    loop: "cannot be read (Too many levels of symbolic links)",
    directory: "a folder",
    pipe: "not a file but a device or a pipe",
}


@pytest.mark.parametrize("spoil", BAD_IMAGES)
def test_an_image_without_pixels_stops_the_run_or_is_skipped(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    root = make(tmp_path / "set")
    spoil(root / shown(TRAIN[2]))
    (fault,) = faults_of(lambda: prepared(root))
    assert fault.startswith(f"{shown(TRAIN[2])} ({LIST}, line 3): {BAD_IMAGES[spoil]}")
    assert fault.endswith("or set data.on_bad_image=skip")
    data = prepared(root, "skip")
    assert data.store.bad.tolist() == [2]
    assert (
        f"1 images cannot be decoded and are left out, first {shown(TRAIN[2])} ({LIST}, line 3)"
        in (data.store.warnings[0])
    )


@pytest.mark.parametrize("spoil", NO_FILES)
def test_what_is_no_file_stops_the_run_always(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    root = make(tmp_path / "set")
    spoil(root / shown(TEST[0]))
    text(root / shown(TRAIN[0]))
    for on_bad_image in ("error", "skip"):
        *others, fault = faults_of(partial(prepared, root, on_bad_image))
        assert fault.startswith(f"{shown(TEST[0])} ({LIST}, line 7): {NO_FILES[spoil]}; restore it")
        assert "on_bad_image" not in fault
        assert len(others) == (1 if on_bad_image == "error" else 0)


@dataclass
class Spoiled:
    """A data set as its files are to be written, and the starts of the faults that must be told of it."""

    lines: list[str] = field(default_factory=list)
    noise_lines: list[str] = field(default_factory=list)
    images: list[tuple[str, Callable[[Path], None]]] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


@st.composite
def spoiled(draw: st.DrawFn) -> Spoiled:
    """Any mixture of faults, of which several may hit the same image."""
    made = Spoiled()
    no_noise_line: list[str] = []
    noise_faults: list[str] = []
    for name, right in LABELS.items():
        label = draw(st.sampled_from([f" {right}"] * 4 + [" 0", " 8", " happy", ""]))
        made.lines.append(f"{name}{label}")
        line = len(made.lines)
        where = f"{LIST}, line {line}"
        if label == "":
            made.expected.append(f"{where}: '{name}' is one column")
        elif label != f" {right}":
            made.expected.append(f"{where}: label '{label[1:]}' of {name} is not one of 1..7")
        if draw(st.integers(0, 4)) == 0:
            made.lines.append(f"{name} 1")
            made.expected.append(f"{LIST}, line {line + 1}: {name} was already listed in line {line};")
        if draw(st.integers(0, 2)) == 0:
            spoil, reason = draw(st.sampled_from([*BAD_IMAGES.items(), *NO_FILES.items()]))
            made.images.append((name, spoil))
            made.expected.append(f"{shown(name)} ({where}): {reason}")

        kind = draw(st.sampled_from(["right"] * 4 + ["absent", "label", "one column", "twice", "stranger"]))
        if kind != "absent":
            given_label = {"label": " x", "one column": ""}.get(kind, f" {right}")
            made.noise_lines.append(f"{name}{given_label}")
        elif name in TRAIN:
            no_noise_line.append(name)
        noise_where = f"EmoLabel/noise.txt, line {len(made.noise_lines)}"
        if kind == "label":
            noise_faults.append(f"{noise_where}: label 'x' of {name} is not one of 1..7")
        elif kind == "one column":
            noise_faults.append(f"{noise_where}: '{name}' is one column")
        elif kind in ("twice", "stranger"):
            other = name if kind == "twice" else f"train_9{len(made.noise_lines)}.jpg"
            made.noise_lines.append(f"{other} 2")
            reason = "was already listed" if kind == "twice" else "is not an image of"
            noise_faults.append(f"EmoLabel/noise.txt, line {len(made.noise_lines)}: {other} {reason}")
        elif name in TEST and kind == "right" and label == f" {right}" and draw(st.booleans()):
            made.noise_lines[-1] = f"{name} {right % 7 + 1}"  # published lists do that; it changes nothing
    if no_noise_line:
        noise_faults.append(f"EmoLabel/noise.txt: no line for {len(no_noise_line)} of 6 training images")
    made.expected += noise_faults
    return made


@settings(max_examples=60)
@given(spoiled())
def test_of_any_mixture_of_faults_each_is_told_once_and_nothing_else(case: Spoiled) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = make(Path(temporary, "set"), case.lines)
        noise_list = root / "EmoLabel" / "noise.txt"
        noise_list.write_text("\n".join(case.noise_lines))
        for name, spoil in case.images:
            spoil(root / shown(name))
        if not case.expected:
            assert len(prepared(root, noise_list=noise_list).given) == len(TRAIN)
            return
        faults = faults_of(lambda: prepared(root, noise_list=noise_list))
    unexpected = [fault for fault in faults if not any(map(fault.startswith, case.expected))]
    untold = [start for start in case.expected if sum(fault.startswith(start) for fault in faults) != 1]
    assert not unexpected
    assert not untold


def test_training_and_check_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / "set", [f"{name} {8 if name == TRAIN[1] else label}" for name, label in LABELS.items()])
    noise_list = tmp_path / "noise.txt"
    noise_list.write_text("".join(f"{name} 1\n" for name in TRAIN[:-1]))
    truncated(root / shown(TRAIN[1]))
    module = FaceDataModule(
        read=partial(raf_db.read, root),
        noise=partial(given_labels.file, path=noise_list),
        batch_size=2,
        store_size=8,
        cache_dir=tmp_path / "cache",
    )
    faults = faults_of(module.setup)
    assert [fault.partition(":")[0] for fault in faults] == [
        f"{LIST}, line 2", f"{noise_list}", f"{shown(TRAIN[1])} ({LIST}, line 2)",
    ]  # fmt: skip
    overrides = ["data=raf_db", f"data.root={root}", "noise=file", f"noise.path={noise_list}", "data.store_size=8"]
    assert main(["check", *overrides, f"cache_dir={tmp_path / 'cache'}"]) == 1
    assert [line.removeprefix("  - ") for line in capsys.readouterr().err.splitlines()[1:]] == [*faults]
    assert main(["stats", *overrides]) == 1
    assert "2 faults in" in capsys.readouterr().err, "lists only"


@pytest.mark.parametrize("archive", [False, True])
def test_a_folder_without_its_images_is_one_fault(tmp_path: Path, archive: bool) -> None:
    root = make(tmp_path / "set")
    (root / "Image" / "aligned").rename(root / "Image" / "elsewhere")
    if archive:
        (root / "Image" / "aligned.zip").write_bytes(b"PK")
    (fault,) = faults_of(lambda: prepared(root, "skip"))
    assert fault.startswith(f"Image/aligned: missing, all 9 images, first {shown(TRAIN[0])} ({LIST}, line 1); ")
    assert fault.endswith("unpack aligned.zip there" if archive else "put them there")


def test_skipping_must_leave_images_in_both_splits(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    for name in TEST:
        empty(root / shown(name))
    (fault,) = faults_of(lambda: prepared(root, "skip"))
    assert fault == f"no test image can be decoded, first {shown(TEST[0])} ({LIST}, line 7): empty"


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything; this makes the process someone who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def visible() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        yield Path(temporary)


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        (shown(TRAIN[3]), f"{shown(TRAIN[3])} ({LIST}, line 4): cannot be read (Permission denied); restore"),
        ("Image/aligned", "Image/aligned: cannot be read (Permission denied), all 9 images, first"),
        (f"EmoLabel/{LIST}", f"{LIST}: cannot be read (Permission denied)"),
        ("EmoLabel/noise.txt", "EmoLabel/noise.txt: cannot be read (Permission denied)"),
        ("EmoLabel", "EmoLabel/list_patition_label.txt: Permission denied; look at the path"),
    ],
)
def test_what_may_not_be_read_is_named_and_not_remembered(visible: Path, closed: str, expected: str) -> None:
    root = make(visible / "set")
    noise_list = root / "EmoLabel" / "noise.txt"
    noise_list.write_text("".join(f"{name} 1\n" for name in TRAIN))
    (visible / "cache").mkdir()
    (visible / "cache").chmod(0o777)
    before = (root / closed).stat().st_mode
    (root / closed).chmod(0)
    for on_bad_image in ("error", "skip"):
        with without_rights():
            (fault,) = faults_of(partial(prepared, root, on_bad_image, noise_list))
        assert fault.removeprefix(f"{root}/").startswith(expected)
    (root / closed).chmod(before)
    with without_rights():
        assert prepared(root, noise_list=noise_list).store.bad.tolist() == []


def test_a_class_folder_that_may_not_be_read_is_named_with_the_others_faults(visible: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/c"):
        (visible / name).mkdir(parents=True)
        (visible / name / "1.jpg").write_bytes(JPEGS[TRAIN[0]])
    (visible / "train/a").chmod(0)
    with without_rights():
        faults = faults_of(lambda: read_labels(partial(folder.read, visible), noise.none))
    (visible / "train/a").chmod(0o755)
    assert [fault.partition(";")[0] for fault in faults] == [
        "test/b: missing, while train/b exists", "train/c: missing, while test/c exists",
        "train/a: cannot be read (Permission denied)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
        (MemoryError(), "cannot be decoded for want of memory"),
    ],
)
def test_a_failure_of_the_machine_does_not_make_an_image_bad_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    root = make(tmp_path / "set")
    right = decode_module._to_rgb

    def fails(image: Image.Image) -> Image.Image:
        if image.tobytes() == Image.open(root / shown(TRAIN[1])).tobytes():
            raise error
        return right(image)

    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "_to_rgb", fails)
        (fault,) = faults_of(lambda: prepared(root, "skip"))
    assert fault.startswith(f"{shown(TRAIN[1])} ({LIST}, line 2): {reason}")
    assert prepared(root, "skip").store.bad.tolist() == []


def a_table(root: Path, **changed: Any) -> SampleTable:
    paths = tuple(root / shown(name) for name in JPEGS)
    is_train = np.array([name in TRAIN for name in JPEGS])
    return replace(SampleTable("own", root, paths, np.arange(9) % 2, is_train, ("a", "b")), **changed)


def test_one_who_writes_a_reader_gets_the_checks_as_well(tmp_path: Path) -> None:
    root = make(tmp_path / "set")

    def faults_of_reader(read: Callable[[], SampleTable]) -> tuple[str, ...]:
        return faults_of(lambda: prepare(read, noise.none, size=8, cache_dir=None, on_bad_image="error"))

    (fault,) = faults_of_reader(lambda: a_table(root, is_train=np.ones(9, dtype=bool)))
    assert fault.startswith("no test image;")
    (fault,) = faults_of_reader(lambda: (root / "labels.csv").read_text() and a_table(root))
    assert fault.startswith(f"{root / 'labels.csv'}: No such file or directory")
    odd = root / os.fsdecode(b"Image/aligned/caf\xe9.jpg")
    odd.write_bytes(JPEGS[TRAIN[0]])
    (fault,) = faults_of_reader(lambda: a_table(root, paths=(odd, *a_table(root).paths[1:])))
    assert fault == r"'Image/aligned/caf\udce9.jpg': a name that is not UTF-8; rename it"
    text(root / shown(TRAIN[4]))
    Path.unlink(root / shown(TEST[1]))
    plain = faults_of_reader(lambda: a_table(root))
    assert [fault.partition(":")[0] for fault in plain] == [shown(TRAIN[4]), shown(TEST[1])]
    places = tuple(f"labels.csv, line {row + 2}" for row in range(9))
    placed = faults_of_reader(lambda: a_table(root, places=places))
    assert [fault.partition(":")[0] for fault in placed] == [
        f"{shown(TRAIN[4])} (labels.csv, line 6)", f"{shown(TEST[1])} (labels.csv, line 9)",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="one label, split, name and place per file"):
        a_table(root, places=places[1:])


def test_a_noise_that_stumbles_over_a_partial_table_hides_nothing(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [f"{name} {label - 1}" for name, label in LABELS.items()])

    def stumbles(table: SampleTable) -> Any:
        return np.bincount(table.labels)  # no negative numbers here

    faults = faults_of(lambda: read_labels(partial(raf_db.read, root), stumbles))
    assert [fault.partition(" of ")[0] for fault in faults] == [
        f"{LIST}, line 1: label '0'", f"{LIST}, line 8: label '0'",
    ]  # fmt: skip


def test_a_report_travels_between_processes(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [f"{name} 0" for name in LABELS])
    with pytest.raises(DatasetError) as caught:
        raf_db.read(root)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.faults) == (str(caught.value), caught.value.faults)


def test_skipped_images_are_counted_in_the_result_and_shown(tmp_path: Path, train: Train, shapes: Path) -> None:
    root = tmp_path / "set"
    for path in shapes.glob("*/*/*.png"):
        (root / path.relative_to(shapes)).parent.mkdir(parents=True, exist_ok=True)
        (root / path.relative_to(shapes)).hardlink_to(path)
    for name in ("train/bar/000.png", "train/disc/003.png", "test/line/001.png"):
        (root / name).unlink()
        (root / name).write_bytes(b"")
    more = [f"data.root={root}", "trainer.max_epochs=1", "method=ce"]
    with pytest.raises(UserError, match="3 faults"):
        train(tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()
    result = train(tmp_path / "run", *more, "data.on_bad_image=skip")
    assert RunFolder(tmp_path / "run").result()["skipped_images"] == {"train": 2, "test": 1}
    console = Console(record=True, file=io.StringIO(), width=200)
    print_run(tmp_path / "run", {**result, "choices": {"experiment": None, **result["choices"]}}, console)
    assert re.search("Left out +2 train and 1 test images that cannot be decoded", console.export_text())
