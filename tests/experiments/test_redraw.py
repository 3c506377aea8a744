"""The figures of `results/`, drawn from their files."""

import shutil
from pathlib import Path

import pytest

from experiments import redraw
from lenet_jax.errors import UserError

RESULTS = Path("results")


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        (
            "fast/summary.json",
            ["LeNet 6–12–120–84 on mnist", "360 networks", "optimizer.learning_rate"],
        ),
        ("learning_rate/summary.json", ["21 stuck near chance", "chance", "0.0125", "★ best"]),
        ("accuracy_notes.json", ["configs/notes.py", "n = 100 seeds", "test error, %"]),
        ("benchmark_cpu.json", ["n = 7 rounds", "lenet5, train, batch 64", "images per second"]),
        ("know_together.json", ["n = 64 seeds", "temperature-scaled", "loss barrier, nats"]),
        ("lottery_ticket.json", ["random masks", "rewound to epoch 1", "(log scale)"]),
        ("lenet_1998.json", ["trained as then", "published in 1998", "LeNet-5"]),
        ("photographs.json", ["n = 200 of each kind", "forms, boards, cameras"]),
        ("robustness.json", ["n = 20 seeds", "above: test image 0", "root scale"]),
        ("torch_distribution.json", ["n = 40 seeds of PyTorch", "99.304 ± 0.055 %"]),
        ("torch_parity.json", ["initial weights moved by 1 ulp", "nats (log scale)"]),
    ],
)
def test_a_figure_is_drawn_from_its_file_alone(name, texts, tmp_path):
    if name == "torch_parity.json":
        pytest.importorskip("torch", reason="its script imports PyTorch")
    for file in (RESULTS / name).parent.glob("*"):
        if file.suffix in (".json", ".csv"):
            shutil.copy(file, tmp_path)
    (path,) = redraw.redraw(tmp_path / Path(name).name, [".svg"])
    content = path.read_text()
    missing = [text for text in texts if text not in content]
    assert not missing


def test_every_figure_of_the_results_can_be_drawn():
    drawn = {
        file.with_name("sweep.png") if file.name == redraw.SUMMARY else file.with_suffix(".png")
        for file in RESULTS.rglob("*.json")
        if file.name == redraw.SUMMARY or any(map(file.match, redraw.DRAWN_BY))
    }
    assert set(RESULTS.rglob("*.png")) <= drawn


def test_a_file_without_a_figure_draws_none(tmp_path):
    (tmp_path / "faults.json").write_text("{}")
    assert redraw.redraw(tmp_path / "faults.json", [".png"]) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("accuracy_x.json", None, "does not exist"),
        ("accuracy_x.json", "{", "is not JSON"),
        ("accuracy_x.json", "{}", "is not as its script writes it: 'runs'"),
        ("summary.json", "{}", "is not as its script writes it"),
    ],
)
def test_a_wrong_file_is_a_short_error(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        redraw.redraw(tmp_path / name, [".png"])
