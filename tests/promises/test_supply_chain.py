"""Nothing is let in: no known-bad package fits the dependencies, and no command asks the network for anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from support.project import PROJECT

KNOWN_BAD = [
    ("lightning", "2.6.2", "malicious upload"),
    ("lightning", "2.6.3", "malicious upload"),
    ("lightning", "2.6.5", "load_from_checkpoint runs code named in a checkpoint (GHSA-qqmf-gpg7-g8gw)"),
    ("torch", "2.5.1", "torch.load runs code even with weights_only (CVE-2025-32434)"),
    ("torch", "2.9.0", "two forwards through DDP with BatchNorm raise an error (pytorch#175024)"),
    ("hydra-core", "1.3.3", "instantiate accepts os.system and the like as _target_"),
    ("hydra-core", "1.4.0", "other rules for dicts and targets"),
    ("omegaconf", "2.4.0", "hydra 1.3 does not work with it"),
    ("sqlalchemy", "1.4.54", "MLflow's server does not start"),
    ("hydra-ray-launcher", "1.2.1", "pins a Ray of old"),
]
# With joblib a job cannot start processes of its own; Optuna's sweeper needs SQLAlchemy below 2; the others do not
# start on Python 3.11.
UNUSABLE = {
    "hydra-joblib-launcher", "hydra-optuna-sweeper", "hydra-ax-sweeper", "hydra-nevergrad-sweeper",
    "hydra-rq-launcher",
}  # fmt: skip
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT_TABLE["dependencies"], *PROJECT_TABLE["optional-dependencies"].values())
    for line in lines
]
# Read by every Python that starts, workers too: what is not this machine ends the program.
ON_THIS_MACHINE_ONLY = """
import os, sys
HERE = ("127.0.0.1", "::1", "localhost", "", None)
def watch(event, arguments):
    host = None
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    if host not in HERE or (event == "socket.bind" and host == ""):
        os.write(2, f"NETWORK {event} {arguments}\\n".encode())
        os._exit(99)
sys.addaudithook(watch)
"""
ASK = "import socket; socket.create_connection(('192.0.2.1', 9), 1)"


@pytest.mark.parametrize(("name", "version", "why"), KNOWN_BAD)
def test_known_bad_releases_do_not_fit_the_dependencies(name: str, version: str, why: str) -> None:
    found = [requirement for requirement in REQUIREMENTS if requirement.name == name]
    assert found, f"{name} is no dependency any more: take it off this list"
    assert not any(requirement.specifier.contains(version) for requirement in found), why


def test_python_that_hydra_does_not_start_on_is_refused() -> None:
    assert not SpecifierSet(PROJECT_TABLE["requires-python"]).contains("3.14")


def test_packages_that_cannot_work_are_no_dependencies() -> None:
    assert not UNUSABLE & {requirement.name for requirement in REQUIREMENTS}


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python ends when it asks for another machine."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(ON_THIS_MACHINE_ONLY)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{PROJECT}", "OMP_NUM_THREADS": "1"}


def test_no_command_asks_another_machine(
    overrides: list[str], shapes: Path, watched: dict[str, str], tmp_path: Path
) -> None:
    def python(program: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=tmp_path, env=watched, capture_output=True, text=True, check=False)

    asked = python(ASK)
    assert asked.returncode == 99 and "NETWORK" in asked.stderr
    face = next((shapes / "test").rglob("*.png"))
    steps = {
        "train": [*overrides, "trainer.max_epochs=1", "output_dir=.", "hydra.run.dir=run"],
        "report": ["run", "--plots", "plots", "--figures", "figures"],
        "predict": [str(face), "--run", "run", "--detect", "off", "--device", "cpu", "--output", "faces.csv"],
    }
    program = "import sys\n" + "".join(
        f"import fer.cli.{module}; sys.argv = {[module, *arguments]!r}; fer.cli.{module}.main()\n"
        for module, arguments in steps.items()
    )
    done = python(program)
    assert done.returncode == 0 and "NETWORK" not in done.stderr, done.stderr
    for made in ("run/result.json", "plots", "figures", "faces.csv"):
        assert (tmp_path / made).exists()


@pytest.mark.slow
@pytest.mark.netns
def test_two_ranks_need_no_network(overrides: list[str], tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    train = [sys.executable, "-m", "fer.cli.train", *overrides, "trainer.devices=2", f"output_dir={tmp_path / 'out'}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *train]
    done = subprocess.run(alone, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("result.json"))
