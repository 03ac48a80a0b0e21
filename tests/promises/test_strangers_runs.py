"""A stranger's run folder runs nothing, resolves nothing and writes nowhere but below the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from support.project import PROJECT, Train

from fer.errors import UserError
from fer.files.plain_data import MAX_DEPTH, MAX_YAML_BYTES, PlainDataError, read_json, read_yaml, yaml_text
from fer.inference.faces import STANDARD_TEMPLATE, FaceDetector
from fer.inference.model import RunModel
from fer.reports.collect import collect
from fer.reports.figures.all_figures import draw_figures
from fer.reports.table import arrange
from fer.runs.run_folder import RunFolder
from fer.training import experiment
from fer.training.finished_run import kept_data, trained
from fer.training.kept_config import ReadingOptions, read_kept_config

# Places of a configuration, and what a stranger may write there. MARK stands for a file that must not appear.
COMMANDS: list[dict[str, Any]] = [
    {"_target_": "os.system", "command": "touch MARK"},
    {"_target_": "subprocess.run", "args": ["touch", "MARK"]},
    {"_target_": "builtins.exec", "_args_": ["open('MARK', 'w')"]},
    {"_target_": "builtins.eval", "_args_": ["open('MARK', 'w')"]},
    {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["MARK"]}]},
    {"_target_": "fer.runs.provenance.subprocess.run", "args": ["touch", "MARK"]},
    {"_target_": "fer.data.readers.demo.write", "root": "MARK", "train": 1, "test": 1, "seed": 0},
    {"_target_": "fer.data.readers.demo.read", "root": "MARK", "train": 1, "test": 1, "seed": 0},
    {"_target_": "fer.files.atomic.write_json", "path": {"_target_": "pathlib.Path", "_args_": ["MARK"]}, "value": {}},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": "touch MARK"}},
    {"_target_": "torch.load", "f": "PICKLE", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": "FOLDER", "model": "run", "source": "local"},
    {"_target_": "numpy.load", "file": "PICKLE", "allow_pickle": True},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "PICKLE"},
    {"_target_": "site.addsitedir", "sitedir": "FOLDER"},
    {"_target_": "sympy.sympify", "a": "open('MARK', 'w')"},
    {"_target_": "torch.distributed.run.main", "args": ["--no-python", "touch", "MARK"]},
    {"_target_": "runpy.run_path", "path_name": "FOLDER/hubconf.py"},
]
AT_ONCE = 20
"""Seconds of processor time of a slow machine; a bomb that goes off takes hours."""
PLACES = (
    "method", "method.lam", "backbone", "backbone.width", "augment", "augment.size", "noise", "noise.ratio",
    "data.reader", "data.reader.root", "data.store_size", "optim.optimizer", "optim.optimizer.params",
    "optim.scheduler", "callbacks.pictures", "callbacks.mine", "logger", "logger.save_dir", "trainer",
    "trainer.profiler", "trainer.precision", "trainer.deterministic", "launch.max_restarts", "choices.method", "seed",
    "unnamed_keys",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(finished: Path, train: Train, tmp_path: Path) -> Path:
    """A finished run of one's own, to be changed."""
    if not finished.is_dir():
        train(finished, "trainer.max_epochs=1", "callbacks=none", "logger=none")
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[[dict[str, Any]], tuple[dict[str, Any], Path]]:
    """Fills in MARK, PICKLE and FOLDER; gives the node and the file that appears if it is run."""
    mark = tmp_path / "mark"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"open({str(mark)!r}, 'w')\ndef run(): pass\n")
    (folder / "now.pth").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    pickle = tmp_path / "pickle"
    pickle.write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())

    def fill(node: dict[str, Any]) -> tuple[dict[str, Any], Path]:
        text = json.dumps(node)
        for word, path in (("MARK", mark), ("PICKLE", pickle), ("FOLDER", folder)):
            text = text.replace(word, str(path))
        filled: dict[str, Any] = json.loads(text)
        return filled, mark

    return fill


def put(run: Path, place: str, value: Any) -> None:
    """Write a value into the configuration of a run."""
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text())
    *above, name = place.split(".")
    node = config
    for part in above:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[name] = value
    file.write_text(yaml.safe_dump(config, sort_keys=False))


def options(tmp_path: Path, **more: Any) -> ReadingOptions:
    return ReadingOptions(cache_dir=str(tmp_path / "cache"), **more)


def read_in_every_way(run: Path, tmp_path: Path) -> list[str]:
    """Do what the reading commands do; the messages of those that refuse."""
    folder, chosen = RunFolder(run), options(tmp_path)

    def figures() -> None:
        drawn = draw_figures(arrange(collect([run]).runs), tmp_path / "figures", options=chosen)
        if refused := [note for note in drawn.notes if "nothing was run" in note]:
            raise UserError(refused[0])

    said = []
    for read in (
        lambda: RunModel(folder, "cpu", chosen).face_template(FaceDetector()),
        lambda: trained(folder, "cpu", chosen),
        lambda: experiment.evaluate(read_kept_config(folder, chosen), folder),
        lambda: kept_data(read_kept_config(folder, chosen)),
        figures,
    ):
        try:
            read()
        except UserError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda node: str(node["_target_"]))
