"""A sheet of paper measured in pixels, on which the figures of this package are drawn.

Matplotlib draws text and axes; images are painted as tiles onto a canvas below: exact to the pixel,
and faster than an artist for each.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

DPI = 110
NO_LETTER = "\N{REPLACEMENT CHARACTER}"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.facecolor": "none",
    "text.color": "#222222",
    "text.parse_math": False,  # a class may be called `$`
    "axes.edgecolor": "#888888",
    "axes.facecolor": "none",  # tiles lie below
    "axes.labelcolor": "#222222",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


class Sheet:
    """A figure measured in pixels from its top left corner, over a canvas with all its tiles."""

    def __init__(self, width: int, height: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        # A hundredth of a pixel more, as Agg rounds down.
        self.figure = Figure(((width + 0.01) / DPI, (height + 0.01) / DPI), DPI)
        self.agg = FigureCanvasAgg(self.figure)
        self.canvas = np.full((height, width, 3), 255, np.uint8)

    def axes(self, left: int, top: int, width: int, height: int):
        """Adds Matplotlib axes whose frame has these pixels; its labels lie outside."""
        bottom = self.height - top - height
        box = left / self.width, bottom / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def text(self, x: float | int, y: float | int, text: str, **style) -> None:
        """Writes text from x on, its middle at y; `style` goes to Matplotlib's `Text`."""
        position = x / self.width, 1 - y / self.height
        self.figure.text(*position, text, **{"va": "center_baseline", **style})

    def paste(self, x: int, y: int, tile: UInt8[np.ndarray, "h w 3"], side: int) -> None:
        """Paints a tile at (x, y), scaled so that its longer edge has `side` pixels."""
        height, width = (max(1, n * side // max(tile.shape[:2])) for n in tile.shape[:2])
        rows = np.arange(height) * tile.shape[0] // height
        columns = np.arange(width) * tile.shape[1] // width
        self.canvas[y : y + height, x : x + width] = tile[rows[:, None], columns]

    def paste_filter(
        self, x: int, y: int, kernel: Float[np.ndarray, "kh kw c"], colours, scale: int
    ) -> None:
        """Paints one filter as a row of framed tiles, `scale` pixels a weight."""
        height, width, c = kernel.shape
        step = scale * width + 1
        self.canvas[y - 1 : y + scale * height + 1, x - 1 : x + c * step] = 160
        for channel in range(c):
            tile = colours.to_rgba(kernel[..., channel], bytes=True)[..., :3]
            self.paste(x + channel * step, y, tile, scale * max(height, width))

    def colour_bar(self, left: int, top: int, height: int, colours, label: str) -> None:
        """Draws the scale of `colours`, a `ScalarMappable`, 100 pixels wide with its numbers."""
        from matplotlib.ticker import MaxNLocator

        low, high = colours.get_clim()
        ramp = colours.to_rgba(np.linspace(high, low, height), bytes=True)[:, None, :3]
        self.canvas[top : top + height, left : left + 12] = ramp
        ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
        for tick in ticks:
            y = top + round((high - tick) / (high - low) * (height - 1))
            self.canvas[y, left + 12 : left + 16] = 120
            self.text(left + 20, y + 1, f"{tick:g}".replace("-", "−"), color="#444444")
        self.text(left + 80, top + height / 2, label, rotation=90, ha="center", va="center")

    def save(self, path: Path | str) -> None:
        """Lays the drawing over the canvas and writes a PNG without dates or versions."""
        from PIL import Image

        self.agg.draw()
        drawn = Image.fromarray(np.asarray(self.agg.buffer_rgba()))
        sheet = Image.fromarray(self.canvas)
        sheet.paste(drawn, mask=drawn)
        sheet.save(path, "PNG", dpi=(DPI, DPI), compress_level=3)


@contextmanager
def open_sheet(path: Path | str, width: int, height: int) -> Iterator[Sheet]:
    """Opens an empty sheet in the house style, whatever the user's own style, and saves it."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        sheet = Sheet(width, height)
        yield sheet
        sheet.save(path)


def legible(text: str, limit: int) -> str:
    """Shortens a long text and replaces the letters that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(STYLE["font.family"]))
    text = "".join(letter if font.get_char_index(ord(letter)) else NO_LETTER for letter in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fit(pixels: int, side: int) -> int:
    """The largest whole multiple of `pixels` up to `side`; `side` itself if there is none."""
    return side // pixels * pixels or side


def colour_map(name: str, low: float, high: float, power: float = 1.0):
    """Makes a map from numbers to colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    return ScalarMappable(PowerNorm(power, low, high), name)


def legible_names(class_names: Sequence[str], limit: int) -> list[str]:
    """Makes the names legible; one that the font cannot write becomes the class's number."""
    names = [legible(name, limit) for name in class_names]
    return [str(index) if NO_LETTER in name else name for index, name in enumerate(names)]


def counted(number: int, noun: str) -> str:
    """`1 filter`, `6 filters`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def as_rgb(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours to show; of neither 1 nor 3 channels the mean."""
    if image.shape[2] == 3:
        return image
    return np.repeat(image.mean(2, keepdims=True).astype(np.uint8), 3, 2)


def largest(values: Shaped[np.ndarray, "..."]) -> float:
    """The largest finite absolute value; 1 if there is none above 0."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def grid(count: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most`, with the last row as full as can be."""
    rows = math.ceil(count / most)
    return rows, math.ceil(count / rows)
