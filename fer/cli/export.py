"""fer-export RUN: write a finished run's trained method as an ONNX file, checked against torch."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fer.config.command_parser import CommandParser, command_parser, file_path
from fer.config.shared_options import add_reading, add_run
from fer.files.terminal import log_to_terminal, report_errors, say
from fer.runs.output_files import Inputs, check_output
from fer.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from fer.inference.model import Model

_BATCHES = (1, 32)
_SECONDS = 1.0


def parser() -> CommandParser:
    """Make the parser of the command line."""
    made = command_parser(
        "fer-export",
        "Write the trained method of a finished run as an ONNX file, checked against torch.",
        ["fer-export outputs/demo/eac-tiny-symmetric0.3-lam5/seed0", "fer-export RUN --output faces.onnx --overwrite"],
    )
    add_run(made)
    made.add_argument(
        "--output", type=file_path, metavar="FILE", help="file to write (default: model.onnx in the run folder)"
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="--output may replace an existing file (default: it is refused; model.onnx in the run folder is replaced)",
    )
    add_reading(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 0; 2 for a mistake on the command line, a folder without a finished run, or a file not writable."""
    options = parser().read(argv)
    log_to_terminal()
    with report_errors("fer-export"):
        folder = RunFolder(options.run)
        path = options.output or folder.path / "model.onnx"

        from fer.inference.faces import FaceDetector
        from fer.inference.model import RunModel
        from fer.inference.onnx_model import OnnxModel, export
        from fer.training.kept_config import ReadingOptions

        model = RunModel(folder, "cpu", ReadingOptions.of(options))
        may_replace = options.output is None or options.overwrite
        check_output(path, Inputs([]), may_replace=may_replace, remedy="choose another --output, or give --overwrite")
        difference = export(model, path, folder.stamp(), model.face_template(FaceDetector()))
        exported = OnnxModel(path, "cpu")
    say(f"{path}  {path.stat().st_size / 1e6:.1f} MB, outputs logits{' and cam' if exported.has_cam else ''}")
    say(f"largest difference from torch {difference:.1g}")
    for batch in _BATCHES:
        ours, theirs = _images_per_second(model, batch), _images_per_second(exported, batch)
        say(f"batch {batch:3}: torch {ours:7.0f} images/s, onnxruntime {theirs:7.0f} ({theirs / ours:.2f})")
    say(f"Use it  fer-predict IMAGES --model {shlex.quote(str(path))}")


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


if __name__ == "__main__":
    main()
