"""Rules of who may import whom, checked on the import statements."""

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
from support.project import PROJECT

FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"cli": ("launch", "reports", "inference", "training", "data", "runs", "config")},
    {
        "launch": ("training", "runs", "config"),
        "reports": ("training", "methods", "data", "runs", "config", "views"),
        "inference": ("training", "methods", "data", "models", "runs", "views"),
    },
    {"training": ("methods", "data", "models", "runs", "config", "views")},
    {"methods": ("models", "views"), "data": ("runs", "views")},
    {"models": (), "views": (), "runs": (), "config": ()},
    {"files": ()},
)
"""The twelve rooms of fer from the top down, and the rooms that each may use; all may use files, errors and ranges."""
ROOMS = {room: {*below, room, "files", "errors", "ranges"} for floor in FLOORS for room, below in floor.items()}
MAY_KNOW_HYDRA = ("fer.cli.", "fer.config.", "fer.launch.")
# Everything else in fer.data works on files and arrays, so that the data tools start at once.
DATA_MAY_KNOW_TORCH = {f"fer.data.loading.{name}" for name in ("datamodule", "face_dataset", "partition", "samplers")}
SLOW_TO_IMPORT = {"torch", "torchvision", "torchmetrics", "lightning", "tensorboard", "scipy", "sklearn", "matplotlib"}
CATCH_ALL_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MOST_LINES = 300


class Import(NamedTuple):
    """An import statement, or one of its names."""

    module: str
    """Dotted name of what is imported; of ``from fer import launch`` this is ``fer.launch``."""
    at_start: bool
    """True if it runs when the importing module is imported; false in a function or for type checkers only."""


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


def room_of(module: str) -> str:
    return module.split(".")[1]


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


def test_rooms_use_those_below_them() -> None:
    order = [room for floor in FLOORS for room in floor]
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    for room, below in ((room, below) for floor in FLOORS for room, below in floor.items()):
        assert all(floor_of[other] > floor_of[room] for other in below), f"{room} would use what stands above it"
    assert len(order) == 12 and {room_of(module) for module in MODULES if module != "fer"} == {
        *order,
        "errors",
        "ranges",
    }
    faults = []
    for module in MODULES.keys() - {"fer", "fer.errors", "fer.ranges"}:
        imported = {name for name, _ in IMPORTS[module] if name.startswith("fer.")}
        faults += [
            f"{module} imports {name}, and {room_of(module)} does not use {room_of(name)}: move what both need into a "
            "lower room, or hand it over as an argument"
            for name in imported
            if room_of(name) not in ROOMS[room_of(module)]
        ]
    assert not faults, "\n".join(sorted(faults))


def test_errors_use_nothing() -> None:
    assert not [name for name, _ in IMPORTS["fer.errors"] if name.startswith("fer.")]


def test_methods_hold_one_file_per_paper() -> None:
    """Every file of fer.methods is the target of an option, and what they share stands in fer.methods.core."""
    options = "\n".join(path.read_text(encoding="utf-8") for path in PROJECT.glob("conf/method/*.yaml"))
    papers = {target.rpartition(".")[0] for target in re.findall(r"_target_: *(fer\.[\w.]+)", options)}
    found = {name for name in MODULES if re.fullmatch(r"fer\.methods\.(?!core$)\w+", name)}
    assert found == papers


def test_only_the_top_knows_hydra() -> None:
    for module, imports in IMPORTS.items():
        known = {top_package(imported.module) for imported in imports} & {"hydra", "omegaconf"}
        assert not known or module.startswith(MAY_KNOW_HYDRA), (
            f"{module} imports {' and '.join(sorted(known))}: take plain values as arguments; "
            "fer.config composes and instantiates the configuration"
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


def test_entry_points_are_the_commands() -> None:
    commands = {name for name in MODULES if name.startswith("fer.cli.")}
    assert {*entry_points()} == commands, "one file per command, and nothing else"


def test_modules_are_small_and_named_after_what_they_hold() -> None:
    for module, path in MODULES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{module} has {lines} lines: split it where its subject changes (at {MOST_LINES})"
        assert not CATCH_ALL_NAMES & {*module.split(".")}, f"{module}: name the module after what it holds"


def test_every_imported_package_is_a_declared_dependency() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {normalized(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    distributions = metadata.packages_distributions()
    for module, imports in IMPORTS.items():
        for package in {top_package(name) for name, _ in imports} - {"fer", *sys.stdlib_module_names}:
            sources = {normalized(name) for name in distributions.get(package, [package])}
            assert sources & declared, f"{module} imports {package}: add it to the dependencies in pyproject.toml"


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_tests_mirror_the_rooms_and_do_not_import_each_other() -> None:
    tests = PROJECT / "tests"
    folders = {path.name for path in tests.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert folders == {*(room for floor in FLOORS for room in floor), "promises", "support"}
    assert not [*tests.glob("test_*.py")], "a test stands in the folder of its room, or in promises"
    paths = [*tests.rglob("test_*.py")]
    assert len({path.name for path in paths}) == len(paths), "pytest needs names that differ"
    for path in paths:
        known = [imported.module for imported in imports_of(path)]
        assert not [name for name in known if name.startswith(("test_", "conftest"))], f"{path}: use tests/support"