def test_no_target_that_is_not_known_is_run(
    command: dict[str, Any], run: Path, hostile: Callable[..., Any], tmp_path: Path
) -> None:
    node, mark = hostile(command)
    honest = (run / "config.yaml").read_text()
    for place in PLACES:
        if place == "data.reader" and command["_target_"] == "fer.data.readers.demo.read":
            continue  # known there; see the test of what it writes
        (run / "config.yaml").write_text(honest)
        put(run, place, node)
        with pytest.raises(UserError, match=r"nothing was run|has no place in a kept configuration"):
            read_kept_config(RunFolder(run), options(tmp_path))
        assert not mark.exists(), f"{place} ran"


@pytest.mark.parametrize(
    "place", ["method.lam", "data.reader.root", "optim.optimizer.params", "trainer.profiler", "seed"]
)
def test_nothing_is_run_in_whatever_way_a_run_is_read(
    place: str, run: Path, hostile: Callable[..., Any], tmp_path: Path
) -> None:
    node, mark = hostile(COMMANDS[0])
    put(run, place, node)
    said = read_in_every_way(run, tmp_path)
    assert len(said) == 5 and not mark.exists()
    assert all("os.system" in message or "no run's" in message for message in said)


def test_every_command_refuses_with_one_message_and_status_2(
    run: Path, hostile: Callable[..., Any], shapes: Path, tmp_path: Path
) -> None:
    node, mark = hostile({"_target_": "torch.optim.Adam", "params": {"_target_": "os.system", "command": "touch MARK"}})
    put(run, "optim.optimizer", node)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "FER_CACHE": str(tmp_path / "cache")}
    for module, arguments in {
        "fer.cli.predict": [str(shapes), "--run", str(run), "--detect=off", f"--output={tmp_path / 'out.csv'}"],
        "fer.cli.evaluate": [str(run)],
        "fer.cli.export": [str(run)],
    }.items():
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "optim.optimizer.params: os.system" in done.stderr and "allow it with --trust os.system (" in done.stderr
        assert "Traceback" not in done.stderr
        assert not mark.exists()


