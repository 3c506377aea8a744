"""Draws the floors of the package from its imports: `python -m docs.draw_floors`.

The floors are those of the contract in pyproject.toml that CI checks with import-linter; rooms are
modules and packages of `lenet_jax`, arrows are imports. Everything imports the ground floor, so its
arrows are counted instead of drawn.
"""

import tomllib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import grimp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "floors.svg"
PACKAGE = "lenet_jax"
ABOVE = ("configs", "experiments")

# From the ground up.
NAMES = (
    *("ground", "reading files", "one subject each", "train, and use"),
    *("whole runs", "commands", "start here"),
)
COLOURS = ("#6b7280", "#8c564b", "#0072b2", "#007d5a", "#a8690b", "#b6432a", "#6f4a9b")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "floors",
}

WIDTH, STOREY, ROOM_HEIGHT, CHARACTER = 1200, 128, 48, 9.2  # pixels
LEFT, RIGHT, TOP = 150, 24, 66
LANE = 4.5  # between two arrows in one gap


class House(NamedTuple):
    """Rooms on floors, from the ground up, and who imports whom."""

    floors: list[list[str]]
    modules: dict[str, int]  # of each room
    imports: list[tuple[str, str]]  # importer, imported

    def floor_of(self, room: str) -> int:
        """The number of a room's floor, from 0."""
        return next(i for i, rooms in enumerate(self.floors) if room in rooms)

    def summary(self) -> str:
        """The counts: rooms, floors, imports, and how many of these do not lead downward."""
        wrong = sum(self.floor_of(a) <= self.floor_of(b) for a, b in self.imports)
        return (
            f"{len(self.modules)} rooms on {len(self.floors)} floors, {len(self.imports)} arrows, "
            + (f"{wrong} of them not downward" if wrong else "all downward")
        )


def read_house() -> House:
    """Reads the floors from the contract, and the imports from the code."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    floors = [[name.strip() for name in layer.split("|")] for layer in reversed(layers)]
    floors[-2].append(PACKAGE)  # its __init__.py: lenet_jax.train and lenet_jax.load
    floors[-1].extend(ABOVE)
    graph = grimp.build_graph(PACKAGE, *ABOVE, cache_dir=None)
    imports, modules = set(), dict.fromkeys((room for rooms in floors for room in rooms), 0)
    for module in graph.modules:
        modules[_room(module)] += 1
        for other in graph.find_modules_directly_imported_by(module):
            imports.add((_room(module), _room(other)))
    imports = sorted((a, b) for a, b in imports if a != b)
    return House(_order(floors, imports), modules, imports)


def draw(house: House) -> bytes:
    """Draws the house as SVG; the same house gives the same bytes."""
    height = TOP + STOREY * len(house.floors)
    with matplotlib.rc_context(STYLE):
        figure = Figure((WIDTH / 72, height / 72), dpi=72)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.axis("off")
        ground = sum(house.floor_of(b) == 0 for _, b in house.imports)
        axes.text(24, 26, "lenet_jax: who imports whom", size=17, weight="bold", va="center")
        note = f"{house.summary()}; the {ground} to the ground floor are counted, not drawn"
        axes.text(24, 50, note, size=11.5, color="#555555", va="center")
        boxes = _boxes(house)
        for index, name in zip(range(len(house.floors)), NAMES, strict=True):
            _draw_floor(axes, height, index, name)
        for room, (x, y, width) in boxes.items():
            _draw_room(axes, house, room, x, y, width)
        for (importer, _), points in _routes(house, boxes).items():
            _draw_arrow(axes, points, COLOURS[house.floor_of(importer)])
        file = BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Description": _listing(house)})
    return file.getvalue()


def _room(module: str) -> str:
    root, _, rest = module.partition(".")
    return rest.partition(".")[0] if root == PACKAGE and rest else root


def _order(floors: Sequence[list[str]], imports: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Puts rooms above those that they import, so that arrows cross less."""
    floors = [sorted(rooms) for rooms in floors]
    neighbours: dict[str, list[str]] = {}
    for a, b in imports:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    for _ in range(8):
        place = {r: (i + 0.5) / len(rooms) for rooms in floors for i, r in enumerate(rooms)}
        for index, rooms in enumerate(floors):
            mean = {
                r: np.mean(
                    [place[n] for n in neighbours.get(r, [r]) if n not in floors[0]] or [0.5]
                )
                for r in rooms
            }
            floors[index] = sorted(rooms, key=lambda room: (round(float(mean[room]), 6), room))
            place |= {r: (i + 0.5) / len(rooms) for i, r in enumerate(floors[index])}
    return floors


def _boxes(house: House) -> dict[str, tuple[float, float, float]]:
    """Left, top and width of each room."""
    boxes, span = {}, WIDTH - LEFT - RIGHT
    for index, rooms in enumerate(house.floors):
        top = TOP + STOREY * (len(house.floors) - 1 - index) + (STOREY - ROOM_HEIGHT) / 2
        widths = [max(96.0, 34 + CHARACTER * len(room)) for room in rooms]
        gap = (span - sum(widths)) / (len(rooms) + 1)
        left = LEFT + gap
        for room, width in zip(rooms, widths, strict=True):
            boxes[room] = left, top, width
            left += width + gap
    return boxes


