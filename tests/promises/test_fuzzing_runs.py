"""Whatever stands in a run's ``config.yaml`` or in the metadata of an exported file: nothing runs, and one error tells.

Inputs are made from good ones, each from its number alone. The slow tests try thousands and print what became of them
(``-m slow -s``).
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from support.fuzzed import ODD_TEXT, few_or, outcomes
from support.project import Train

from fer.errors import UserError
from fer.files.visible_text import visible
from fer.inference.faces import STANDARD_TEMPLATE
from fer.inference.model import RunModel
from fer.inference.onnx_metadata import MetadataError, check_signature, read_metadata
from fer.inference.onnx_model import OnnxModel, export
from fer.reports.collect import collect
from fer.reports.csv_export import long_form
from fer.reports.document import Document, notes, results_grid
from fer.reports.formats import RENDERERS
from fer.reports.table import arrange
from fer.runs.run_folder import RunFolder
from fer.training.finished_run import trained
from fer.training.kept_config import ReadingOptions, check_data_root, read_kept_config

TARGETS = (
    "os.system", "subprocess.run", "builtins.eval", "torch.load", "fer.data.readers.demo.write", "", ".", "a.b",
    "fer.data.readers.demo.read", "fer.methods.ce.CrossEntropy", "fer.models.backbones.tiny", "torch.optim.Adam",
    "fer.views.augmentation.Augmentation", "lightning.pytorch.Trainer", "site.addsitedir", "numpy.load",
    "pathlib.Path.touch",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 64, 10**6, 2**62, 0.0, -0.5, 1e-300, 1e300, float("nan"), float("inf"), [], {},
    [[]], [1, 2], ["a"], {"a": 1}, {"_target_": None}, {"_target_": []}, "???", "${oc.env:HOME}", "${a}", "${", "~",
    "/etc/passwd", "/dev/zero", "..", "-", "=1+1", "<b>", *ODD_TEXT,
)  # fmt: skip
COMMANDS = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"}


class Watch:
    """Record of programs that the process starts, and of files that it writes outside a folder."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in COMMANDS:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str) and set(str(arguments[1] or "r")) & set("wax+"):
            is_inside = arguments[0].startswith((str(self.folder), "/dev/"))
            self.seen += [] if is_inside else [f"wrote {arguments[0]}"]


WATCH = Watch()
sys.addaudithook(WATCH)


@pytest.fixture
def run(train: Train, tmp_path: Path) -> RunFolder:
    train(tmp_path / "run", "trainer.max_epochs=1", "callbacks=none", "logger=none")
    return RunFolder(tmp_path / "run")


@pytest.fixture
def watched(run: RunFolder, tmp_path: Path) -> Iterator[None]:
    WATCH.seen.clear()
    WATCH.folder = tmp_path
    yield
    WATCH.folder = None
    assert not WATCH.seen


def nodes(value: Any) -> list[Any]:
    """Every mapping and list of a value, itself first."""
    found = [value] if isinstance(value, dict | list) else []
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += nodes(inner)
    return found


def odd_value(random: Random) -> Any:
    if random.random() < 0.25:
        node = {"_target_": random.choice(TARGETS)}
        if random.random() < 0.5:
            key = random.choice(["_args_", "root", "command", "_partial_", "path", "_recursive_"])
            node[key] = copy.deepcopy(random.choice(ODD_VALUES))
        return node
    return copy.deepcopy(random.choice(ODD_VALUES))


def changed(good: Any, random: Random) -> Any:
    """A copy with one to four values replaced, added, taken away or exchanged."""
    value = copy.deepcopy(good)
    for _ in range(random.randint(1, 4)):
        node = random.choice(nodes(value) or [[None]])
        places: list[Any] = [*node] if isinstance(node, dict) else [*range(len(node))]
        act = random.random()
        if not places or act < 0.1:
            if isinstance(node, dict):
                node[random.choice(["_target_", "_args_", "new", *ODD_TEXT])] = odd_value(random)
            else:
                node.append(odd_value(random))
        elif act < 0.75:
            node[random.choice(places)] = odd_value(random)
        elif act < 0.9:
            del node[random.choice(places)]
        else:
            node[random.choice(places)] = copy.deepcopy(random.choice(nodes(good)))
    return value


