"""Whatever stands in a file or on a command line, it is read or refused with a documented error.

Inputs are made from good ones by the rules of their own grammar, so that they get past the first check. Each has a
number, from which alone it is made, so that the one a failure names can be made again. The slow tests try up to
100,000 inputs and print what became of them (``-m slow -s``).
"""

from __future__ import annotations

import copy
import io
import logging
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from support.fuzzed import ODD_TEXT, few_or, outcomes

from fer.config.compose import CONFIG_DIR, translate_errors
from fer.config.settings import check_for_training
from fer.data import given_labels
from fer.data.label_list import read_label_list
from fer.data.table import DatasetError, SampleTable
from fer.errors import ConfigError
from fer.launch import run_job
from fer.models.backbones import tiny
from fer.models.weights import numpy_pickle
from fer.models.weights.load import WeightsError, load_backbone_weights
from fer.models.weights.pickle_machine import UnsafePickleError
from fer.models.weights.pickle_stream import DamagedPickleError

# ---- Label lists -------------------------------------------------------------------------------------------------

CLASSES = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
NAMES = tuple(f"{split}_{number:05}.jpg" for split in ("train", "test") for number in range(1, 7))
TABLE = SampleTable(
    "fuzz",
    Path("/data"),
    tuple(Path("/data") / name for name in NAMES),
    np.arange(12) % 7,
    np.array([name.startswith("train") for name in NAMES]),
    CLASSES,
    names=NAMES,
)


def label_list(random: Random) -> bytes:
    """A good list of all images with up to four changes."""
    lines = [f"{name} {label + 1}" for name, label in zip(NAMES, TABLE.labels.tolist(), strict=True)]
    random.shuffle(lines)
    text = random.choice(["\n", "\n", "\r\n", "\r"]).join(lines) + random.choice(["", "\n"])
    for _ in range(random.randint(0, 4)):
        start, end = sorted(random.randint(0, len(text)) for _ in range(2))
        text = random.choice([
            text[:start] + random.choice(ODD_TEXT) + text[start:],
            text[:start] + random.choice(ODD_TEXT) + text[end:],
            text[:start] + text[end:],
            text[:end] + text[start:],
            text[:start],
            text.replace(random.choice(lines), random.choice(ODD_TEXT)),
            text.replace(" ", random.choice(ODD_TEXT)),
            "\ufeff" + text,
        ])  # fmt: skip
    return edited(text.encode("utf-8", "surrogatepass"), random) if random.random() < 0.2 else encoded(text, random)


def encoded(text: str, random: Random) -> bytes:
    return text.encode(random.choice(["utf-8"] * 8 + ["utf-16", "latin-1"]), "replace")


def edited(data: bytes, random: Random) -> bytes:
    """Change, cut out or repeat a few bytes."""
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice([0, 1, 1, 2, 4, 8, 50]))
        data = data[:start] + random.choice([b"", random.randbytes(end - start), data[start:end] * 2]) + data[end:]
    return data


@few_or(100_000, few=1_000)
def test_label_lists_are_read_or_every_fault_is_named(tmp_path: Path, count: int) -> None:
    path = tmp_path / "list.txt"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        entries, faults = read_label_list(path, CLASSES)
        assert all(-1 <= entry.label < len(CLASSES) and entry.name.strip() for entry in entries)
        assert len({entry.name for entry in entries}) == len(entries)
        assert all(fault.startswith(path.name) for fault in faults)
        assert faults or all(entry.label >= 0 for entry in entries)
        return "with faults" if faults else "read"

    assert outcomes(count, label_list, read).keys() == {"read", "with faults"}


@few_or(100_000, few=500)
def test_noise_lists_are_read_or_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "noise.txt"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        labels = given_labels.file(TABLE, path=path)
        assert labels.shape == TABLE.train.shape
        assert labels.min() >= 0 and labels.max() < len(CLASSES)
        return "read"

    assert outcomes(count, label_list, read, DatasetError).keys() == {"read", "DatasetError"}


# ---- Pickles -----------------------------------------------------------------------------------------------------


