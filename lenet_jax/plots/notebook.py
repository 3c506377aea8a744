"""The figure that a notebook shows at the end of a cell, also before pyplot is imported."""

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure of Matplotlib's that pyplot does not hold, so that it is shown once, and freed."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()