def text_of(value: Any, random: Random) -> bytes:
    """YAML of a value, now and then with characters put in, cut out or said twice."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if random.random() < 0.3:
        start, end = sorted(random.randint(0, len(text)) for _ in range(2))
        odd = random.choice([*ODD_TEXT, "[" * 5000, "{a: " * 500, "&a [*a]", "!!python/name:os.system", "- " * 500])
        text = random.choice([text[:start] + odd + text[start:], text[:start] + text[end:], text + text[start:end]])
    return text.encode("utf-8", "surrogatepass")


@few_or(20_000, few=150)
@pytest.mark.usefixtures("watched")
def test_kept_configurations_are_read_or_refused(count: int, run: RunFolder, tmp_path: Path) -> None:
    good = run.config()
    options = ReadingOptions(cache_dir=str(tmp_path / "cache"))

    def make(random: Random) -> bytes:
        try:
            return text_of(changed(good, random), random)
        except (yaml.YAMLError, RecursionError, UnicodeError):
            return text_of(good, random)

    def report() -> None:
        found = collect([run.path])
        table = arrange(found.runs, [], [])
        remarks = notes(table, ["test/acc"], [], found.faults, compared=False)
        for render in RENDERERS.values():
            render(Document([results_grid(table, ["test/acc"], [])], remarks, []))
        long_form(table, ["test/acc"], [], [])

    ways = (
        report,
        lambda: check_data_root(read_kept_config(run, options)),
        lambda: trained(run, "cpu", options),
    )

    def read(text: bytes) -> str:
        run.config_file.write_bytes(text)
        ends = []
        for way in ways:
            try:
                way()
                ends.append("read")
            except UserError as error:
                said = str(error)
                assert "Traceback" not in said and not re.search("[\x00-\x08\x0b-\x1f\x7f]", visible(said)), said
                ends.append("refused")
        return " ".join(ends)

    ends = outcomes(count, make, read)
    assert {"read read read", "refused refused refused"} <= ends.keys()


GOOD: dict[str, Any] = {
    "class_names": ["bar", "disc", "line"], "image_size": 32, "view_size": 32, "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2], "template": STANDARD_TEMPLATE.tolist(),
}  # fmt: skip


def metadata_texts(random: Random) -> dict[str, str]:
    value = changed(GOOD, random)
    texts = {str(key): json.dumps(inner) for key, inner in value.items()}
    if texts and random.random() < 0.2:
        key = random.choice([*texts])
        text = texts[key]
        cut = random.randint(0, len(text))
        texts[key] = random.choice([text[:cut], text[:cut] + random.choice(ODD_TEXT) + text[cut:], "[" * 50_000])
    return texts


@few_or(200_000, few=2_000)
def test_metadata_of_exported_files_is_read_or_refused(count: int) -> None:
    def read(texts: dict[str, str]) -> str:
        metadata = read_metadata(texts)
        assert np.isfinite(np.array(metadata.template)).all() and len({*metadata.class_names}) >= 2
        assert 1 <= metadata.view_size <= 2048 and 1 <= metadata.image_size <= 2048 and min(metadata.std) > 0
        return "read"

    ends = outcomes(count, metadata_texts, read, MetadataError)
    assert {"read", "MetadataError"} <= ends.keys()


@few_or(2_000, few=30)
@pytest.mark.usefixtures("watched")
def test_exported_files_with_other_metadata_are_used_or_refused(count: int, run: RunFolder, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    export(RunModel(run, "cpu"), tmp_path / "good.onnx", {}, STANDARD_TEMPLATE)
    model = onnx.load(tmp_path / "good.onnx")

    def make(random: Random) -> Callable[[], bytes]:
        texts = metadata_texts(random)

        def write() -> bytes:
            onnx.helper.set_model_props(model, texts)
            return bytes(model.SerializeToString())

        return write

    def use(write: Callable[[], bytes]) -> str:
        try:
            (tmp_path / "changed.onnx").write_bytes(write())
        except (UnicodeEncodeError, ValueError):  # of halves of characters, which protobuf does not write
            return "not written"
        exported = OnnxModel(tmp_path / "changed.onnx", "cpu")
        found = exported.predict(np.zeros((2, 3, exported.image_size, exported.image_size), np.uint8))
        assert np.isfinite(found.probabilities).all()
        return "used"

    ends = outcomes(count, make, use, UserError)
    assert {"used", "OnnxError"} <= ends.keys()


def test_signatures_are_compared_in_full() -> None:
    metadata = read_metadata({key: json.dumps(value) for key, value in GOOD.items()})
    with pytest.raises(MetadataError):
        check_signature(metadata, [], [])
