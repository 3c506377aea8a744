import numpy as np
import pytest

from experiments import robustness
from lenet_jax.corruptions.mnist_c import CORRUPTIONS
from lenet_jax.errors import UserError


def row(clean, corrupted):
    accuracies = {f"test_accuracy/{name}": 1 - corrupted for name in CORRUPTIONS}
    return {"status": "done", "test_accuracy": 1 - clean, **accuracies}


def test_two_networks_are_compared_over_their_seeds(tmp_path):
    random = np.random.default_rng(0)
    errors = 0.2 + 0.02 * random.standard_normal((2, 20))
    rows = {
        name: [row(0.01, factor * error) for error in own]
        for (name, own), factor in zip(
            {"LeNet": errors[0], "LeNet-5": errors[1]}.items(), (1, 0.5), strict=True
        )
    }
    networks = {name: robustness.measure(own) for name, own in rows.items()}
    first = networks["LeNet"]
    assert first["n"] == 20
    assert first["errors"]["mean"]["mean"] == pytest.approx(errors[0].mean())
    assert first["excess"]["mean"] == pytest.approx(errors[0].mean() - 0.01)
    comparison = robustness.compare(networks)
    assert comparison["relative_mean_corruption_error"] == pytest.approx(0.5, rel=0.05)
    assert comparison["p"]["fog"] < 1e-9 and comparison["p"]["clean"] == 1

    answer = {
        **{"seeds": 20, "changes": {}, "networks": networks, "comparison": comparison},
        **{"seconds": 600.0, "pytorch": None},
    }
    text = robustness.to_markdown(answer)
    assert text.count("\n| ") == 19 and "| clean | 1.00 ± 0.00 | 1.00 ± 0.00 | 1.00 |" in text
    answer["pytorch"] = {"seconds": 3600, "timed_seconds": 10}
    assert "took 600 s; a loop" in robustness.to_markdown(answer)

    diverged = [*rows["LeNet"], {"status": "diverged"}]
    with pytest.raises(UserError, match="a member diverged"):
        robustness.measure(diverged)
