"""Style and output of figures: one style, colors for color-blind readers too, PNG and SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.errors import UserError
from fer.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Okabe and Ito's palette, which color-blind readers can tell apart, without its yellow, too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_WIDTH = 0.55
"""Average width of a character, relative to its size."""

_STYLE: dict[RcKeyType, Any] = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 150,
    "text.parse_math": False,  # a class name is text, not mathematics
    "svg.hashsalt": "fer-report",  # the same runs give the same file
}


def wrap(text: str, width: float, size: float) -> str:
    """Text of ``size`` points broken into lines of about ``width`` inches."""
    return textwrap.fill(text, _characters(width, size))


def shorten(text: str, width: float, size: float) -> str:
    """Text of ``size`` points cut to about ``width`` inches."""
    most = _characters(width, size)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _characters(width: float, size: float) -> int:
    """Estimate how many characters fit, by their average width in words."""
    return max(2, int(width / (_WIDTH * size / 72)))


def write_figures(
    figures: Iterable[tuple[str, Figure]], folder: Path, style: dict[RcKeyType, Any] | None = None
) -> list[Path]:
    """Write every figure as ``folder/<name>.png`` and ``.svg`` and return the files.

    Args:
        figures: name and figure; taken one by one, so that a generator draws in the style and one figure is held.
        folder: is made where it is missing.
        style: settings of matplotlib that differ from the common ones.

    Raises:
        UserError: the folder cannot be written to.
    """
    from matplotlib import rc_context

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context({**_STYLE, **(style or {})}):
            for name, figure in figures:
                for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
                    file = folder / f"{name}{suffix}"
                    with replacing(file) as unfinished:
                        figure.savefig(unfinished, format=suffix[1:], metadata=metadata)
                    files.append(file)
    except OSError as error:
        raise UserError(f"cannot write figures to {folder} ({error.strerror or error})") from error
    return files
