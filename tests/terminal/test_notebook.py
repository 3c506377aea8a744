import sys

from lenet_jax.terminal import notebook
from lenet_jax.terminal.console import Console
from lenet_jax.terminal.notebook import Bar

ROW = {
    "epoch": 1,
    "train/loss": 0.0653,
    "train/accuracy": 0.9802,
    "learning_rate": 0.0312,
    "images_per_second": 41_234.4,
}


def test_what_a_cell_starts_prints_plain_lines_though_it_has_a_terminal(monkeypatch, terminal):
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    stream = terminal(40)
    monkeypatch.setattr(sys, "stdout", stream)
    console = Console()
    with console.compiling(), console.epochs(2) as epochs:
        epochs.advance(0.5)
        epochs.finish(ROW)
    console.result({"status": "done"}, ["inspect --workdir=/home/somebody/run"])
    written = stream.getvalue()
    assert not {"\r", "\x1b"} & set(written) and "somebody" not in written
    assert written.startswith("compiling…\nepoch 1/2  train loss 0.0653 acc  98.02 %  lr")


def test_the_bar_says_in_words_what_it_shows(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(notebook.time, "perf_counter", lambda: now[0])
    bar = Bar("epochs", 12, 2)
    assert repr(bar) == "epochs 2/12"
    now[0] += 60
    bar.update(completed=4.5, text="loss  0.1")
    assert repr(bar) == "epochs 4/12, loss 0.1, 3:00 left"
    assert (
        '<progress value="4.500" max="12"' in bar._repr_html_() and repr(bar) in bar._repr_html_()
    )
    bar.update(completed=12)
    assert repr(bar) == "epochs 12/12, loss 0.1, 1:00"