def _draw_floor(axes: Any, height: float, index: int, name: str) -> None:
    top = height - STOREY * (index + 1)
    shade = "#f6f7f9" if index % 2 == 0 else "#ffffff"
    axes.fill_between([0, WIDTH], top, top + STOREY, color=shade, linewidth=0, zorder=0)
    middle = top + STOREY / 2
    axes.text(
        24, middle - 10, str(index), size=20, color=COLOURS[index], weight="bold", va="center"
    )
    axes.text(24, middle + 12, name, size=11, color="#555555", va="center")


def _draw_room(axes: Any, house: House, room: str, x: float, y: float, width: float) -> None:
    colour = COLOURS[house.floor_of(room)]
    box = FancyBboxPatch(
        (x, y),
        width,
        ROOM_HEIGHT,
        boxstyle="round,pad=0,rounding_size=7",
        facecolor="white",
        edgecolor=colour,
        linewidth=1.4,
        zorder=3,
    )
    axes.add_patch(box)
    centre = {"ha": "center", "va": "center", "zorder": 4}
    middle = x + width / 2
    axes.text(middle, y + 18, room, size=13, weight="bold", color="#222222", **centre)
    count = house.modules[room]
    told = f"{count} modules" if count > 1 else "1 module"
    if house.floor_of(room) == 0:
        told = f"for {sum(b == room for _, b in house.imports)} rooms"
    axes.text(middle, y + 36, told, size=9.5, color="#777777", **centre)


def _routes(
    house: House, boxes: Mapping[str, tuple[float, float, float]]
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """The points that each arrow passes, downward: between two of them it bends.

    It leaves a room at a place of its own, passes the floors between by the gap nearest to its way,
    and arrives at a place of its own.
    """
    arrows = [pair for pair in house.imports if house.floor_of(pair[1]) > 0]
    centre = {name: left + width / 2 for name, (left, _, width) in boxes.items()}
    gates: dict[tuple[str, str], list[tuple[float, float]]] = {}  # floor's y, gap's middle
    users: dict[tuple[float, float], list[tuple[str, str]]] = {}
    for pair in arrows:
        a, b = pair
        gates[pair], (x, y), (x1, y1) = [], (centre[a], boxes[a][1]), (centre[b], boxes[b][1])
        for floor in range(house.floor_of(a) - 1, house.floor_of(b), -1):
            row = sorted(boxes[room] for room in house.floors[floor])
            edges = [LEFT - 20, *(e for left, _, w in row for e in (left, left + w)), WIDTH]
            middles = [(p + q) / 2 for p, q in zip(edges[::2], edges[1::2], strict=True)]
            top = row[0][1]
            straight = x + (x1 - x) * (top - y) / (y1 - y)
            x, y = min(middles, key=lambda middle: abs(middle - straight)), top
            gates[pair].append((y, x))
            users.setdefault((y, x), []).append(pair)

    def port(name: str, others: list[str], other: str) -> float:
        left, _, width = boxes[name]
        others = sorted(others, key=lambda o: (centre[o], o))
        return left + width * (others.index(other) + 1) / (len(others) + 1)

    routes = {}
    for pair in arrows:
        a, b = pair
        start = port(a, [d for c, d in arrows if c == a], b), boxes[a][1] + ROOM_HEIGHT
        end = port(b, [c for c, d in arrows if d == b], a), boxes[b][1] - 5
        points = [start]
        for y, x in gates[pair]:
            lanes = sorted(users[y, x], key=lambda p: (centre[p[0]] + centre[p[1]], p))
            x += LANE * (lanes.index(pair) - (len(lanes) - 1) / 2)
            points += [(x, y), (x, y + ROOM_HEIGHT)]
        routes[pair] = [*points, end]
    return routes


def _draw_arrow(axes: Any, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Draws curves from each first to each second point, and straight lines between."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in zip(points[::2], points[1::2], strict=True):
        bend = 0.55 * (y1 - y0)
        if vertices[-1] != (x0, y0):
            vertices.append((x0, y0))
            codes.append(Curve.LINETO)
        vertices += [(x0, y0 + bend), (x1, y1 - bend), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    curve = Curve(vertices, codes)
    style = {"facecolor": "none", "linewidth": 1.1, "capstyle": "butt"}
    axes.add_patch(PathPatch(curve, edgecolor=colour, alpha=0.6, zorder=2, **style))
    x, y = points[-1]
    axes.fill([x - 3, x + 3, x], [y, y, y + 5], color=colour, linewidth=0, zorder=3)


def _listing(house: House) -> str:
    """Every arrow in words, for those who cannot see the drawing, and for the test."""
    lines = []
    for rooms in reversed(house.floors):
        for room in rooms:
            targets = ", ".join(b for a, b in house.imports if a == room)
            lines.append(f"{room} imports {targets or 'nothing'}.")
    return " ".join(lines)


if __name__ == "__main__":
    OUT.write_bytes(draw(read_house()))
    print(OUT.relative_to(ROOT))
