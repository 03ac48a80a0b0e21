"""fer-predict IMAGES --run RUN: the expressions of the faces in photographs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fer.config.command_parser import CommandParser, command_parser, file_path, filled_text, whole_number
from fer.config.shared_options import add_device, add_faces, add_model, add_reading
from fer.files.terminal import log_to_terminal, report_errors, say


def parser() -> CommandParser:
    """Make the parser of the command line."""
    made = command_parser(
        "fer-predict",
        "Find the faces in photographs and write the expression that a trained method sees in each.",
        [
            "fer-predict photos/ --run outputs/demo/eac-tiny-symmetric0.3-lam5/seed0 --overlays seen",
            "fer-predict 'photos/**/*.jpg' portrait.png --model model.onnx --output faces.json",
        ],
    )
    add = made.add_argument
    add(
        "images",
        nargs="+",
        type=filled_text,
        metavar="IMAGES",
        help="files, folders (with all below them) and quoted patterns such as 'photos/**/*.jpg'",
    )
    add_model(made)
    add(
        "--detect",
        choices=("auto", "off"),
        default="auto",
        help="auto: find faces and align them as the training data is; off: every image is a face cut out already "
        "(default: %(default)s)",
    )
    add_faces(made)
    add(
        "--output",
        type=file_path,
        default=Path("expressions.csv"),
        metavar="FILE",
        help=".csv: a line for each face; .json: an object for each photograph (default: %(default)s)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="--output, and pictures in --overlays, may replace existing files; what is read is never replaced "
        "(default: refused)",
    )
    add(
        "--overlays",
        type=file_path,
        metavar="DIR",
        help="write the photographs there with frames, expressions and maps drawn in (default: not written)",
    )
    add("--batch-size", type=whole_number(1), default=32, metavar="N", help="faces at once (default: %(default)s)")
    add(
        "--threads",
        type=whole_number(1),
        metavar="N",
        help="threads that read photographs and find faces (default: one for every core)",
    )
    add_device(made)
    add_reading(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 0; 1 where a photograph could not be read and was left out; 2 where nothing could be done."""
    options = parser().read(argv)
    log_to_terminal()
    with report_errors("fer-predict"):
        from fer.inference.photo_job import PredictionJob
        from fer.training.kept_config import ReadingOptions

        job = PredictionJob(
            run_folder=options.run,
            model=options.model,
            images=options.images,
            detect=options.detect,
            least_score=options.least_score,
            output=options.output,
            overwrite=options.overwrite,
            overlays=options.overlays,
            cam=options.cam,
            batch_size=options.batch_size,
            device=options.device,
            threads=options.threads or os.cpu_count() or 1,
            reading=ReadingOptions.of(options),
        )
        outcome = job.run()
    say(outcome.summary())
    if outcome.unreadable:
        sys.exit(1)


if __name__ == "__main__":
    main()
