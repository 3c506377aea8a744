"""The examples that need no other framework; the others are tested beside what they use."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import machine
from lenet_jax.data import dataset
from lenet_jax.errors import UserError
from lenet_jax.nn import ops
from tests.support import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["gradient_norms", "own_data", "use_stablehlo"])
def test_an_example_without_arguments_prints_its_usage(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().err.startswith("usage: ")


def test_gradient_norms_are_those_of_single_gradients(notes_run, monkeypatch, capsys):
    split = dataset.load("mnist", valid_examples=0).train
    few = dataset.Split(split.images[:70], split.labels[:70])
    data = SimpleNamespace(train=few)
    monkeypatch.setattr(dataset, "load", lambda *args, **options: data)
    monkeypatch.setattr(sys, "argv", ["gradient_norms.py", str(notes_run)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(EXAMPLES / "gradient_norms.py"), run_name="__main__")
    assert "50 % of 70 norms are at most" in capsys.readouterr().out
    network = lenet_jax.load(notes_run)
    example = runpy.run_path(str(EXAMPLES / "gradient_norms.py"))
    norms = np.asarray(example["gradient_norms"](network, few))
    graphdef, params = nnx.split(network.model, nnx.Param)

    @jax.jit
    def norm_of(params, image, label):
        def loss(params):
            x = ops.normalise(image[None], network.mean, network.std)
            return ops.cross_entropy(nnx.merge(graphdef, params)(x), label[None])[0]

        return optax.tree.norm(jax.grad(loss)(params))

    for index in (0, 1, 69):
        expected = norm_of(params, few.images[index], few.labels[index])
        np.testing.assert_allclose(norms[index], expected, rtol=1e-4)


def test_own_data_are_arrays_or_files(tmp_path, no_figures, monkeypatch, capsys):
    example = runpy.run_path(str(EXAMPLES / "own_data.py"))
    small = {"data": {"image_size": 28}, "model": {"backend": "plain"}}
    load = SimpleNamespace(
        load=lambda _, values: configs.replace(tiny.config(**small), dict(values))
    )
    fewer = {"configs": load, "draw": lambda count: example["draw"](count // 20)}
    for name, value in fewer.items():
        monkeypatch.setitem(example["main"].__globals__, name, value)
    monkeypatch.setattr(machine, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(machine, "use_cores", lambda: None)
    assert example["main"]([str(tmp_path / "run")]) == 0
    assert "data given in Python, input 28×28×1, 2 classes, test acc" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no file or folder absent"):
        example["main"]([str(tmp_path / "other"), "./absent"])
