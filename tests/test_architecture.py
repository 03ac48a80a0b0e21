"""Imports go down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import PROJECT

# From the top. A module may import from its own line and from lines below it.
LAYERS = [
    ["train", "evaluate", "data.cli"],
    ["report"],
    ["launch"],
    ["experiment"],
    ["predictions"],
    ["callbacks", "methods", "data", "results"],
    ["models", "augment", "metrics"],
    ["cam", "runs", "batch", "config", "terminal"],
    ["errors"],
]
KNOWS_HYDRA = {"train", "evaluate", "data.cli", "launch", "experiment", "config"}
WITHOUT_TORCH = {
    "data.index", "data.raf_db", "data.folder", "data.noise", "data.store", "data.demo", "data.cli", "data.decode",
    "data.label_list", "config", "errors", "runs", "launch", "train",
}  # fmt: skip
MAX_LINES = 300

MODULES = {
    ".".join(path.relative_to(PROJECT / "fer").with_suffix("").parts): path
    for path in sorted((PROJECT / "fer").rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int | None:
    """Index of the line that names the module or the closest package around it."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        for index, line in enumerate(LAYERS):
            if ".".join(parts[:end]) in line:
                return index
    return None


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_layer_and_below(module: str) -> None:
    own = layer(module)
    assert own is not None, f"fer.{module} has no place in LAYERS: name its layer there"
    for name in imports(MODULES[module]):
        if name.startswith("fer.") and (other := layer(name.removeprefix("fer."))) is not None:
            assert other >= own, f"fer.{module} imports {name} from a layer above it: move what it needs down"


@pytest.mark.parametrize("module", MODULES)
def test_methods_know_no_data_and_only_the_top_knows_hydra(module: str) -> None:
    found = imports(MODULES[module])
    if module.startswith("methods."):
        assert not any(name.startswith("fer.data") for name in found), "give a method what it needs in its Setting"
    if module not in KNOWS_HYDRA:
        assert not {name.partition(".")[0] for name in found} & {"hydra", "omegaconf"}, "pass plain Python values"


@pytest.mark.parametrize("module", sorted(WITHOUT_TORCH))
def test_what_answers_quickly_does_not_import_torch(module: str) -> None:
    packages = {name.partition(".")[0] for name in imports(MODULES[module], top_level_only=True)}
    assert not packages & {"torch", "torchvision", "lightning"}, "import it where it is used, after the checks"


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short_and_named_for_what_they_hold(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"fer.{module} has {lines} lines: split it where it holds two ideas"
    assert not {"utils", "helpers", "common"} & set(module.split(".")), "name the module for what it holds"


def test_every_layer_exists() -> None:
    for name in (name for line in LAYERS for name in line):
        assert any(module == name or module.startswith(f"{name}.") for module in MODULES), f"no module fer.{name}"
