"""fer-export run=FOLDER: write a finished run's trained method as an ONNX file, checked against torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from fer.config.compose import CONFIG_DIR
from fer.config.hydra_errors import report_composition_errors
from fer.config.quoting import quote_paths
from fer.errors import ConfigError
from fer.files.terminal import log_to_terminal, report_errors, say
from fer.runs.output_files import Inputs, check_output
from fer.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from fer.inference.model import Model

_BATCHES = (1, 32)
_SECONDS = 1.0


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="export")
def _export(cfg: DictConfig) -> None:
    log_to_terminal()
    with report_errors("fer-export"):
        if not cfg.get("run"):
            raise ConfigError("run is missing; give the run folder as run=FOLDER")
        from fer.inference.faces import FaceDetector
        from fer.inference.model import RunModel
        from fer.inference.onnx_model import OnnxModel, export
        from fer.training.kept_config import ReadingOptions

        folder = RunFolder(cfg.run)
        model = RunModel(folder, "cpu", ReadingOptions.of(cfg))
        path = Path(cfg.output or folder.path / "model.onnx")
        may_replace = cfg.output is None or cfg.overwrite
        check_output(path, Inputs([]), may_replace=may_replace, remedy="choose another output=, or give overwrite=true")
        difference = export(model, path, folder.stamp(), model.face_template(FaceDetector()))
        exported = OnnxModel(path, "cpu")
    say(f"{path}  {path.stat().st_size / 1e6:.1f} MB, outputs logits{' and cam' if exported.has_cam else ''}")
    say(f"largest difference from torch {difference:.1g}")
    for batch in _BATCHES:
        ours, theirs = _images_per_second(model, batch), _images_per_second(exported, batch)
        say(f"batch {batch:3}: torch {ours:7.0f} images/s, onnxruntime {theirs:7.0f} ({theirs / ours:.2f})")
    say(f"Use it  fer-predict model={path} images=PATH")


def _images_per_second(model: Model, batch: int) -> float:
    """Measure back-to-back calls over a second, preparation of the view included."""
    import numpy as np

    faces = np.zeros((batch, 3, model.image_size, model.image_size), np.uint8)
    predict: Callable[..., object] = model.predict
    predict(faces)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        predict(faces)
        count += batch
    return count / (time.perf_counter() - started)


def main() -> None:
    """Exit status 0; 2 for a folder that holds no finished run, or a file that cannot be written."""
    quote_paths("run", "output", "data.root", "cache_dir")
    with report_composition_errors("fer-export", "export"):
        _export()


if __name__ == "__main__":
    main()
