"""Page measured in inches for hundreds of captioned faces on one Axes; one Axes for each face takes minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer.reports.figures.style import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINT = 1 / 72
"""Length of a point in inches."""


class Sheet:
    """An empty page; x goes right and y down from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=(width, height))
        self._axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._axes.set_axis_off()

    def picture(
        self, x: float, y: float, edge: float, pixels: NDArray[np.uint8], frame: str = "", thickness: float = 1.5
    ) -> None:
        """A square picture (3, h, w), framed in a color where one is given; ``thickness`` in points."""
        from matplotlib.patches import Rectangle

        self._axes.imshow(
            pixels.transpose(1, 2, 0),
            extent=(x, x + edge, y + edge, y),
            aspect="auto",
            interpolation="hanning",
        )
        if frame:
            self._axes.add_patch(Rectangle((x, y), edge, edge, fill=False, edgecolor=frame, linewidth=thickness))

    def bar(self, x: float, y: float, width: float, height: float, heat: str) -> None:
        """The colors of a color map, from left to right."""
        scale = np.linspace(0, 1, 256)[None]
        self._axes.imshow(scale, cmap=heat, extent=(x, x + width, y + height, y), aspect="auto")

    def text(self, x: float, y: float, text: str, size: float, *, width: float = np.inf, **style: Any) -> None:
        """Text of ``size`` points, cut to about ``width``, with its upper left corner at (x, y) but for ``style``."""
        shown = text if np.isinf(width) else shorten(text, width, size)
        self._axes.text(x, y, shown, **{"fontsize": size, "verticalalignment": "top", **style})

    def line(self, x: float, y: float, width: float, color: str = "black") -> None:
        """A thin horizontal line."""
        self._axes.plot([x, x + width], [y, y], color=color, linewidth=0.6)
