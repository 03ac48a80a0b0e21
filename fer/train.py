"""fer-train: compose a configuration and train what it describes."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fer import launch
from fer.config import CONFIG_DIR
from fer.errors import reported
from fer.reporting.run_summary import print_run
from fer.terminal import log_to_terminal


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _train(cfg: DictConfig) -> float:
    """Train one job; Hydra calls it once per job of a sweep."""
    log_to_terminal()
    runtime = HydraConfig.get().runtime
    with reported("fer-train"):
        result = launch.run(cfg, runtime.output_dir, runtime.choices)
        print_run(runtime.output_dir, result)
    return float(result["metrics"]["test/acc"])


def main() -> None:
    """Exit status 0; 1 when a run fails; 2 for a configuration, data or folder that cannot be used."""
    _train()


if __name__ == "__main__":
    main()
