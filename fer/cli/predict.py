"""fer-predict run=FOLDER images=PATH: the expressions of the faces in photographs."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from fer.config.compose import CONFIG_DIR
from fer.config.hydra_errors import report_composition_errors
from fer.config.quoting import quote_paths
from fer.errors import ConfigError
from fer.files.terminal import log_to_terminal, report_errors, say


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="predict")
def _predict(cfg: DictConfig) -> None:
    log_to_terminal()
    with report_errors("fer-predict"):
        if OmegaConf.is_missing(cfg, "images"):
            raise ConfigError("images is missing; give photographs as images=FILE, images=FOLDER or images='PATTERN'")
        from fer.inference.photo_job import PredictionJob
        from fer.training.kept_config import ReadingOptions

        options = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(options, dict)
        options["images"] = [options["images"]] if isinstance(options["images"], str) else options["images"]
        options["run_folder"] = options.pop("run")
        options["reading"] = ReadingOptions.of(options)
        del options["trust"], options["cache_dir"], options["data"]
        options["threads"] = options["threads"] or os.cpu_count() or 1
        outcome = PredictionJob(**{str(key): value for key, value in options.items()}).run()
    say(outcome.summary())
    if outcome.unreadable:
        sys.exit(1)


def main() -> None:
    """Exit status 0; 1 where a photograph could not be read and was left out; 2 where nothing could be done."""
    quote_paths("run", "model", "images", "output", "overlays", "data.root", "cache_dir")
    with report_composition_errors("fer-predict", "predict"):
        _predict()


if __name__ == "__main__":
    main()
