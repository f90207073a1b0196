"""Figures that show themselves in a notebook; import this module only where a figure is drawn, since it loads matplotlib."""

from __future__ import annotations

import io

from matplotlib import rc_context
from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A matplotlib Figure that a notebook shows although no pyplot knows it."""

    def _repr_svg_(self) -> str:
        return svg(self).decode()


def svg(figure: Figure) -> bytes:
    """A figure as SVG: the same figure gives the same bytes."""
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "presilicon"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
