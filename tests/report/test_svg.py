import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from lenet_jax.report import svg


def parsed(text):
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img" and root.get("aria-label")
    return root


def test_ticks_are_round_and_inside():
    axis = svg.linear(0.013, 0.98, "x")
    assert [label for _, label in axis.ticks] == ["0.2", "0.4", "0.6", "0.8"]
    assert svg.linear(-3, 3, "x").ticks[0][1] == "−3"
    axis = svg.logarithmic(3, 30, "loss")
    assert [tick for tick, _ in axis.ticks] == pytest.approx([5, 10, 20])
    axis = svg.logarithmic(0.02, 30, "loss")
    assert [tick for tick, _ in axis.ticks] == pytest.approx([0.1, 1, 10])
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == 1
    assert svg.linear(2, 2, "x").place(2) == 0
    assert [label for _, label in svg.linear(1, 3, "epoch", least=1).ticks] == ["1", "2", "3"]


def test_a_curve_has_a_gap_where_there_is_no_number():
    line = svg.Line("c0", [1, 2, 3, 4], [1.0, math.nan, 3.0, 4.0])
    text = svg.line_chart("a <b>", svg.linear(1, 4, "x"), svg.linear(0, 4, "y"), [line], mark=2)
    root = parsed(text)
    assert root.get("aria-label") == "a <b>"
    (path,) = re.findall(r'class="line c0" d="([^"]*)"', text)
    assert re.findall("[ML]", path) == ["M", "M", "L"]
    assert text.count("<circle") == 3
    assert 'class="mark"' in text


def test_values_stay_on_the_sheet():
    line = svg.Line("c0", [0, 1, 2], [-5.0, 50.0, 0.5])
    upside_down = svg.logarithmic(0.1, 10, "y")
    upside_down = svg.Axis(upside_down.high, upside_down.low, [], "y", math.log10)
    for axis in (svg.linear(0, 1, "y"), upside_down):
        text = svg.line_chart("t", svg.linear(0, 2, "x"), axis, [line])
        numbers = [float(n) for n in re.findall(r'cy="([-\d.]+)"', text)]
        assert len(numbers) == 3
        assert all(svg.TOP - 1 <= n <= svg.HEIGHT - svg.BOTTOM + 1 for n in numbers)
    lowest = float(re.findall(r'cy="([-\d.]+)"', text)[0])
    assert lowest == svg.TOP  # the axis is upside down


def test_a_histogram_counts_everything():
    values = np.repeat([0.0, 1.0], [10, 1000]).astype(np.float32)
    root = parsed(svg.histogram("t", values, "weight"))
    heights = [float(bar.get("height", 0)) for bar in root.iter() if bar.tag.endswith("rect")]
    assert len(heights) == 2
    assert heights[1] > 2 * heights[0]
    parsed(svg.histogram("t", np.zeros(5, np.float32), "weight"))


def test_a_scatter_has_a_disc_for_each_point():
    axis = svg.linear(0, 1, "x")
    text = svg.scatter("t", axis, axis, [(0.2, 0.3, 4.0), (0.5, 0.5, 2.0)])
    assert text.count('class="disc"') == 2
    parsed(text)
