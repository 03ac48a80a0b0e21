"""fer-train: compose a configuration and train what it describes; with -m, every job of a sweep.

``fer-train continue=FOLDER trainer.max_epochs=N`` goes on from a finished run.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fer.config.compose import CONFIG_DIR
from fer.config.hydra_errors import report_composition_errors
from fer.config.quoting import quote_foreign_paths, quote_paths
from fer.files.terminal import endure_output, log_to_terminal, report_errors
from fer.launch import continuation, launcher_resolvers, run_job, search, sweep
from fer.reports.run_summary import print_run

_PATHS = ("continue", "output_dir", "cache_dir", "data.root")
"""Keys of a continued run whose values are paths, which may need quotes."""


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _train(cfg: DictConfig) -> float | None:
    """Train one job, or the next one of a sweep; the value is for sweepers that search."""
    log_to_terminal()
    hydra_config = HydraConfig.get()
    path, choices = hydra_config.runtime.output_dir, hydra_config.runtime.choices
    if hydra_config.mode == RunMode.MULTIRUN:
        return sweep.run_sweep_job(cfg, path, choices)
    with report_errors("fer-train"):
        result = run_job.run(cfg, path, choices)
    if result is None:
        return None
    if "trial" in result:
        return None
    print_run(path, result)
    return float(result["metrics"]["test/acc"])


def _continue() -> None:
    """Go on from a finished run with ``continue=FOLDER``; nothing is composed."""
    log_to_terminal()
    path, result = continuation.run(quote_paths(sys.argv[1:], _PATHS))
    if result is not None:
        print_run(path, result)


def main() -> None:
    """Exit status 0; 1 when a run fails; 2 for what cannot be used as it is; 130 after Ctrl-C, 143 after SIGTERM."""
    endure_output()
    launcher_resolvers.register()
    search.register()
    continues = continuation.is_asked_for(sys.argv[1:])
    if not continues:
        sys.argv[1:] = quote_foreign_paths(sys.argv[1:])
    with report_composition_errors(), sweep.summarize():
        if continues:
            _continue()
        else:
            _train()


if __name__ == "__main__":
    main()