def operations(data: bytes) -> list[bytes]:
    """The bytes of a pickle, cut where its operations begin."""
    starts = [position or 0 for _, _, position in pickletools.genops(data)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def numpy_pickles() -> list[bytes]:
    generator = np.random.default_rng(0)
    arrays = {
        "conv1.weight": generator.normal(size=(2, 3, 3, 3)).astype(np.float32),
        "bn1.bias": np.asfortranarray(generator.normal(size=(3, 2))),
        "count": np.int64(7),
        "flags": np.array([True, False]),
        "swapped": np.arange(3, dtype=">i2"),
        "nested": {"weight": np.ones(2, np.float16), "more": {"text": "é", "bytes": b"\xff", "number": -5.5}},
        "shape": (2, 3),
        "none": None,
    }  # fmt: skip
    return [pickle.dumps(arrays, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


PICKLES = numpy_pickles()
OPERATIONS = [operation for data in PICKLES for operation in operations(data)]
HOSTILE_OPERATIONS = [
    *(bytes([code]) for code in b"(.012NR)]}aebosltuQ\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"),
    *(f"{code}{number}\n".encode() for code in "ILFSVgp" for number in ("0", "-1", "9" * 5000, "nan", "", "'x'")),
    *(b"c" + name + b"\n" for name in (b"os\nsystem", b"builtins\neval", b"builtins\nbytes", b"numpy\ndtype", b"\n")),
    *(b"c" + name + b"\n" for name in (b"numpy\nndarray", b"_codecs\nencode", b"numpy.core.multiarray\nscalar")),
    *(bytes([code]) + struct.pack("<Q", size) for code in b"\x8d\x8e\x95\x96" for size in (0, 1, 2**40, 2**64 - 1)),
    *(bytes([code]) + struct.pack("<i", size) for code in b"BJTXjr\x8b" for size in (0, -1, 2**30)),
    *(bytes([code, size]) for code in b"CKUhq\x80\x8a\x8c" for size in (0, 1, 5, 255)),
]  # fmt: skip


def pickled(random: Random, good: list[bytes] = PICKLES) -> bytes:
    """A good pickle with up to four operations changed, left out, repeated, moved or put in."""
    parts = operations(random.choice(good))
    for _ in range(random.randint(0, 4)):
        start = random.randrange(len(parts))
        end = min(len(parts), start + random.choice([1, 1, 2, 5, 20]))
        parts[start:end] = random.choice([
            [],
            parts[start:end] * 2,
            parts[start:end][::-1],
            [random.choice(OPERATIONS)],
            [random.choice(HOSTILE_OPERATIONS)],
            [random.choice(HOSTILE_OPERATIONS), *parts[start:end]],
            [edited(b"".join(parts[start:end]), random)],
            [*parts[start:end], *random.choices(OPERATIONS, k=3)],
        ]) or [b"N"]  # fmt: skip
    data = b"".join(parts)
    return data[: random.randint(0, len(data))] if random.random() < 0.05 else data


def assert_admitted(value: object) -> None:
    """Check that a value holds only what a pickle of arrays may hold."""
    waiting, seen = [value], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, np.ndarray | np.generic):
            assert found.dtype.kind in "fiub" and found.nbytes < 10_000
        elif isinstance(found, tuple):
            waiting += found
        else:
            assert isinstance(found, str | bytes | int | float | None), type(found)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@few_or(100_000, few=1_000)
def test_pickles_of_arrays_are_read_or_refused(count: int) -> None:
    def read(data: bytes) -> str:
        assert_admitted(numpy_pickle.read(io.BytesIO(data)))
        return "read"

    ends = outcomes(count, pickled, read, UnsafePickleError, DamagedPickleError)
    assert ends.keys() == {"read", "UnsafePickleError", "DamagedPickleError"}


def torch_archives() -> list[dict[str, bytes]]:
    """Records of what torch.save writes, by their names."""
    state = {**tiny(width=8).state_dict(), "half": torch.ones(2, dtype=torch.float16)}
    checkpoint = {"state_dict": state, "epoch": 3, "loops": [{"lr": 0.1}], "betas": (0.9, 0.999), "kinds": {"a", "b"}}
    parameters = {key: torch.nn.Parameter(value) for key, value in state.items() if value.is_floating_point()}
    archives = []
    for content in (checkpoint, parameters):
        file = io.BytesIO()
        torch.save(content, file)
        with zipfile.ZipFile(file) as archive:
            archives.append({name: archive.read(name) for name in archive.namelist()})
    return archives


ARCHIVES = torch_archives()


def torch_file(random: Random) -> bytes:
    """A good archive whose pickle is changed, or whose bytes are."""
    records = dict(random.choice(ARCHIVES))
    damages_archive = random.random() < 0.2
    if not damages_archive:
        records["archive/data.pkl"] = pickled(random, [records["archive/data.pkl"]])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return edited(file.getvalue(), random) if damages_archive else file.getvalue()


@pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore:Detected pickle protocol")
@few_or(10_000, few=200)
def test_torch_files_are_loaded_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int) -> None:
    caplog.set_level(logging.ERROR, "fer")
    backbone, path = tiny(width=8), tmp_path / "weights.pth"

    def load(data: bytes) -> str:
        path.write_bytes(data)
        load_backbone_weights(backbone, path, name="tiny", allow_partial_weights=True)
        return "loaded"

    assert outcomes(count, torch_file, load, WeightsError).keys() == {"loaded", "WeightsError"}


# ---- Overrides ---------------------------------------------------------------------------------------------------


def composed(*overrides: str) -> DictConfig:
    with translate_errors(overrides), initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=[*overrides], return_hydra_config=True)


def keys_below(node: DictConfig, above: str = "") -> Iterator[str]:
    for key in node:
        yield f"{above}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from keys_below(child, f"{above}{key}.")


