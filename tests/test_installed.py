"""The wheel, installed in an environment of its own and used in another folder."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file

import lenet_jax
from lenet_jax.nn import native
from tests.support.photos import photo
from tests.support.root import ROOT

CONFIG = """
from lenet_jax.config import base

def get_config(arg=""):
    config = base.get_config()
    config.data.train_examples = 600
    config.data.valid_examples = 100
    config.train.num_epochs = 1
    return config
"""
SWEEP = """
from lenet_jax.sweeps.file import sweep

def get_sweep():
    return sweep("seed", range(2))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, for a build leaves its traces beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("lenet_jax", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={out}"]
    subprocess.run([*build, source], check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config and a sweep file, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "mine.py").write_text(CONFIG)
    (folder / "seeds.py").write_text(SWEEP)
    return folder


@pytest.fixture(scope="module")
def command(wheel, folder, tmp_path_factory):
    """Runs the installed `lenet-jax` in the folder.

    The environment has the wheel, and what the wheel needs by way of this one's site-packages.
    """
    environment = tmp_path_factory.mktemp("venv")
    venv.create(environment, symlinks=True)
    paths = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *options, wheel], check=True)
    assert (site / "lenet_jax" / "__init__.py").exists()
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*words):
        return subprocess.run(
            [environment / "bin" / "lenet-jax", *words],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
        )

    return run


def test_the_wheel_holds_the_package_with_its_data_and_nothing_beside_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    here = (file for file in (ROOT / "lenet_jax").rglob("*") if "__pycache__" not in file.parts)
    assert package == {str(file.relative_to(ROOT)) for file in here if file.is_file()}


def test_train_look_inside_predict_and_export(command, folder):
    trained = command("train", "--config=mine.py", "--workdir=run")
    assert trained.returncode == 0, trained.stderr
    run = folder / "run"
    assert json.loads((run / "summary.json").read_text())["test_examples"] == 10_000
    record = json.loads((run / "run.json").read_text())
    assert record["command"].startswith("lenet-jax train ")
    assert record["backend"] == "native" or native.missing()

    inspected = command("inspect", "--workdir=run")
    assert inspected.returncode == 0, inspected.stderr
    assert (run / "inspect" / "report.html").read_text().startswith("<!doctype html>")

    Image.fromarray(photo(3)).save(folder / "three.png")
    predicted = command("predict", "--workdir=run", "--json", "three.png")
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)[0]["image"] == "three.png"

    exported = command("export", "--workdir=run", "--format=stablehlo", "--out=net.stablehlo")
    assert exported.returncode == 0, exported.stderr
    assert (folder / "net.stablehlo").stat().st_size > 0

    checked = command("torch-bridge", "convert", "run", "net.safetensors")
    assert checked.returncode == 0, checked.stderr
    weights = load_file(folder / "net.safetensors")
    assert weights["conv1.weight"].shape == (6, 1, 5, 5)


def test_sweep(command, folder):
    swept = command("sweep", "--config=mine.py", "--sweep=seeds.py", "--workdir=sweep")
    assert swept.returncode == 0, swept.stderr
    table = (folder / "sweep" / "results.csv").read_text().splitlines()
    assert len(table) == 3


def test_the_installed_version_is_the_package_s(command):
    assert command("--version").stdout == f"lenet-jax {lenet_jax.__version__}\n"


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line.partition("#")[0] for line in (ROOT / "requirements.txt").read_text().split("\n")]
    for extra in project["optional-dependencies"].values():
        lines += extra
    declared = {_normal(re.split(r"[<>=\[ ]", line)[0]) for line in lines if line.strip()}
    providers = metadata.packages_distributions()
    undeclared = set()
    for file in (ROOT / "lenet_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - {"lenet_jax"}:
                if name not in sys.stdlib_module_names and declared.isdisjoint(
                    map(_normal, providers.get(name, [name, f"{name}-skinny"]))
                ):
                    undeclared.add(name)
    assert undeclared == set()


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower().strip()
