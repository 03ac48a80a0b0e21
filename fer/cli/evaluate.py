"""fer-eval run=FOLDER: test a finished run again and compare with what it recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import hydra
from omegaconf import DictConfig

from fer.config.compose import CONFIG_DIR
from fer.config.hydra_errors import report_composition_errors
from fer.config.quoting import quote_paths
from fer.errors import ConfigError
from fer.files.terminal import log_to_terminal, report_errors, say
from fer.files.visible_text import visible_name
from fer.runs.protocol import protocol_named
from fer.runs.run_folder import RunFolder, RunFolderError

_LARGEST = 1e9
"""Largest recorded metric that is shown; JSON may hold numbers of any length."""


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="eval")
def _evaluate(cfg: DictConfig) -> None:
    log_to_terminal()
    with report_errors("fer-eval"):
        if not cfg.get("run"):
            raise ConfigError("run is missing; give the run folder as run=FOLDER")
        folder = RunFolder(cfg.run)
        result = folder.result()

        from fer.training import experiment
        from fer.training.kept_config import ReadingOptions, read_kept_config

        settings = read_kept_config(folder, ReadingOptions.of(cfg)).on(cfg.accelerator)
        if cfg.batch_size is not None:
            settings = settings.changed(batch_size=cfg.batch_size)
        recorded = _recorded(folder, result, settings.protocol)
        metrics = experiment.evaluate(settings, folder)
    say(f"{'metric':24} {'now':>10} {'recorded':>10}")
    for name, value in metrics.items():
        then = recorded.get(name)
        is_number = isinstance(then, int | float) and abs(then) < _LARGEST
        remark = "" if value == then else "  differs"
        say(f"{visible_name(name):24} {value:10.6f} {then if is_number else math.nan:10.6f}{remark}")


def _recorded(folder: RunFolder, result: Mapping[str, Any], protocol: str) -> Mapping[str, Any]:
    """Pick the metrics that a test of the run's checkpoint should find again."""
    recorded = protocol_named(protocol).metrics_of_checkpoint(result)
    if not isinstance(recorded, Mapping):
        raise RunFolderError(f"{folder.result_file} is no run's result; restore it, or train again")
    return recorded


def main() -> None:
    """Exit status 0; 2 for a folder that holds no finished run."""
    quote_paths("run", "data.root", "data_root", "cache_dir")
    with report_composition_errors("fer-eval", "eval"):
        _evaluate()


if __name__ == "__main__":
    main()
