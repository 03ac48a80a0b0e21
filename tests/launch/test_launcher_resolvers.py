"""Resources that a launcher reserves for each job follow from the devices that the jobs ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fer.config import devices
from fer.config.compose import CONFIG_DIR
from fer.launch import launcher_resolvers

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs the extra sweep")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra sweep")
GPUS = 4


@pytest.fixture(autouse=True)
def machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_visible_gpus", lambda: GPUS)


def launcher(name: str, *overrides: str, sweeps: tuple[str, ...] = ()) -> Any:
    """The launcher's node of a command line, whose ``sweeps`` are left to the jobs as in Hydra's multirun."""
    launcher_resolvers.register()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides=[f"hydra/launcher={name}", *overrides], return_hydra_config=True)
    OmegaConf.set_readonly(config, False)
    config.hydra.overrides.task += [*sweeps]
    return config.hydra.launcher


@pytest.mark.parametrize(
    ("overrides", "sweeps", "gpus", "cpus"),
    [
        ([], (), 1, 1),
        (["trainer.devices=2"], (), 2, 2),
        (["trainer.devices=[0,1,2]"], (), 3, 3),
        (["trainer.devices=auto"], (), GPUS, GPUS),
        ([], ("trainer.devices=1,2",), 2, 2),
        ([], ("trainer.devices=range(1,4)",), 3, 3),
        (["launch.jobs_per_gpu=4"], (), 0.25, 1),
        (["launch.cpus_per_device=6", "trainer.devices=2"], (), 2, 12),
        (["trainer.accelerator=cpu", "trainer.devices=2"], (), 0, 2),
    ],
)
def test_ray_reserves_for_the_largest_job(
    overrides: list[str], sweeps: tuple[str, ...], gpus: float, cpus: int
) -> None:
    remote = launcher("gpus", *overrides, sweeps=sweeps).ray.remote
    assert (remote.num_gpus, remote.num_cpus) == (gpus, cpus)


def test_the_cpus_launcher_leaves_gpus_alone() -> None:
    remote = launcher("cpus", "launch.cpus_per_device=3").ray.remote
    assert (remote.num_gpus, remote.num_cpus) == (0, 3)
    assert remote.runtime_env.env_vars.OMP_NUM_THREADS == "3"


def test_slurm_asks_for_whole_gpus_or_for_none() -> None:
    assert launcher("slurm", sweeps=("trainer.devices=1,2",)).gpus_per_node == 2
    assert launcher("slurm", "trainer.accelerator=cpu").gpus_per_node is None
    assert launcher("slurm", "trainer.devices=2", "launch.cpus_per_device=4").cpus_per_task == 8


def test_a_machine_without_gpus_shares_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_visible_gpus", lambda: 0)
    remote = launcher("gpus", "trainer.devices=2").ray.remote
    assert (remote.num_gpus, remote.num_cpus) == (0, 2)
    assert launcher("slurm").gpus_per_node is None
