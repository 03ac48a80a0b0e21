"""Wherever the jobs of a sweep run, they give the same results, and none is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interruptions import assert_same_outcome
from support.launching import ALL_EPOCHS, SLURM, run_folders
from support.project import Train
from support.sweeping import Command, assert_all_end, run, times_trained, wait_until

from fer.runs.run_folder import RunFolder

GRID = [("ce", 0), ("ce", 1), ("eac", 0), ("eac", 1)]
HEAD, ADDRESSES = "10.77.0.1", ("10.77.0.1", "10.77.0.2")


CPUS = pytest.param("cpus", marks=pytest.mark.ray)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [CPUS, SLURM], indirect=True)
def test_a_launcher_gives_the_results_of_single_runs(
    launcher: str, overrides: list[str], train: Train, tmp_path: Path
) -> None:
    command = run(["-m", launcher, *overrides, "method=ce,eac", "seed=0,1", f"output_dir={tmp_path / 'out'}"], tmp_path)
    assert command.status == 0, command.output
    assert "4 jobs: 4 done" in command.output
    folders = run_folders(tmp_path / "out")
    assert len(folders) == len(GRID)
    for folder, (method, seed) in zip(folders, GRID, strict=True):
        train(tmp_path / "alone" / folder.parent.name / folder.name, f"method={method}", f"seed={seed}")
        assert_same_outcome(folder, tmp_path / "alone" / folder.parent.name / folder.name)
        assert times_trained(folder) == ALL_EPOCHS


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [CPUS, SLURM], indirect=True)
def test_jobs_on_one_and_on_two_devices_are_in_one_sweep(launcher: str, overrides: list[str], tmp_path: Path) -> None:
    command = run(["-m", launcher, *overrides, "trainer.devices=1,2", f"output_dir={tmp_path / 'out'}"], tmp_path)
    assert command.status == 0, command.output
    folders = run_folders(tmp_path / "out")
    assert [RunFolder(folder).stamp()["devices"] for folder in folders] in ([1, 2], [2, 1])
    assert [times_trained(folder) for folder in folders] == [ALL_EPOCHS, ALL_EPOCHS]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [CPUS], indirect=True)
def test_nothing_of_ray_outlives_a_killed_sweep(launcher: str, overrides: list[str], tmp_path: Path) -> None:
    stop = tmp_path / "stop.txt"
    stop.write_text("0.01 1")
    arguments = [
        "-m", launcher, *overrides, "optim.lr=0.01,0.02", f"output_dir={tmp_path / 'out'}",
        "+callbacks.stop._target_=support.sweeping.StopAt", f"+callbacks.stop.file={stop}",
    ]  # fmt: skip
    command = Command(arguments, tmp_path)
    wait_until(stop.with_suffix(".reached").exists, command)
    command.process.kill()
    command.wait()
    assert_all_end(command, seconds=180)  # agents of Ray try for a while to tell of it
    stop.write_text("")
    assert run(arguments, tmp_path).status == 0
    assert [times_trained(folder) for folder in run_folders(tmp_path / "out")] == [ALL_EPOCHS, ALL_EPOCHS]


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces that see each other, as two machines do."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the ip command of iproute2")
    names = [f"fer{os.getpid()}n{number}" for number in range(2)]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)

    try:
        for name in names:
            ip("netns", "add", name)
        # Named alike on both, as GLOO_SOCKET_IFNAME wants it.
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=30)


@pytest.mark.slow
@pytest.mark.netns
def test_two_machines_give_the_result_of_two_devices(machines: list[str], overrides: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    launched = []
    for rank, machine in enumerate(machines):
        program = [
            "ip", "netns", "exec", machine, sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
            "--nproc-per-node=1", f"--node-rank={rank}", f"--master-addr={HEAD}", "--master-port=29555",
            "-m", "fer.cli.train",
        ]  # fmt: skip
        arguments = [*overrides, "trainer.num_nodes=2", f"output_dir={output}"]
        launched.append(Command(arguments, tmp_path, program, GLOO_SOCKET_IFNAME="eth0"))
    status = [command.wait() for command in launched]
    assert status == [0, 0], "\n".join(command.output for command in launched)
    (folder,) = run_folders(output)
    assert times_trained(folder) == ALL_EPOCHS
    assert RunFolder(folder).stamp()["devices"] == 2
    together = run([*overrides, "trainer.devices=2", f"output_dir={tmp_path / 'one'}"], tmp_path)
    assert together.status == 0, together.output
    (other,) = run_folders(tmp_path / "one")
    assert_same_outcome(folder, other)
