"""fer-eval run=FOLDER: test a finished run again and compare with what it recorded."""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from fer.command_line import composition_reported
from fer.config import CONFIG_DIR
from fer.errors import ConfigError, reported
from fer.paths_on_command_line import quote_paths
from fer.runs import RunFolder
from fer.terminal import log_to_terminal


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="eval")
def _evaluate(cfg: DictConfig) -> None:
    log_to_terminal()
    with reported("fer-eval"):
        if not cfg.get("run"):
            raise ConfigError("run is missing; give the run folder as run=FOLDER")
        folder = RunFolder(cfg.run)
        result = folder.result()
        config = _on_this_machine(folder.config(), cfg)

        from fer import experiment

        metrics = experiment.evaluate(config, folder)
    recorded = result["last_epoch"] if result["protocol"] == "last5" else result["metrics"]
    print(f"{'metric':24} {'now':>10} {'recorded':>10}")
    for name, value in metrics.items():
        print(f"{name:24} {value:10.6f} {recorded[name]:10.6f}{'' if value == recorded[name] else '  differs'}")


def _on_this_machine(config: dict[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """The run's configuration with what may differ between machines."""
    config["cache_dir"] = cfg.cache_dir
    config["trainer"] |= {"accelerator": cfg.accelerator, "devices": 1, "num_nodes": 1}
    if cfg.batch_size is not None:
        config["batch_size"] = cfg.batch_size
    if cfg.data_root is not None:
        config["data"]["root"] = config["data"]["reader"]["root"] = cfg.data_root
    return config


def main() -> None:
    """Exit status 0; 2 for a folder that holds no finished run."""
    quote_paths("run", "data_root", "cache_dir")
    with composition_reported("fer-eval", "eval"):
        _evaluate()


if __name__ == "__main__":
    main()
