"""The house style: figures measured in pixels, and pictures on them.

Matplotlib is imported late, without pyplot: figures belong to who draws them.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
from jaxtyping import Float, Shaped, UInt8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
else:  # importing this module does not import Matplotlib, whose classes annotations name
    Axes = ScalarMappable = Figure = Any

P = ParamSpec("P")
R = TypeVar("R")
Number: TypeAlias = float | int
End: TypeAlias = tuple[np.ndarray, np.ndarray, str, Any]  # x and y of a line, its name and colour

DPI = 110
WIDTH = 1000  # pixels; what a figure aims at
HEADER = 58  # pixels above everything else, for the title and the line below it
INK, FAINT, RULE = "#222222", "#666666", "#e6e6e6"
# Blue, vermilion and more, distinct for colour-blind eyes. Source: Okabe, Ito, "Color universal
# design", 2008.
BLUE, VERMILION, GREEN, PURPLE, OCHRE = "#0072b2", "#d55e00", "#009e73", "#a2528a", "#7a6a00"
SERIES = BLUE, VERMILION, GREEN, PURPLE, OCHRE
MISSING_GLYPH = "\N{REPLACEMENT CHARACTER}"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called `$`
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "image.interpolation": "none",
    "image.composite_image": False,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",  # text stays text: smaller, and it can be searched
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}
# Drawing may fail in ways of the libraries' own (fonts, memory); results are worth more than
# pictures, so each of these is a warning where a run or a sweep draws.
DRAWING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def house_style(**changes: Any) -> Iterator[None]:
    """Draws in the house style, whatever the user's own."""
    import matplotlib

    style: Any = {**STYLE, **changes}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes a function draw in the house style."""

    @functools.wraps(draw)
    def draw_in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with house_style():
            return draw(*args, **kwargs)

    return draw_in_style


def chart(
    width: int,
    height: int,
    title: str,
    subtitle: str = "",
    margins: tuple[Number, Number, Number, Number] | None = None,
) -> Figure:
    """A figure with a title, for `Figure.subplots`.

    Args:
        width: pixels at `DPI`.
        height: likewise.
        title: what is drawn.
        subtitle: the line below it.
        margins: pixels to the left of the axes, to the right and below, and the distance of two as
            a share of their width; None: constrained layout, which takes 0.1 s to find them.
    """
    if margins is None:
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        rect = 0.01, 0.01, 0.98, 0.99 - HEADER / height
        engine = ConstrainedLayoutEngine(rect=rect, w_pad=0.1, wspace=0.04)
        return _figure(width, height, title, subtitle, layout=engine)
    left, right, below, between = margins
    figure = _figure(width, height, title, subtitle)
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=below / height,
        top=1 - (HEADER + 24) / height,
        wspace=between,
    )
    return figure


def canvas(width: int, height: Number, title: str, subtitle: str = "") -> tuple[Figure, Axes]:
    """A figure with a title, and axes all over it on which pictures and text lie at pixels.

    Args:
        width: pixels at `DPI`; x is counted from the left edge.
        height: likewise; y is counted from the upper edge.
        title: what is drawn.
        subtitle: the line below it.
    """
    figure = _figure(width, height, title, subtitle)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _figure(width: Number, height: Number, title: str, subtitle: str, **options: Any) -> Figure:
    from lenet_jax.plots.notebook import NotebookFigure  # late: it imports Matplotlib

    # A hundredth of a pixel more, as Agg rounds down.
    figure = NotebookFigure(((width + 0.01) / DPI, (height + 0.01) / DPI), DPI, **options)
    for y, text, weight in ((20, title, "bold"), (42, subtitle, "normal")):
        size = fitting_size(text, 11 if weight == "bold" else 9, width - 32, weight)
        place = {"va": "center_baseline", "in_layout": False}
        figure.text(16 / width, 1 - y / height, text, size=size, weight=weight, **place)
    return figure


def picture(
    axes: Axes, x: Number, y: Number, pixels: UInt8[np.ndarray, "h w c"], width: Number
) -> Number:
    """Shows pixels, RGB or RGBA, with their upper left corner at (x, y): the height."""
    height = width * pixels.shape[0] / pixels.shape[1]
    extent = (x, x + width, y + height, y)
    axes.imshow(pixels, extent=extent, aspect="auto", clip_on=False)
    return height


def write(
    axes: Axes, x: Number, y: Number, text: str, *, room: Number | None = None, **style: Any
) -> None:
    """Writes a line from x on, its middle at y, smaller where it is wider than `room` pixels.

    `style` goes to Matplotlib's `Text`.
    """
    style = {"va": "center_baseline", "size": STYLE["font.size"], "weight": "normal", **style}
    if room is not None:
        style["size"] = fitting_size(text, style["size"], room, style["weight"])
    axes.text(x, y, text, **style)


def fitting_size(text: str, size: Number, room: Number, weight: str = "normal") -> Number:
    """The size of the type, from 4 to `size` points, at which a line is in `room` pixels."""
    from matplotlib.backends.backend_agg import get_hinting_flag
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=STYLE["font.family"], weight=weight)))
    while True:  # letters are as wide as whole pixels, so that widths are not in proportion
        font.set_size(size, DPI)
        font.set_text(text, 0.0, flags=get_hinting_flag())
        if size <= 4 or font.get_width_height()[0] / 64 <= room:
            return size
        size -= 0.25


def colour_bar(
    figure: Figure, x: Number, y: Number, height: Number, colours: ScalarMappable, label: str
) -> None:
    """Draws the scale of `colours`, about 80 pixels wide, with its upper left corner at (x, y)."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    right, bottom = figure.get_size_inches() * DPI
    axes = figure.add_axes((x / right, 1 - (y + height) / bottom, 12 / right, height / bottom))
    low, high = colours.get_clim()
    assert low is not None and high is not None
    ramp = paint(np.linspace(high, low, round(height))[:, None], colours)
    axes.imshow(ramp, extent=(0, 1, low, high), aspect="auto")
    axes.set_xticks([])
    axes.set_ylabel(label)
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    # Above the bar, the power of ten that small or large numbers have in common, so that they and
    # the label fit beside it.
    ticks = ScalarFormatter(useMathText=False)
    ticks.set_powerlimits((-3, 4))
    axes.yaxis.set_major_formatter(ticks)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def key(owner: Axes | Figure, entries: Sequence[tuple[str, str]], corner: str = "") -> None:
    """Writes what colours mean, in place of a legend.

    Args:
        owner: axes, in a corner of which it is written, a line for each; or a figure, whose second
            line it becomes.
        entries: each text and its colour.
        corner: of axes, such as `upper right`.
    """
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker

    texts: list[Any] = [TextArea(text, textprops={"color": colour}) for text, colour in entries]
    if corner:
        side: Any = corner.split()[1]
        box = VPacker(children=texts, pad=0, sep=3, align=side)
        anchored = AnchoredOffsetbox(corner, child=box, frameon=False)
    else:
        figure = cast(Figure, owner)
        width, height = figure.get_size_inches() * DPI
        box, at = HPacker(children=texts, pad=0, sep=12), (16 / width, 1 - 42 / height)
        where: Any = {"bbox_to_anchor": at, "bbox_transform": figure.transFigure}
        tight: Any = {"borderpad": 0, "pad": 0, "frameon": False}
        anchored = AnchoredOffsetbox("center left", child=box, **where, **tight)
    anchored.set_in_layout(False)
    owner.add_artist(anchored)


