"""Pieces of a page that stands alone: images, tables and style are inside it, scripts are not."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

STYLE = Path(__file__).with_name("page.css")


def page(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # else a browser asks for one
            f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
            "</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def figure(caption: str, *content: str, style: str = "") -> str:
    """A figure; the caption is HTML and stands above."""
    inside = "".join(content)
    return f'<figure class="{style}"><figcaption>{caption}</figcaption>{inside}</figure>'


def image(pixels: UInt8[np.ndarray, "h w c"], alt: str) -> str:
    """An image of its own, in grey or colour, and what to say to those who do not see it."""
    from PIL import Image

    stream = io.BytesIO()
    shown = pixels if pixels.shape[2] == 3 else pixels.mean(2).astype(np.uint8)
    Image.fromarray(shown).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    height, width = pixels.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img alt="{escape(alt)}" {size} src="data:image/png;base64,{data}">'


def montage(tiles: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Tiles in a square, enlarged so that the grey between them is thin."""
    scale, gap = max(1, 42 // tiles.shape[1]), 2
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = tiles.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = rows * (height + gap) - gap, columns * (width + gap) - gap, channels
    sheet = np.full(shape, 150, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // columns * (height + gap), place % columns * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def stats(values: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: what each is, the number, and what to add to it."""
    cells = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in values
    ]
    return f'<dl class="stats">{"".join(cells)}</dl>'


def bars(values: Iterable[tuple[str, float]]) -> str:
    """Shares with their names, as bars."""
    rows = [
        f'<dt>{escape(name)}</dt><dd class="bar"><i style="width:{100 * share:.2f}%"></i></dd>'
        f'<dd class="much">{100 * share:.2f} %</dd>'
        for name, share in values
    ]
    return f'<dl class="bars">{"".join(rows)}</dl>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose first column names the rows; numbers are on the right.

    Args:
      caption: what is in it; may be empty.
      header: the names of the columns; none for a table without.
      rows: the cells.
    """
    body = [
        f'<tr><th scope="row">{escape(str(name))}</th>{"".join(map(_cell, cells))}</tr>'
        for name, *cells in rows
    ]
    head = "".join(
        f'<th scope="col"{" class=n" if index else ""}>{escape(name)}</th>'
        for index, name in enumerate(header)
    )
    return (
        f'<div class="wide"><table>{f"<caption>{escape(caption)}</caption>" if caption else ""}'
        f"{f'<thead><tr>{head}</tr></thead>' if header else ''}<tbody>{''.join(body)}</tbody>"
        "</table></div>"
    )


def confusion(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """The confusion matrix as a table; its colours are shares of the true class."""
    totals = counts.sum(1)
    share = counts / np.maximum(totals, 1)[:, None]
    most = max((share - np.diag(np.diagonal(share))).max(), 1e-9)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in class_names)
    rows = []
    for true, name in enumerate(class_names):
        cells = []
        for guess, number in enumerate(counts[true]):
            tint = 0.08 + 0.72 * math.sqrt(share[true, guess] / most) if number else 0
            style = " class=right" if guess == true else f' style="--share:{tint:.2f}"'
            cells.append(f"<td{style if number else ''}>{number or ''}</td>")
        cells.append(f"<td>{100 * share[true, true]:.1f}</td>")
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<table class="confusion"><thead><tr><td></td>{head}<th scope="col">recall</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    if isinstance(value, str):
        return f"<td{' class=n' if len(value) <= 16 else ''}>{escape(value)}</td>"
    words = {True: "yes", False: "no", None: "–"}
    if value is None or isinstance(value, bool):
        return f"<td class=n>{words[value]}</td>"
    return f"<td class=n>{value:.6g}</td>".replace("-", "−")