def test_a_run_of_ones_own_code_is_read_where_that_is_trusted(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_package.py").write_text(
        "from fer.models.backbones import tiny\ndef mine(width, weights=None, **rest):\n    return tiny(width=width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    put(run, "backbone._target_", "my_package.mine")
    with pytest.raises(UserError, match=r"backbone: my_package\.mine\n.*trust=\[my_package\.mine\]"):
        trained(RunFolder(run), "cpu", options(tmp_path))
    trained(RunFolder(run), "cpu", options(tmp_path, trust=["my_package.mine"]))


def test_an_entry_point_that_is_installed_is_known_in_its_section_only(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_methods.py").write_text("from fer.methods.ce import CrossEntropy as Mine\n")
    installed = tmp_path / "my_methods-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[fer.method]\nmine = my_methods:Mine\n")
    put(run, "method", {"_target_": "my_methods.Mine"})
    code = (
        "import sys\nfrom pathlib import Path\nfrom fer.runs.run_folder import RunFolder\n"
        "from fer.config.known_targets import check_targets\n"
        "check_targets(RunFolder(sys.argv[1]).config(), (), Path('config.yaml'))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", code, str(run)]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    put(run, "noise", {"_target_": "my_methods.Mine", "_partial_": True})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode and "noise: my_methods.Mine" in done.stderr


def test_the_demo_reader_draws_below_the_cache_only(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "home" / "photos"
    for make in (lambda: None, lambda: elsewhere.mkdir(parents=True)):
        make()
        reader = {"_target_": "fer.data.readers.demo.read", "root": str(elsewhere), "train": 9, "test": 5, "seed": 0}
        put(run, "data.reader", reader)
        with pytest.raises(UserError, match="the run's data is not there; say where it lies with --data-root"):
            kept_data(read_kept_config(RunFolder(run), options(tmp_path)))
        assert not elsewhere.exists() or not [*elsewhere.iterdir()]
    below = tmp_path / "cache" / "demo"
    put(run, "data.reader.root", str(below))
    put(run, "cache_dir", str(elsewhere))
    assert len(kept_data(read_kept_config(RunFolder(run), options(tmp_path))).train) == 9
    assert not [*elsewhere.iterdir()], "decoded images belong in one's own cache"


def test_text_is_never_resolved(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    for place, text in (
        ("data.reader.root", "/nowhere/${oc.env:SECRET}"),
        ("data.reader.root", r"/nowhere/\${oc.env:SECRET}"),
        ("noise.path", "${oc.env:SECRET}"),
        ("method.lam", "${oc.env:SECRET}"),
        ("trainer.precision", "${oc.env:SECRET}"),
    ):
        other = Path(shutil.copytree(run, tmp_path / "other"))
        put(other, place, text)
        with pytest.raises(UserError) as caught:
            experiment.evaluate(read_kept_config(RunFolder(other), options(tmp_path)), RunFolder(other))
        assert "hush" not in str(caught.value)
        shutil.rmtree(other)
    put(run, "data.reader.root", "/nowhere/${oc.env:SECRET}")
    with pytest.raises(UserError, match=r"/nowhere/\$\{oc\.env:SECRET\}"):
        kept_data(read_kept_config(RunFolder(run), options(tmp_path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1, 1]\n" + "".join(f"b{n}: &y{n} [*x, *x]\n" for n in range(9)), "aliases"),
        ("[" * 100_000, "nest"),
        ("{a: " * 20_000, "nest"),
        ("- " * 50_000, "nest"),
        ("a: " + "9" * 5000, "digits"),
        ("a: " + "1:" * 4000 + "1", "64 bits"),
        ("a: !!python/object/apply:os.system [id]", "tags"),
        ("a: !!binary aGVsbG8=", "tags"),
        ("a: 2001-01-01", "quotes"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a: '" + "x" * 20_000 + "'", "longer"),
        ("a: 1\n" * 100_000, "larger"),
        ("a: \x1b[31m", "control"),
        ("? [a]\n: 1", "line 1"),
        ("a: b: c", "line 1"),
    ],
)  # fmt: skip
def test_bombs_end_in_one_line_at_once(text: str, message: str, run: Path, tmp_path: Path) -> None:
    (run / "config.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(UserError, match=message) as caught:
        RunFolder(run).config()
    assert time.process_time() - started < AT_ONCE
    assert "\n" not in str(caught.value) and str(run / "config.yaml") in str(caught.value)


@pytest.mark.parametrize("name", ["result.json", "stamp.json"])
@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 1_000_000, "[]", "{", '{"a": ' + "9" * 5000 + "}"])
def test_nested_and_other_json_is_told_in_one_line(name: str, text: str, run: Path) -> None:
    (run / name).write_text(text)
    started = time.process_time()
    read = {"result.json": RunFolder(run).result, "stamp.json": RunFolder(run).stamp}[name]
    with pytest.raises(UserError, match=rf"{name} cannot be read") as caught:
        read()
    assert time.process_time() - started < AT_ONCE and "\n" not in str(caught.value)


def test_records_that_nest_end_the_list(run: Path) -> None:
    whole = RunFolder(run).records()
    with (run / "records.jsonl").open("a") as stream:
        stream.write("[" * 100_000 + "\n[1]\n")
    assert RunFolder(run).records() == whole != []


plain: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), plain, max_size=5))
@example({"data": {"root": "${oc.env:HOME}", "list": [1, 1]}, "": None, "<<": "x", "=": "=", "2001-01-01": "~"})
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "value.yaml"
    shared = {"one": value, "two": value}  # which YAML would write once, with an alias
    try:
        text = yaml_text(shared)
    except UnicodeEncodeError:
        return
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert read_yaml(file) == shared
    except PlainDataError:
        assert "\ud800" <= max(text) <= "\udfff" or "\\ud" in text.lower()


def test_the_bounds_leave_room(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    (tmp_path / "deep.yaml").write_text(yaml.safe_dump(nested, default_flow_style=True))
    assert read_yaml(tmp_path / "deep.yaml") == nested
    assert 10 * (PROJECT / "conf" / "train.yaml").stat().st_size < MAX_YAML_BYTES
    (tmp_path / "a.json").write_text(json.dumps({"a": nested}))
    assert read_json(tmp_path / "a.json") == {"a": nested}


def test_a_checkpoint_with_values_of_no_network_is_refused(run: Path, tmp_path: Path) -> None:
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    for name, value in (("network.classifier.weight", float("nan")), ("network.classifier.bias", float("inf"))):
        kept = content["state_dict"][name].clone()
        content["state_dict"][name].view(-1)[0] = value
        torch.save(content, file)
        with pytest.raises(UserError, match=rf"last\.ckpt: {name} has values that are not finite"):
            trained(RunFolder(run), "cpu", options(tmp_path))
        content["state_dict"][name] = kept
    variance = next(name for name in content["state_dict"] if name.endswith("running_var"))
    content["state_dict"][variance][0] = -1.0
    torch.save(content, file)
    with pytest.raises(UserError, match="variances below 0"):
        trained(RunFolder(run), "cpu", options(tmp_path))


def test_the_own_template_is_used(run: Path, tmp_path: Path) -> None:
    """An honest run passes every check that refuses the runs above."""
    assert read_in_every_way(run, tmp_path) == []
    assert RunModel(RunFolder(run), "cpu", options(tmp_path)).face_template(FaceDetector()).shape == (
        STANDARD_TEMPLATE.shape
    )
