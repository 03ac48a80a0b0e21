"""fer-demo run=FOLDER: a page to try a trained method in a browser."""

from __future__ import annotations

from contextlib import suppress

import hydra
from omegaconf import DictConfig, OmegaConf

from fer.config.compose import CONFIG_DIR
from fer.config.hydra_errors import report_composition_errors
from fer.config.quoting import quote_paths
from fer.files.terminal import log_to_terminal, report_errors


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="demo")
def _demo(cfg: DictConfig) -> None:
    log_to_terminal()
    with report_errors("fer-demo"):
        from fer.inference.page.server import Demo
        from fer.training.kept_config import ReadingOptions

        options = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(options, dict)
        options["run_folder"] = options.pop("run")
        options["reading"] = ReadingOptions.of(options)
        del options["trust"], options["cache_dir"], options["data"]
        Demo(**{str(key): value for key, value in options.items()}).run()


def main() -> None:
    """Runs until Ctrl-C, and then exit status 0; 2 for what cannot be shown, before anything is served."""
    quote_paths("run", "model", "data.root", "cache_dir")
    with report_composition_errors("fer-demo", "demo"), suppress(KeyboardInterrupt):
        _demo()


if __name__ == "__main__":
    main()
