"""The model that ``--run`` or ``--model`` on a command line names."""

from __future__ import annotations

from pathlib import Path

from fer.errors import ConfigError
from fer.inference.model import Model, RunModel
from fer.inference.onnx_model import OnnxModel
from fer.runs.run_folder import RunFolder
from fer.training.kept_config import ReadingOptions


def open_model(
    run: Path | None, model: Path | None, device: str = "auto", options: ReadingOptions | None = None
) -> Model:
    """Open the model of a run folder, or of an exported file; exactly one of both is given.

    Raises:
        UserError: neither or both are given, or what is given cannot be used; the message says which and why.
    """
    if (run is None) == (model is None):
        raise ConfigError("give a finished run with --run RUN, or an exported file with --model FILE, and not both")
    if run is not None:
        return RunModel(RunFolder(run), device, options)
    assert model is not None
    return OnnxModel(model, device)
