"""A figure as the bytes of a file, PNG, SVG or PDF, and as an element of a page."""

import importlib
import io
import re
import zlib
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import numpy as np

from lenet_jax.errors import DISK_FAULTS, UserError, printable, show
from lenet_jax.plots.style import DPI, DRAWING_ERRORS, FAINT, INK, RULE, SERIES, Figure, house_style

# What a page makes of the colours, so that a figure suits its light and its dark style.
PAGE_COLOURS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    RULE: "var(--rule)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(SERIES)},
}

NOTEBOOK = "lenet_jax.plots.notebook"  # which imports Matplotlib
FORMATS = (".png", ".svg", ".pdf")


def parse_formats(text: str) -> list[str]:
    """The suffixes of `--format=png,svg,pdf`, some of `FORMATS`, each once.

    Raises:
      UserError: another format, or none.
    """
    suffixes = [f".{name.strip().lower()}" for name in text.split(",")]
    if not set(suffixes) <= set(FORMATS):
        names = ", ".join(suffix[1:] for suffix in FORMATS)
        raise UserError(f"--format={show(text)}: must be some of {names}, with commas between them")
    return list(dict.fromkeys(suffixes))


def draw(
    plot: Callable[[], Figure],
    stem: str,
    warn: Callable[[str], None],
    suffixes: Sequence[str] = (".png",),
) -> dict[str, bytes]:
    """The files of a figure, some of `FORMATS`; none, and a warning, if drawing it fails.

    Raises:
      OSError: the disk is full, or has failed.
    """
    try:
        figure = plot()
        return {f"{stem}{suffix}": render(figure, suffix) for suffix in suffixes}
    except DRAWING_ERRORS as error:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise
        warn(f"{stem}{suffixes[0]} was not drawn: {type(error).__name__}: {printable(error)}")
        return {}


def prepare() -> None:
    """Imports what a figure takes, for whoever has the time before there is one."""
    for name in ("matplotlib.backends.backend_agg", "PIL.PngImagePlugin", NOTEBOOK):
        importlib.import_module(name)


def png(figure: Figure, software: str = "lenet_jax") -> bytes:
    """The figure as a PNG file on white, the same bytes for the same figure.

    Args:
        figure: what to draw.
        software: the command that writes it, for the file's metadata.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image, PngImagePlugin

    stream = io.BytesIO()
    with house_style():
        _arrange(figure)
        agg = FigureCanvasAgg(figure)
        agg.draw()
    pixels = np.asarray(agg.buffer_rgba())[..., :3]
    made_by = PngImagePlugin.PngInfo()
    made_by.add_text("Software", software)
    Image.fromarray(pixels).save(stream, "PNG", dpi=(DPI, DPI), compress_level=3, pnginfo=made_by)
    return stream.getvalue()


def render(figure: Figure, suffix: str, software: str = "lenet_jax") -> bytes:
    """The figure as a file of one of `FORMATS`, the same bytes for the same figure.

    Args:
        figure: what to draw.
        suffix: of the file.
        software: the command that writes it, for the file's metadata.
    """
    if suffix == ".png":
        return png(figure, software)
    stream = io.BytesIO()
    # Letters are drawn or embedded: a reader of the file may lack the font.
    with house_style(**{"svg.fonttype": "path", "svg.hashsalt": "lenet_jax", "pdf.fonttype": 42}):
        _arrange(figure)
        undated = {"Creator": software, "Date" if suffix == ".svg" else "CreationDate": None}
        figure.savefig(stream, format=suffix[1:], metadata=undated)
    return stream.getvalue()


def svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element for a page, whose style sheet defines its colours.

    Args:
        figure: what to draw.
        label: what it shows, for those who do not see it; no two of a page may be equal, as the
            identifiers inside follow from it.
    """
    stream = io.StringIO()
    with house_style():
        _arrange(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", facecolor="none", metadata=nothing)
    text = stream.getvalue()
    root = ElementTree.fromstring(text)
    width = round(figure.get_figwidth() * DPI)
    view = {"viewBox": root.attrib["viewBox"], "style": f"--width:{width}px"}
    root.attrib = {"role": "img", "aria-label": label, **view}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = (element.text or "").strip() or None
        element.tail = None
        if f"#{element.get('id')}" not in text:  # nothing refers to it
            element.attrib.pop("id", None)
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib = {name: _for_page(value) for name, value in attributes.items()}
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    return _number_ids(ElementTree.tostring(root, encoding="unicode"), label)


def _number_ids(svg: str, label: str) -> str:
    """Names what is referred to by its place in the figure.

    Matplotlib's own names are hashes, among others of coordinates, whose last bits the layout
    leaves open.
    """
    prefix = f"f{zlib.crc32(label.encode()):08x}"
    numbers = {name: f"{prefix}_{n}" for n, name in enumerate(re.findall(r' id="(.*?)"', svg))}
    return re.sub(
        r'( id="|"#|url\(#)([^")]*)', lambda hit: hit[1] + numbers.get(hit[2], hit[2]), svg
    )


def settle(figure: Figure) -> Figure:
    """Completes a figure in the house style, so that others may draw it in their own."""
    with house_style():
        figure.draw_without_rendering()  # which makes the ticks, too
        figure.set_layout_engine(None)
    return figure


def _arrange(figure: Figure) -> None:
    """Lays out a figure for good: laid out again, it would differ a little."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def _for_page(value: str) -> str:
    """An attribute with the page's colours and font, and coordinates of three decimals."""
    if value.startswith("data:"):
        return value.replace(" ", "")
    for colour, variable in PAGE_COLOURS.items():
        value = value.replace(colour, variable)
    value = value.replace("font-family: 'DejaVu Sans'; ", "")
    return re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", value)
