"""fer-demo --run RUN: a page to try a trained method in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from fer.config.command_parser import CommandParser, command_parser, filled_text, whole_number
from fer.config.shared_options import add_device, add_faces, add_model, add_reading
from fer.files.terminal import log_to_terminal, report_errors


def parser() -> CommandParser:
    """Make the parser of the command line."""
    made = command_parser(
        "fer-demo",
        "Serve a page on which a trained method can be tried in a browser, until Ctrl-C.",
        [
            "fer-demo --run outputs/demo/eac-tiny-symmetric0.3-lam5/seed0",
            "fer-demo --model model.onnx --host 0.0.0.0 --allowed-host demo.example.org",
        ],
    )
    add = made.add_argument
    add_model(made)
    add(
        "--host",
        type=filled_text,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="only this machine reaches 127.0.0.1; 0.0.0.0 lets all others in (default: %(default)s)",
    )
    add(
        "--port",
        type=whole_number(0, 65535),
        default=7860,
        metavar="N",
        help="0 to 65535; 0: any that is free (default: %(default)s)",
    )
    add(
        "--allowed-host",
        dest="allowed_hosts",
        type=filled_text,
        action="append",
        default=[],
        metavar="NAME",
        help="another name that browsers know this server by, behind a proxy; may be repeated (default: none, requests "
        "for other hosts are refused)",
    )
    add_faces(made)
    add_device(made)
    add_reading(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Runs until Ctrl-C, and then exit status 0; 2 for what cannot be shown, before anything is served."""
    options = parser().read(argv)
    log_to_terminal()
    with suppress(KeyboardInterrupt), report_errors("fer-demo"):
        from fer.inference.page.server import Demo
        from fer.training.kept_config import ReadingOptions

        Demo(
            run_folder=options.run,
            model=options.model,
            host=options.host,
            port=options.port,
            allowed_hosts=options.allowed_hosts,
            least_score=options.least_score,
            cam=options.cam,
            device=options.device,
            reading=ReadingOptions.of(options),
        ).run()


if __name__ == "__main__":
    main()
