import functools
import os
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

import lenet_jax
from lenet_jax import data, export
from lenet_jax.storage import weights
from tests.support.root import ROOT


@pytest.fixture(scope="module")
def network(notes_run):
    return lenet_jax.load(notes_run)


@pytest.fixture(scope="module")
def images():
    return data.load("mnist").test.images[:300]


@pytest.fixture
def run(run_command):
    return functools.partial(run_command, export.main)


def difference(out):
    match = re.search(r"the logits of 500 test images differ by at most (\S+)", out)
    assert match
    return float(match[1])


@pytest.fixture(scope="module")
def stablehlo(network, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model.stablehlo"
    export.export(network, "stablehlo", out)
    return out


def test_stablehlo_is_for_any_batch_and_platform(stablehlo, network, images):
    exported = jax.export.deserialize(bytearray(stablehlo.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
    (pixels,) = exported.in_avals
    assert pixels.dtype == np.uint8 and str(pixels.shape) == "(batch, 32, 32, 1)"
    for count in (1, 7, 300):
        logits = exported.call(images[:count])
        np.testing.assert_allclose(logits, network.logits(images[:count]), atol=1e-5)


def test_the_example_runs_without_this_package(stablehlo, images, tmp_path):
    Image.fromarray(images[0, 2:-2, 2:-2, 0]).save(tmp_path / "digit.png")
    code = (
        "import runpy, sys; sys.modules['lenet_jax'] = sys.modules['flax'] = None\n"
        f"runpy.run_path({str(ROOT / 'examples' / 'use_stablehlo.py')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(stablehlo), str(tmp_path / "digit.png")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("class 7\n", "")


def test_safetensors_reloads_as_the_same_network(run, notes_run, network, images, tmp_path):
    out = tmp_path / "new" / "net.safetensors"
    code, said, error = run(f"--workdir={notes_run}", "--format=safetensors", f"--out={out}")
    assert (code, error) == (0, "")
    assert said.startswith(f"{out}  ")
    assert difference(said) <= 1e-5
    again = lenet_jax.load(out)
    np.testing.assert_array_equal(again.logits(images), network.logits(images))
    assert again.class_names == network.class_names
    assert [file.name for file in out.parent.iterdir()] == ["net.safetensors"]


@pytest.mark.torch
def test_the_torch_export_is_a_standalone_module(run, notes_run, network, images, tmp_path):
    torch = pytest.importorskip("torch")
    out = tmp_path / "net.safetensors"
    code, said, error = run(f"--workdir={notes_run}", "--format=torch", f"--out={out}")
    assert (code, error) == (0, "")
    assert difference(said) <= 1e-5
    code = (
        "import sys, numpy, torch, net; assert 'jax' not in sys.modules\n"
        "pixels = torch.from_numpy(numpy.load('pixels.npy'))\n"
        "logits = net.load('net.safetensors')(net.normalise(pixels))\n"
        "numpy.save('logits.npy', logits.detach().numpy())"
    )
    np.save(tmp_path / "pixels.npy", images[:20].transpose(0, 3, 1, 2))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, network.logits(images[:20]), atol=1e-5)
    assert torch.__version__


@pytest.mark.torch
def test_what_another_wrote_is_not_replaced_unforced(run, notes_run, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text("mine")
    arguments = [f"--workdir={notes_run}", "--format=torch", f"--out={tmp_path}/net.safetensors"]
    code, _, error = run(*arguments)
    assert code == 2 and "net.py already exists" in error and len(error.splitlines()) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["net.py"]
    for force in (["--force"], []):  # the same again is no other
        assert run(*arguments, *force)[0] == 0


@pytest.mark.filterwarnings("default::DeprecationWarning")  # of jax2onnx's own doing
def test_onnx_gives_the_same_logits(network, tmp_path):
    if not os.environ.get("LENET_JAX_REQUIRE_ONNX"):
        pytest.importorskip("jax2onnx", reason="jax2onnx is an extra, and brings much")
    with jax.numpy_rank_promotion("allow"):  # which jax2onnx does within
        (file, compared) = export.export(network, "onnx", tmp_path / "model.onnx")
    assert file.startswith(str(tmp_path / "model.onnx"))
    assert difference(compared) <= 1e-5


def test_without_jax2onnx_the_error_says_what_to_install(run, notes_run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    out = tmp_path / "model.onnx"
    code, said, error = run(f"--workdir={notes_run}", "--format=onnx", f"--out={out}")
    assert (code, said) == (2, "")
    assert "pip install '.[onnx]'" in error and len(error.splitlines()) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "name"), [("safetensors", "member_7.safetensors")])
def test_a_member_of_a_sweep(run, sweep, kind, name, network, images):
    code, said, _ = run(f"--workdir={sweep}", "--member=7", f"--format={kind}")
    assert code == 0
    out = sweep / "export" / name
    assert said.startswith(str(out))
    np.testing.assert_array_equal(lenet_jax.load(out).logits(images), network.logits(images))


def test_an_export_with_different_logits_is_not_kept(network, tmp_path, monkeypatch):
    out = tmp_path / "model.safetensors"
    out.write_text("the old one")
    encode = weights.encode
    worse = {name: array * np.float32(1.001) for name, array in network.state_dict.items()}
    monkeypatch.setattr(weights, "encode", lambda _, metadata: encode(worse, metadata))
    with pytest.raises(export.UserError, match=r"the logits differ by .*e-0[12]"):
        export.export(network, "safetensors", out)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert out.read_text() == "the old one"


def test_without_its_data_a_network_is_compared_on_noise(notes_run, tmp_path):
    network = lenet_jax.load(notes_run / "model.safetensors")
    *_, compared = export.export(network, "safetensors", tmp_path / "a.safetensors")
    assert "500 random images" in compared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=."], "required: --format"),
        (["--format=safetensors"], "missing --workdir=DIR"),
        (["--workdir=.", "--format=tflite"], "invalid choice: 'tflite'"),
        (["--workdir=.", "--format=onnx", "--out=a.pb"], "must end in .onnx"),
        (["--workdir=.", "--format=torch", "--out=a.pt"], "must end in .safetensors"),
        (["--workdir=.", "--format=torch", "--out=a.pt"], "a .py that defines the network is"),
        (["--workdir=.", "--format=torch"], "is not a run directory"),
    ],
)
def test_mistakes_are_reported_in_three_lines(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_reported(run, notes_run, tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "a.safetensors"
    code, _, error = run(f"--workdir={notes_run}", "--format=safetensors", f"--out={out}")
    assert code == 2
    assert error.startswith(f"{out} cannot be written: ")