def line_look(place: int) -> tuple[str, str]:
    """How the line at a place differs from the others in grey: its dashes and its marker."""
    return ("-", "--", "-.", ":")[place % 4], "os^Dv"[place % 5]


def label_ends(axes: Axes, lines: Sequence[End]) -> None:
    """Writes the names of lines to the right of their ends, apart from each other.

    The scales and limits of the axes must be final, and what is beside them drawn.

    Args:
        axes: with the lines.
        lines: the x, y, name and colour of each.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = cast(Figure, axes.get_figure())
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        engine.execute(figure)  # for the height of the axes
    ends = []
    for x, y, name, colour in lines:
        finite = np.flatnonzero(np.isfinite(y))
        if len(finite):
            end = axes.transData.transform((x[finite[-1]], y[finite[-1]]))
            ends.append((float(axes.transAxes.inverted().transform(end)[1]), name, colour))
    ends.sort(key=lambda end: end[0])
    least = min(13 / axes.get_window_extent().height, 1 / len(lines))
    places: list[float] = []
    for height, *_ in ends:
        places.append(max([height, *(place + least for place in places[-1:])]))
    over = max([0.0, *(place - 1 for place in places[-1:])])
    top = math.inf
    for index in reversed(range(len(places))):  # down again where they left the axes
        places[index] = min(places[index] - over * (top == math.inf), top - least)
        top = places[index]
    for place, (_, name, colour) in zip(places, ends, strict=True):
        axes.annotate(
            name,
            (1, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=colour,
            annotation_clip=False,
        )


def mosaic(
    tiles: UInt8[np.ndarray, "n h w 3"], columns: int, scale: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Tiles in rows of `columns`, `scale` pixels a pixel, with grey lines around each."""
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    shape = rows * (height + 1) + 1, columns * (width + 1) + 1, channels
    pixels = np.full(shape, 160, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // columns * (height + 1) + 1, place % columns * (width + 1) + 1
        pixels[y : y + height, x : x + width] = tile
    return pixels


def legible(text: str, limit: int) -> str:
    """Shortens a long text in its middle and replaces the letters that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(STYLE["font.family"]))
    text = "".join(letter if font.get_char_index(ord(letter)) else MISSING_GLYPH for letter in text)
    end = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[: limit - 1 - end]}…{text[-end:]}"


def legible_names(class_names: Sequence[str], limit: int) -> list[str]:
    """Makes the names legible; one that the font cannot write becomes the class's number."""
    names = [legible(name, limit) for name in class_names]
    return [str(index) if MISSING_GLYPH in name else name for index, name in enumerate(names)]


def fit(pixels: int, side: int) -> int:
    """The largest whole multiple of `pixels` up to `side`; `side` itself if there is none."""
    return side // pixels * pixels or side


def colour_map(name: str, low: float, high: float, power: float = 1.0) -> ScalarMappable:
    """Makes a map from numbers to colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    return ScalarMappable(PowerNorm(power, low, high), name)


def paint(values: Float[np.ndarray, "..."], colours: ScalarMappable) -> UInt8[np.ndarray, "... 3"]:
    """The colours of numbers."""
    flat = colours.to_rgba(values.reshape(1, -1), bytes=True)[0, :, :3]
    return np.asarray(flat).reshape(*values.shape, 3)


def as_rgb(image: UInt8[np.ndarray, "*b h w c"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """Colours to show; of neither 1 nor 3 channels the mean."""
    if image.shape[-1] == 3:
        return image
    return np.repeat(image.mean(-1, keepdims=True).astype(np.uint8), 3, -1)


def largest(values: Shaped[np.ndarray, "..."]) -> float:
    """The largest finite absolute value; 1 if there is none above 0."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def grid(count: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most`, with the last row as full as can be."""
    rows = math.ceil(count / most)
    return rows, math.ceil(count / rows)
