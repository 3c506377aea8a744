"""The drawing of the floors is that of the code."""

import re

import matplotlib

from docs import draw_floors


def test_the_drawing_is_up_to_date():
    drawn, committed = draw_floors.draw(draw_floors.read_house()), draw_floors.OUT.read_bytes()
    again = "run python -m docs.draw_floors"
    assert listing(drawn) == listing(committed), again
    # Versions of Matplotlib differ in how they write the same drawing.
    if f"Matplotlib v{matplotlib.__version__}," in committed.decode():
        assert drawn == committed, again


def listing(svg):
    """Every arrow, in words."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", svg.decode(), re.DOTALL)
    assert found is not None
    return found[1]
