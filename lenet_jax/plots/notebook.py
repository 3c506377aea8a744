"""The figure that a notebook shows at the end of a cell, also before pyplot is imported."""

from matplotlib.figure import Figure

from lenet_jax.plots.output import png


class NotebookFigure(Figure):
    """A figure of Matplotlib's that pyplot does not hold, so that it is shown once, and freed."""

    def _repr_png_(self) -> bytes:
        return png(self)