CONFIGS = [
    composed(*overrides.split())
    for overrides in ("", "data=raf_db noise=symmetric noise.ratio=0.2", "experiment=eac_raf_db method=ce noise=pair")
]
for config in CONFIGS:  # what a job's folder is named by, and no more, so that copies are quick
    config.hydra = {key: config.hydra[key] for key in ("run", "runtime", "overrides")}
KEYS = sorted({key for config in CONFIGS for key in keys_below(config) if not key.startswith("hydra")})
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONFIG_DIR.iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "local")
}
WORDS = (
    "0", "1", "-1", "3", "0.5", "1e-3", "-0.0", "1e999", "nan", "inf", "9" * 5000, "0x10", "1_000", "true", "null",
    "None", "", "''", "' '", "'a b'", '"a,b"', "'\\''", "auto", "raf_db", "/a/b/", "a/../b", "~", "~nobody/x",
    "x" * 300, "é", "🙂", "\\,", "\\=", "a=b", "a:b", "@", "%", "???", "[]", "{}", "[1,2]", "[0.1,[a,null]]", "{a:1}",
    "{a:{b:[]}}", "{1:2}", "{a:1,a:2}", "${seed}", "${nope}", "${trainer}", "${.seed}", "${seed", "${oc.env:NOPE}",
    "${oc.env:HOME}", "${run_name:}", "${run_group:}", "${epochs:1,0}", "${epochs:1,60}", "${epochs:a,b}",
    "${nope:1}", "${hydra:job.name}", "${output_dir}", "'${seed}'", "1,2", "choice(1,2)", "range(3)", "interval(0,1)",
    "sort(2,1)", "shuffle(1,2)", "int(1.5)", "int(x)", "float(1)", "str([1])", "bool(1)", "glob(*)", "tag(a,1)",
    "extend_list(1)", "nope(1)", "(", ")", "]", "}", "'", "#", "\0", "\n", "\t", "\u2028", "\ud800",
)  # fmt: skip


def override(random: Random) -> str:
    """``key=value`` with every sign that Hydra knows, a key that exists or nearly does, and any value."""
    key = random.choice(KEYS)
    if random.random() < 0.2:
        other = random.choice(KEYS)
        key = random.choice(
            [f"{key}.new", f"{key}.0", f"{key}[0]", key[:-1], f"new.{key}", f"{key}@{other}", f"{key}:{other}"]
        )
    value = random.choice(WORDS)
    if random.random() < 0.2:
        value = random.choice(
            [f"[{value}]", f"{{a:{value}}}", f"'{value}'", value + random.choice(WORDS), f"{value},{value}"]
        )
    sign = random.choice(["", "", "", "", "+", "++", "++", "~"])
    text = f"{sign}{key}={value}" if sign != "~" or random.random() < 0.5 else f"{sign}{key}"
    if random.random() < 0.1:
        start, end = sorted(random.randint(0, len(text)) for _ in range(2))
        text = random.choice([text[:start] + text[end:], text[:start] + random.choice(WORDS) + text[start:]])
    return text


def checked(config: DictConfig) -> str:
    """Check a composed job as a command does before it looks for data."""
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    folder = config.hydra.run.dir
    assert isinstance(folder, str)
    with open_dict(config):
        del config["hydra"]
    check_for_training(run_job.resolve(config, choices), ranks_exist=False)
    return "accepted"


DOCUMENTED = (HydraException, OmegaConfBaseException, ConfigError)


@few_or(100_000, few=300)
def test_overrides_of_values_are_accepted_or_refused(count: int) -> None:
    """Hydra's choice of groups, which takes most of the time, is made beforehand; the next test makes it each time."""
    parser = OverridesParser.create()

    def given(random: Random) -> tuple[int, list[str]]:
        return random.randrange(len(CONFIGS)), [override(random) for _ in range(random.choice([1, 1, 1, 2]))]

    def apply(given: tuple[int, list[str]]) -> str:
        start, overrides = given
        with translate_errors(overrides):
            parsed = parser.parse_overrides(overrides)
            config = copy.deepcopy(CONFIGS[start])
            ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        config.hydra.overrides.task += overrides
        return checked(config)

    ends = outcomes(count, given, apply, *DOCUMENTED)
    assert {"accepted", "ConfigError", "ConfigCompositionException"} <= ends.keys()


def override_of_a_group(random: Random) -> str:
    group = random.choice([*GROUPS])
    option = random.choice(GROUPS[group] if random.random() < 0.7 else [*WORDS, *random.choice([*GROUPS.values()])])
    return random.choice(["", "", "", "+", "++", "~"]) + f"{group}={option}"


@few_or(1_000, few=20)
def test_overrides_of_groups_are_accepted_or_refused(count: int) -> None:
    def given(random: Random) -> list[str]:
        kinds = (override, override_of_a_group)
        return [override_of_a_group(random), *(random.choice(kinds)(random) for _ in range(random.randint(0, 2)))]

    ends = outcomes(count, given, lambda overrides: checked(composed(*overrides)), *DOCUMENTED)
    assert "accepted" in ends
