"""Who may import whom, read off the import statements."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import PROJECT

# From the top. A module imports from the rows below its own and from its own package, which counts as one.
LAYERS = (
    ("train", "evaluate", "predict", "export", "web_demo", "data.cli"),
    ("report", "sweep", "inference", "continuation"),
    ("command_line",),
    ("launch", "resources", "figures"),
    ("config",),
    ("ranks",),
    ("experiment", "continued_folder"),
    ("finished_run",),
    ("kept_config",),
    ("building", "value_check"),
    ("predictions", "callbacks", "instantiation"),
    ("methods", "data", "reporting"),
    ("cam_record", "prediction_table", "checkpoints", "output_files"),
    ("models", "views", "metrics", "results", "runs", "devices", "required_keys", "trainer_keys"),
    ("known_targets", "terminal"),
    (
        "batch",
        "cache_folder",
        "class_names",
        "config_differences",
        "csv_files",
        "errors",
        "event_files",
        "provenance",
        "host_memory",
        "paths_on_command_line",
        "plain_data",
        "drawing",
        "learning_rates",
        "tidy_numbers",
        "random_seeds",
        "whole_file",
    ),
    (
        "regular_file",
        "visible_text",
    ),
)
MAY_KNOW_HYDRA = {
    "train", "evaluate", "predict", "export", "web_demo", "data.cli", "sweep", "launch", "config", "resources",
    "instantiation", "command_line", "continuation",
}  # fmt: skip
# Everything else in fer.data works on files and arrays, so that the data tools start at once.
DATA_MAY_KNOW_TORCH = {"fer.data.module", "fer.data.samplers"}
SLOW_TO_IMPORT = {"torch", "torchvision", "torchmetrics", "lightning", "tensorboard", "scipy", "sklearn", "matplotlib"}
CATCH_ALL_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MOST_LINES = 300


class Import(NamedTuple):
    """An import statement, or one of its names."""

    module: str
    """Dotted name of what is imported; of ``from fer import launch`` this is ``fer.launch``."""
    at_start: bool
    """Whether it runs when the importing module is imported, and not in a function or for type checkers only."""


class Place(NamedTuple):
    """Row and entry of ``LAYERS``."""

    row: int
    entry: str


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((PROJECT / "fer").rglob("*.py"))}


def statements(node: ast.AST, at_start: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_start
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from statements(child, at_start and not later)


def imports_of(path: Path) -> Iterator[Import]:
    package = path.parent.relative_to(PROJECT).parts
    for statement, at_start in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (Import(alias.name, at_start) for alias in statement.names)
            continue
        above = package[: len(package) + 1 - statement.level] if statement.level else ()
        base = ".".join([*above, *([statement.module] if statement.module else [])])
        for alias in statement.names:
            full = f"{base}.{alias.name}"
            yield Import(full if full in MODULES else base, at_start)


IMPORTS = {name: tuple(imports_of(path)) for name, path in MODULES.items()}


def layer_of(module: str) -> Place | None:
    """Where a module stands; the longest entry of ``LAYERS`` that fits counts."""
    places = [Place(row, entry) for row, entries in enumerate(LAYERS) for entry in entries]
    fitting = [place for place in places if f"{module}.".startswith(f"fer.{place.entry}.")]
    return max(fitting, key=lambda place: len(place.entry), default=None)


def packages_above(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def reached(start: Iterable[str], *, at_start_only: bool = False) -> dict[str, str]:
    """Every module that is imported, directly or not, with the chain of modules by which it was found."""
    chains = {name: name for name in start}
    waiting = [*chains]
    while waiting:
        name = waiting.pop()
        below = [imported.module for imported in IMPORTS.get(name, ()) if imported.at_start or not at_start_only]
        for found in (*below, *packages_above(name)):
            if found not in chains:
                chains[found] = f"{chains[name]} > {found}"
                waiting.append(found)
    return chains


def top_package(module: str) -> str:
    return module.partition(".")[0]


def entry_points() -> list[str]:
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return [target.partition(":")[0] for target in scripts.values()]


def test_imports_go_downwards_only() -> None:
    faults = []
    for module in MODULES.keys() - {"fer"}:
        own = layer_of(module)
        if own is None:
            faults.append(f"{module} is in no layer: give it a place in LAYERS, as low as it can stand")
            continue
        for imported in {name for name, _ in IMPORTS[module] if top_package(name) == "fer"} - {"fer"}:
            other = layer_of(imported)
            if other is None or (other.entry != own.entry and other.row <= own.row):
                faults.append(
                    f"{module} imports {imported}, which does not stand below it: move what both need into a lower "
                    "module, or hand it over as an argument"
                )
    assert not faults, "\n".join(sorted(faults))


def test_methods_and_data_do_not_know_each_other() -> None:
    for package, other in (("fer.methods", "fer.data"), ("fer.data", "fer.methods")):
        members = [name for name in MODULES if f"{name}.".startswith(f"{package}.") and name != "fer.data.cli"]
        for found, chain in reached(members).items():
            assert not f"{found}.".startswith(f"{other}."), (
                f"{chain}: a method meets data only as a fer.batch.Batch and a fer.methods.base.Setting; "
                "add to these what it needs"
            )


def test_only_the_top_knows_hydra() -> None:
    for module, imports in IMPORTS.items():
        known = {top_package(imported.module) for imported in imports} & {"hydra", "omegaconf"}
        assert not known or module.removeprefix("fer.") in MAY_KNOW_HYDRA, (
            f"{module} imports {' and '.join(sorted(known))}: take plain values as arguments; "
            "fer.experiment resolves and instantiates the configuration"
        )


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {name: {imported.module for imported in imports} & {*MODULES} for name, imports in IMPORTS.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{' > '.join(error.args[1])}: move what they share into a module below them")


def test_readers_noise_and_store_work_without_torch() -> None:
    members = [name for name in MODULES if name.startswith("fer.data") and name not in DATA_MAY_KNOW_TORCH]
    for found, chain in reached(members).items():
        assert top_package(found) not in SLOW_TO_IMPORT, (
            f"{chain}: use numpy here; tensors begin in {' and '.join(sorted(DATA_MAY_KNOW_TORCH))}"
        )


def test_commands_start_without_importing_torch() -> None:
    """Help, mistakes in the configuration and finished runs are answered at once."""
    for found, chain in reached(entry_points(), at_start_only=True).items():
        assert top_package(found) not in SLOW_TO_IMPORT, f"{chain}: import it inside the function that needs it"


def test_every_module_is_used() -> None:
    options = "\n".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("conf/**/*.yaml"))
    targets = re.findall(r"_target_: *(fer\.[\w.]+)", options)
    unused = MODULES.keys() - reached([*entry_points(), *(target.rpartition(".")[0] for target in targets)])
    assert not unused, (
        f"{', '.join(sorted(unused))}: no entry point of pyproject.toml and no _target_ in conf leads there; "
        "connect or remove"
    )


def test_entry_points_exist() -> None:
    for module in entry_points():
        assert module in MODULES, f"pyproject.toml starts {module}, which does not exist: correct [project.scripts]"
        place = layer_of(module)
        assert place and place.row <= 1, f"{module} is an entry point: name it in one of the first two rows of LAYERS"


def test_modules_are_small_and_named_after_what_they_hold() -> None:
    for module, path in MODULES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{module} has {lines} lines: split it where its subject changes (at {MOST_LINES})"
        assert not CATCH_ALL_NAMES & {*module.split(".")}, f"{module}: name the module after what it holds"


def test_every_layer_exists() -> None:
    for entry in (entry for row in LAYERS for entry in row):
        assert any(f"{module}.".startswith(f"fer.{entry}.") for module in MODULES), f"no module fer.{entry}"


def test_every_imported_package_is_a_declared_dependency() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {normalised(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    distributions = metadata.packages_distributions()
    for module, imports in IMPORTS.items():
        for package in {top_package(name) for name, _ in imports} - {"fer", *sys.stdlib_module_names}:
            sources = {normalised(name) for name in distributions.get(package, [package])}
            assert sources & declared, f"{module} imports {package}: add it to the dependencies in pyproject.toml"


def normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
