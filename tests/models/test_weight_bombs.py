"""A weights file costs no more time and memory than its size warrants, whatever it claims."""

from __future__ import annotations

import copy
import io
import multiprocessing
import resource
import struct
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from fer.models.backbones import tiny
from fer.models.weights.load import WeightsError, load_backbone_weights

pytestmark = pytest.mark.measured

SECONDS, BYTES = 60, 200 * 2**20
NO_TENSORS, CUT, NO_CALL = "holds no tensors", "more bytes should follow", "and it asks for "


def outcome_of_loading(path: Path) -> str:
    """Load a file in a process that may use a minute of processor time and 200 MB, and return its message."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_load, args=(path, sender))
    process.start()
    sender.close()
    try:
        return str(receiver.recv())
    except EOFError:
        return "killed for the time it took"
    finally:
        process.join()


def _load(path: Path, sender: Connection) -> None:
    backbone = tiny(width=8)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + SECONDS
    resource.setrlimit(resource.RLIMIT_AS, (in_use + BYTES, in_use + BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        load_backbone_weights(backbone, path, name="tiny")
    except WeightsError as error:
        sender.send(str(error))
    else:
        sender.send("loaded")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def claimed(operation: bytes, form: str, size: int) -> bytes:
    """Something of which the file holds one byte."""
    return b"\x80\x04" + operation + struct.pack(form, size) + b"x."


def dict_nest(depth: int) -> bytes:
    """Each dict holds the one before twice: 2 ** depth ways lead to the first."""
    twice = [b"(" + text("a") + b"h%c" % i + text("b") + b"h%c" % i + b"uq%c" % (i + 1) for i in range(depth)]
    return b"\x80\x02}q\x00}" + b"}".join(twice) + b"."


def arrays_of_the_same_bytes(count: int) -> bytes:
    raw = b"B" + struct.pack("<I", 2**19) + bytes(2**19)
    parts = [raw, b"cnumpy.core.numeric\n_frombuffer\n", b"cnumpy\ndtype\nU\x02f4\x85R", b"J\x00\x00\x02\x00\x85"]
    arrays = [text(str(number)) + b"h\x01(h\x00h\x02h\x03U\x01CtR" for number in range(count)]
    return b"\x80\x04" + b"".join(part + b"\x940" for part in parts) + b"}(" + b"".join(arrays) + b"u."


TUPLE_NEST = b")" + b"2\x86" * 60
PICKLES = {
    "dicts shared": (dict_nest(60), NO_TENSORS),
    "tuples shared, as a key": (b"\x80\x02}" + TUPLE_NEST + b"Ns.", "a tuple as key of a dict"),
    "dict in itself": (b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s.", NO_TENSORS),
    "depth of dicts": (b"\x80\x02}" + (text("a") + b"}") * 50_000 + b"s" * 50_000 + b".", NO_TENSORS),
    "depth of tuples": (b"\x80\x02N" + b"\x85" * 200_000 + b".", "holds tuple"),
    "claimed terabyte": (claimed(b"\x8e", "<Q", 2**40), CUT),
    "claimed address space": (claimed(b"\x8e", "<Q", 2**64 - 1), CUT),
    "claimed gigabyte": (claimed(b"B", "<I", 2**30), CUT),
    "claimed terabyte of text": (claimed(b"\x8d", "<Q", 2**40), CUT),
    "claimed length below zero": (claimed(b"T", "<i", -1), CUT),
    "claimed number of a gigabyte": (claimed(b"\x8b", "<i", 2**30), "the operation"),
    "digits": (b"I" + b"9" * 100_000 + b"\n.", "it is damaged"),
    "far place in the memo": (b"\x80\x02}r\xff\xff\xff\x7f.", NO_TENSORS),
    "empty dicts": (b"\x80\x02" + b"}" * 3_000_000 + b".", "more than 1,000,000 steps"),
    "arrays of the same bytes": (arrays_of_the_same_bytes(1000), "several times the bytes that are in it"),
    "bytes by number": (b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", "it is damaged"),
    "type of huge items": (b"\x80\x02cnumpy\ndtype\nU\x0bS9999999999\x85R.", "arrays of type"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_small_pickle_cannot_cost_much(tmp_path: Path, name: str) -> None:
    data, message = PICKLES[name]
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    outcome = outcome_of_loading(path)
    assert message in outcome
    assert str(path) in outcome


def torch_file(edit: Callable[[bytes], bytes] = bytes, *, legacy: bool = False) -> bytes:
    """A state dict of one tensor with three ones, as torch saves it, and with its pickle edited."""
    written = io.BytesIO()
    torch.save({"conv1.weight": torch.ones(3)}, written, _use_new_zipfile_serialization=not legacy)
    if legacy:
        return edit(written.getvalue())
    edited = io.BytesIO()
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(edited, "w") as target:
        for record in source.infolist():
            content = source.read(record)
            target.writestr(record.filename, edit(content) if record.filename.endswith("data.pkl") else content)
    return edited.getvalue()


def unpacked_to_256_mb() -> bytes:
    file = io.BytesIO(torch_file())
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data/1", bytes(2**28))
    return file.getvalue()


def overlapping(count: int) -> bytes:
    """An archive whose list leads ``count`` times to the same record."""
    file = io.BytesIO(torch_file())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/x", bytes(2**20))
        for number in range(count):
            record = copy.copy(archive.getinfo("archive/data/x"))
            record.filename = f"archive/data/{number + 1}"
            archive.filelist.append(record)
    return file.getvalue()


def second_list() -> bytes:
    """An archive that shows one list of records to zipfile and another to torch."""
    written = io.BytesIO()
    torch.save({"conv1.weight": torch.ones(3)}, written)
    data = bytearray(written.getvalue())
    assert data[-42:-38] == b"PK\x06\x07"
    data[-34:-26] = struct.pack("<Q", 100)
    return bytes(data)


def called(name: str, *arguments: bytes) -> Callable[[bytes], bytes]:
    return lambda _: b"\x80\x02c" + name.encode() + b"\n(" + b"".join(arguments) + b"tR."


def with_length(length: int) -> Callable[[bytes], bytes]:
    """The storage of the tensor claims another length, and the tensor views all of it."""
    number = b"J" + struct.pack("<i", length)
    return lambda saved: saved.replace(b"K\x03", number)


SHADOWED_METHOD = b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"Nsb."
TORCH_FILES = {
    "unpacked records": (unpacked_to_256_mb, NO_CALL + "records to be unpacked"),
    "overlapping records": (lambda: overlapping(300), NO_CALL + "more bytes than are in it"),
    "two lists of records": (second_list, NO_CALL + "two lists of records"),
    "bytes by number": (lambda: torch_file(called("builtins\nbytearray", b"J\xff\xff\xff\x7f")), "builtins.bytearray"),
    "tensor by number": (
        lambda: torch_file(called("torch\nFloatTensor", b"J\xff\xff\xff\x7f")),
        "a call of torch.Floa",
    ),
    "copy of a view": (
        lambda: torch_file(called("torch._utils\n_rebuild_device_tensor_from_cpu_tensor", b"N")),
        NO_CALL + "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    ),
    "tuples shared, as a key": (lambda: torch_file(lambda _: b"\x80\x02}" + TUPLE_NEST + b"Ns."), "a tuple as key"),
    "tuples shared, in a set": (
        lambda: torch_file(called("__builtin__\nset", b"]" + TUPLE_NEST + b"a")),
        NO_CALL + "a tuple as key of a dict",
    ),
    "shape shared, as a key": (
        lambda: torch_file(lambda _: b"\x80\x02}ctorch\nSize\n" + TUPLE_NEST + b"\x85RNs."),
        NO_CALL + "a object as key of a dict",
    ),
    "method of a dict": (lambda: torch_file(lambda _: SHADOWED_METHOD), NO_CALL + "attributes of a dict"),
    "empty dicts": (lambda: torch_file(lambda _: b"\x80\x02" + b"}" * 3_000_000 + b"."), "more than 1,000,000 steps"),
    "claimed storage": (lambda: torch_file(with_length(2**30)), NO_CALL + "more numbers than are in it"),
    "claimed storage, legacy": (
        lambda: torch_file(with_length(2**30), legacy=True),
        NO_CALL + "more numbers than are in it",
    ),
    "tensor beyond its storage": (
        lambda: torch_file(lambda saved: saved.replace(b"K\x00K\x03\x85", b"K\x00J\xff\xff\xff\x7f\x85"), legacy=True),
        "a tensor is larger than its numbers",
    ),
    "length below zero": (lambda: torch_file(with_length(-1)), NO_CALL + "objects outside the pickle"),
}


@pytest.mark.parametrize("name", TORCH_FILES)
def test_a_small_torch_file_cannot_cost_much(tmp_path: Path, name: str) -> None:
    data, message = TORCH_FILES[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(data())
    outcome = outcome_of_loading(path)
    assert message in outcome
    assert str(path) in outcome


def test_a_tensor_of_a_huge_shape_and_one_number_is_compared_by_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.ones(()).expand(2**20, 2**20, 2**20)}, path)
    assert "other shape: 1 (conv1.weight 1048576x1048576x1048576 for " in outcome_of_loading(path)


def test_the_files_of_these_tests_are_good_ones_but_for_what_is_done_to_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for data in (torch_file(), torch_file(legacy=True), overlapping(0)):
        path.write_bytes(data)
        assert "other shape: 1 (conv1.weight 3 for " in outcome_of_loading(path)


def test_names_from_a_file_are_shown_in_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"\x1b[2J\nfine\udcff": torch.ones(1), "long" * 1000: torch.ones(1)}, path)
    outcome = outcome_of_loading(path)
    assert r"unexpected: 2 (\x1b[2J\nfine\udcff, long" in outcome
    assert len(outcome) < 1000
