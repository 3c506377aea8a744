"""The rounds of the lottery tickets, on tiny data."""

import contextlib
import io
import itertools

import numpy as np
import pytest

import lenet_jax
from experiments import lottery_ticket
from lenet_jax import config as configs
from lenet_jax.plots.output import png
from tests.support import tiny

pytestmark = pytest.mark.slow

SEEDS, ROUNDS, EPOCHS = range(3), 2, 2


def train(folder):
    bars = folder / "bars"
    changes = {"data.name": str(bars), "train.num_epochs": EPOCHS, "schedule.name": "constant"}
    if not bars.exists():
        tiny.write_idx_folder(bars)
    config = configs.load("configs/notes.py", (tiny.MLP | changes).items())
    with contextlib.redirect_stdout(io.StringIO()) as output:
        rounds = lottery_ticket.train(config, folder / "rounds", ROUNDS, SEEDS, "layer", 1)
    return rounds, output.getvalue()


def test_rounds_prune_what_is_left_and_are_trained_once(tmp_path, no_figures):
    rounds, output = train(tmp_path)
    assert output.count("compiling…") == 1 + ROUNDS
    total = 256 * 6 + 6 * 5 + 5 * 6
    left = total
    sizes = [256 * 6, 6 * 5, 5 * 6]
    for row in rounds[1:]:
        sizes = [size - round(0.2 * size) for size in sizes]
        assert row["left"] == pytest.approx(sum(sizes) / total, abs=1e-6)
        assert sum(sizes) < left
        left = sum(sizes)
    stacked = [
        lenet_jax.load_sweep(lottery_ticket.folder_of(tmp_path / "rounds", number)).weights()
        for number in range(ROUNDS + 1)
    ]
    kept = [{name: array[:] != 0 for name, array in s.items() if array.ndim > 2} for s in stacked]
    for before, after in itertools.pairwise(kept[1:]):
        for name in after:
            assert (after[name] <= before[name])[:6].all()  # of both that are rewound
            assert (after[name] <= before[name])[9:].all()
    for masks in kept[1:]:
        for own in masks.values():
            np.testing.assert_array_equal(own[6:9], own[:3])  # redrawn: those of rewound
            assert (own[9:] != own[:3]).any()
    again, output = train(tmp_path)
    assert again == rounds and "compiling…" not in output
    answer = {
        **{"seeds": 3, "rounds": ROUNDS, "epochs": EPOCHS, "rewind": 1, "train_examples": 70},
        "networks": {"mlp": {"rounds": rounds, "pytorch": None}},
    }
    assert png(lottery_ticket.plot(answer)).startswith(b"\x89PNG")
    lines = lottery_ticket.to_markdown(answer).splitlines()
    dense = rounds[0]["dense"]["test_accuracy"]
    cell = f"{np.mean(dense):.2f} ± {np.std(dense, ddof=1):.2f}"
    assert f"| 100.0 | {' | '.join([cell] * 4)} |" in lines
    assert any(line.startswith("| 64.") for line in lines)
