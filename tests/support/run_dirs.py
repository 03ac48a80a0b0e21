"""Names of run folders."""

from __future__ import annotations

from hydra import compose, initialize_config_dir

from fer.config.compose import CONFIG_DIR


def run_dir(*overrides: str) -> str:
    """Compute, as Hydra does, the run folder of a command line without sweep, relative to the output folder."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides=["output_dir=out", *overrides], return_hydra_config=True)
    return str(config.hydra.run.dir).removeprefix("out/")
