"""Options that several programs have, stated once."""

from __future__ import annotations

from fer.config.command_parser import CommandParser, file_path, filled_text, share


def add_run(parser: CommandParser) -> None:
    """Add the finished run that a program is about, as its only argument without a name."""
    parser.add_argument("run", type=file_path, metavar="RUN", help="folder of a finished run")


def add_model(parser: CommandParser) -> None:
    """Add ``--run`` and ``--model``, of which one is given."""
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--run", type=file_path, metavar="RUN", help="folder of a finished run")
    one.add_argument("--model", type=file_path, metavar="FILE", help="instead of --run: file written by fer-export")


def add_device(parser: CommandParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto: a GPU where there is one (default: %(default)s)",
    )


def add_faces(parser: CommandParser) -> None:
    """Add how faces are found and whether maps are shown."""
    parser.add_argument(
        "--least-score",
        type=share,
        default=0.8,
        metavar="X",
        help="how sure the detector must be that something is a face, between 0 and 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--no-cam",
        dest="cam",
        action="store_false",
        help="without class activation maps over the faces (default: with)",
    )


def add_reading(parser: CommandParser, only_for: str = "") -> None:
    """Add how the configuration and the data of finished runs are read.

    Args:
        parser: of the program.
        only_for: option of the program without which these have no effect.
    """
    what = f"for {only_for}: " if only_for else ""
    add = parser.add_argument
    add(
        "--data-root",
        type=file_path,
        metavar="DIR",
        help=f"{what}where the data of the run lies now (default: where the run says)",
    )
    add(
        "--cache-dir",
        type=file_path,
        metavar="DIR",
        help=f"{what}decoded images are kept there (default: $FER_CACHE, or ~/.cache/fer)",
    )
    add(
        "--trust",
        type=filled_text,
        action="append",
        default=[],
        metavar="package.module.Name",
        help=f"{what}class or function outside fer that the run names and that may be run; may be repeated "
        "(default: none, others are refused by name)",
    )
