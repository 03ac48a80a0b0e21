"""The wheel works by itself: with its configuration, without the checkout."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from support.project import PROJECT

import fer

SCRIPTS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
# What lies about in a checkout that is worked with; none of it is for others.
PRIVATE = [
    "conf/local/default.yaml", "data/raf-basic/EmoLabel/list_patition_label.txt", "outputs/run/result.json",
    "resnet18_msceleb.pth", "uv.lock", "notes.yaml",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a checkout that is worked with, built without fetching anything."""
    for module in ("hatchling", "pip"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"building the wheel needs {module}: pip install pip -e '.[dev]'")
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("conf", "fer", "tests"):
        shutil.copytree(PROJECT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "CHANGELOG.md"):
        shutil.copy(PROJECT / name, checkout)
    for name in PRIVATE:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("seed: 1\n")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(checkout)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment that holds the wheel; the other packages are this environment's."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False, symlinks=True)
    (packages,) = root.glob("lib/python3*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(root / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return root / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_the_package_and_its_configuration_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        facts = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    expected = {file.relative_to(PROJECT).as_posix() for file in (PROJECT / "fer").rglob("*.py")}
    expected |= {"fer/reports/published.csv", "fer/models/weights/face_statistics.npz", "fer/py.typed"}
    expected |= {f"fer/conf/{file.relative_to(PROJECT / 'conf').as_posix()}" for file in _configuration()}
    assert names >= expected, "missing"
    assert names <= expected, "packed, but not part of the package: narrow down [tool.hatch.build.targets.wheel]"
    assert {"METADATA", "LICENSE", "entry_points.txt"} <= facts


def test_installed_program_composes_the_packaged_configuration(installed: Path, tmp_path: Path) -> None:
    code = "from fer.config import compose as c; print(c.CONFIG_DIR, c.compose(['method=ce']).method._target_)"
    folder, target = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(installed.parent)
    assert target == "fer.methods.ce.CrossEntropy"
    composed = run(installed / "fer-train", "experiment=eac_raf_db", "--cfg", "job", cwd=tmp_path)
    assert "lam: 5.0" in composed and "max_epochs: 60" in composed
    assert "check" in run(installed / "fer-data", "--help", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", SCRIPTS)
def test_installed_programs_give_help_from_any_folder(program: str, installed: Path, tmp_path: Path) -> None:
    assert len(run(installed / program, "--help", cwd=tmp_path)) > 100
    assert not list(tmp_path.iterdir())


def test_installed_version_is_the_one_in_the_code(wheel: Path, installed: Path) -> None:
    (packages,) = installed.parent.glob("lib/python3*/site-packages")
    (found,) = metadata.distributions(name="noisy-label-fer", path=[str(packages)])
    assert found.version == fer.__version__ and f"-{fer.__version__}-" in wheel.name
    assert {entry.name: entry.value for entry in found.entry_points} == SCRIPTS


@pytest.mark.slow
def test_installed_program_trains_and_tests_again(installed: Path, overrides: list[str], tmp_path: Path) -> None:
    run(installed / "fer-train", *overrides, "trainer.max_epochs=1", "output_dir=out", cwd=tmp_path)
    (result,) = (tmp_path / "out").rglob("result.json")
    cache = next(given.partition("=")[2] for given in overrides if given.startswith("cache_dir="))
    tested = run(installed / "fer-eval", str(result.parent), f"--cache-dir={cache}", "--device=cpu", cwd=tmp_path)
    assert "test/acc" in tested and "differs" not in tested


def _configuration() -> list[Path]:
    return [file for file in (PROJECT / "conf").rglob("*.yaml") if "local" not in file.parts]


def test_every_hint_installs_this_project_with_an_extra_it_has() -> None:
    """``pip install fer`` would fetch a stranger's package."""
    facts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    texts = [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")]
    for folder, pattern in (("fer", "*.py"), ("conf", "*.yaml"), ("tests", "*.py")):
        texts += (PROJECT / folder).rglob(pattern)
    hints = [
        hint
        for path in texts
        if path != Path(__file__)
        for hint in re.findall(r"pip install ([^`&;\n]*)", path.read_text(encoding="utf-8"))
    ]
    project = re.compile(r"(?:^|[\s\"'])(\.|[a-z-]*fer[a-z-]*)(?:\[([a-z,]+)\])?")
    named = [name for hint in hints for name in project.findall(hint)]
    assert len(named) > 8
    for name, extras in named:
        assert name in (".", facts["name"]), f"pip install {name}"
        assert set(filter(None, extras.split(","))) <= facts["optional-dependencies"].keys(), extras


def test_another_projects_fer_in_the_same_environment_is_told(tmp_path: Path) -> None:
    facts = tmp_path / "fer-25.10.3.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: fer\nVersion: 25.10.3\n")
    command = [sys.executable, "-m", "fer.cli.report", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "another project's package, fer 25.10.3" in done.stderr
    assert "Traceback" not in done.stderr
