from lenet_jax.plots.corruptions import plot_error_map
from lenet_jax.plots.output import settle
from lenet_jax.statistics import summarise


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_heat_map_has_means_or_where_networks_are_stuck_medians():
    errors = {
        "a": {"fog": summarise([1.0, 2.0, 90.0], 100.0), "mean": summarise([10.0], 100.0)},
        "b": {"fog": summarise([], 100.0), "mean": summarise([], 100.0)},
    }
    figure = settle(plot_error_map(errors, title="runs/a"))
    assert texts(figure) == ["31.0\n± 51.1", "10.0", "×", "×"]
    figure = settle(plot_error_map(errors, title="runs/a", stuck=1))
    assert texts(figure) == ["2.00\n1.50–46.00", "10.0\n10.0–10.0", "×", "×"]
    (note,) = (text for text in figure.texts if "stuck" in text.get_text())
    assert "median, 25–75 % over the finished networks, 1 of which" in note.get_text()
