"""The wheel works by itself: with its configuration, without the checkout."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without fetching anything."""
    pytest.importorskip("hatchling", reason="building needs hatchling: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(PROJECT)], check=True)
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
        names = set(archive.namelist())
    expected = {f"fer/conf/{file.relative_to(PROJECT / 'conf').as_posix()}" for file in _configuration()}
    assert expected and expected <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"fer"}
    assert {Path(name).suffix for name in names if ".dist-info/" not in name} == {".py", ".yaml"}


def test_installed_program_composes_the_packaged_configuration(installed: Path, tmp_path: Path) -> None:
    code = "import fer.config; print(fer.config.CONFIG_DIR); print(fer.config.compose(['method=ce']).method._target_)"
    folder, target = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(installed.parent)
    assert target == "fer.methods.ce.CrossEntropy"
    composed = run(installed / "fer-train", "experiment=eac_raf_db", "--cfg", "job", cwd=tmp_path)
    assert "lam: 5.0" in composed and "max_epochs: 60" in composed
    assert "check" in run(installed / "fer-data", "--help", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def _configuration() -> list[Path]:
    return [file for file in (PROJECT / "conf").rglob("*.yaml") if "local" not in file.parts]
