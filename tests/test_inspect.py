import functools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tensorboardX.proto import event_pb2

import lenet_jax
from lenet_jax import data, inspect
from lenet_jax.corruptions.mnist_c import corrupt
from lenet_jax.data.dataset import Split
from lenet_jax.report.corruptions import find_corrupted
from tests.support.chromium import browse, need_chromium
from tests.support.photos import photo
from tests.support.root import ROOT
from tests.support.runs import renew_sums

pytestmark = pytest.mark.slow

FIGURES = [
    *("calibration", "confusion_matrix", "conv1_filters", "conv2_filters", "curves"),
    *("histograms", "journey", "journey_mistake", "mistakes", "saliency"),
]


@pytest.fixture(scope="session")
def inspected(notes_run, tmp_path_factory):
    """The output folder of `inspect` for the LeNet of `configs/notes.py`."""
    out = tmp_path_factory.mktemp("inspected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lenet_jax.machine.use_compilation_cache", lambda: None)
        assert inspect.main([f"--workdir={notes_run}", "--index=3", f"--out={out}"]) == 0
    return out


@pytest.fixture
def run(run_command):
    return functools.partial(run_command, inspect.main)


class Page(HTMLParser):
    """Counts the tags of a page, and fails where one is not closed."""

    VOID = ("meta", "link", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.stack = [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_chromium_loads_the_report_without_errors(inspected, tmp_path):
    need_chromium()
    dom, console = browse(inspected / "report.html", tmp_path)
    assert console == []
    assert dom.count("<figure") == dom.count("</figure>") == len(FIGURES)


def test_console_errors_are_detected(tmp_path):
    need_chromium()
    (tmp_path / "bad.html").write_text("<script>nowhere()</script>")
    _, console = browse(tmp_path / "bad.html", tmp_path)
    assert len(console) == 1 and "nowhere is not defined" in console[0]


def test_the_report_is_self_contained_and_accessible(inspected, notes_run):
    text = (inspected / "report.html").read_text()
    page = Page(text)
    assert len(page.all("figure")) == len(FIGURES)
    charts = page.all("svg")
    assert len(charts) == len(FIGURES)
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    images = page.all("image")
    assert len(images) > 100
    assert all(image["href"].startswith("data:image/png;base64,") for image in images)
    assert not re.search(r'@import|url\((?!#)|(?:src|href)="(?!data:|#|network.html")', text)
    assert 'href="network.html"' in text and (inspected / "network.html").is_file()
    assert not page.all("script")
    identifiers = re.findall(r' id="([^"]*)"', text)
    assert len(identifiers) == len(set(identifiers)) > 20
    assert len(text) < 400_000
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in text
    summary = json.loads((notes_run / "summary.json").read_text())
    assert f"{100 * summary['test_accuracy']:.2f} %" in text
    for phrase in ("learning_rate", "train_examples", "Test image 3 of mnist, class 0", "49,102"):
        assert phrase in text


def test_every_figure_is_a_png_and_in_tensorboard(inspected):
    assert sorted(file.stem for file in inspected.glob("*.png")) == FIGURES
    for file in inspected.glob("*.png"):
        with Image.open(file) as image:
            assert image.format == "PNG" and 500 < image.width <= 1400
    (events,) = (inspected / "tensorboard").iterdir()
    tags = set()
    content = events.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])  # pyright: ignore
        tags |= {value.tag for value in event.summary.value if value.image.height}
        content = content[16 + length :]
    assert tags == set(FIGURES)


def test_a_user_image_and_a_member_of_a_sweep(run, sweep, tmp_path):
    Image.fromarray(photo(6)).save(tmp_path / "six.png")
    code, out, error = run(f"--workdir={sweep}", "--member=7", f"--image={tmp_path / 'six.png'}")
    assert (code, error) == (0, "")
    folder = sweep / "inspect" / "member_7"
    assert str(folder / "report.html") in out and f"{sweep}:7\ntest accuracy 9" in out
    text = (folder / "report.html").read_text()
    assert "six.png" in text
    assert (folder / "curves.png").exists()
    assert "learning rate" not in text  # which a sweep does not record
    assert Page(text).all("figure")


def test_a_second_inspection_replaces_the_first(run, notes_run, inspected, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(inspected, out)
    flags = f"--workdir={notes_run}", "--index=3", f"--out={out}"
    for _ in range(2):  # as vectors, they are replaced too
        code, _, _ = run(*flags, "--format=svg, pdf")
        assert code == 0
    for name in FIGURES:
        assert (out / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert (out / "report.html").read_bytes() == (inspected / "report.html").read_bytes()


def test_corrupted_images_are_tested_on_request(run, notes_run, tmp_path):
    flags = f"--workdir={notes_run}", "--index=3", f"--out={tmp_path / 'out'}"
    code, out, error = run(*flags, "--corruptions")
    assert (code, error) == (0, "")
    said = re.search(r"mean corruption error (.*) % over 15 corruptions, worst: (\w+) (.*) %", out)
    assert said and 10 < float(said[1]) < float(said[3])
    text = (tmp_path / "out" / "report.html").read_text()
    assert len(Page(text).all("figure")) == len(FIGURES) + 1 and "above clean, points" in text
    assert (tmp_path / "out" / "corruptions.png").exists()
    # Those under brightness, whose ground is light, are not inverted, as those of users are.
    network, test = lenet_jax.load(notes_run), data.load("mnist").test
    pixels = corrupt(test.images, "brightness", (28, 28))
    logits = network.model(network.normalise(pixels[:500]))
    tested = find_corrupted(network, Split(test.images[:500], test.labels[:500]))
    wrong = np.mean(np.argmax(logits, axis=1) != test.labels[:500])
    assert tested.errors["brightness"] == pytest.approx(wrong)
    assert tested.errors["clean"] < 0.06 < tested.robustness.mean_error


def test_untrusted_text_is_escaped(run, notes_run, tmp_path):
    folder = tmp_path / "<b>run & co"
    shutil.copytree(notes_run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    hostile = "<script>alert('é')</script>"
    record = json.loads((folder / "run.json").read_text())
    record["command"], record["versions"] = hostile, {hostile: hostile}
    (folder / "run.json").write_text(json.dumps(record))
    weights = load_file(folder / "model.safetensors")
    with safe_open(folder / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
    names = [f'<i>{digit}"</i>' for digit in range(10)]
    metadata["classes"] = "\n".join(names)
    del metadata["sha256"]
    save_file(weights, folder / "model.safetensors", metadata)
    renew_sums(folder)
    image = tmp_path / "<u>six.png"
    Image.fromarray(photo(6)).save(image)
    code, _, _ = run(f"--workdir={folder}", f"--image={image}", f"--out={tmp_path / 'out'}")
    assert code == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    for tag in ("script", "b>run", "i", "u"):
        assert not page.all(tag), tag
    assert "&lt;script&gt;alert" in text and "&lt;b&gt;run &amp; co" in text
    assert "&lt;u&gt;six.png" in text and "&lt;i&gt;" in text
    code, _, _ = run(f"--compare={folder},{notes_run}", f"--out={tmp_path / 'out'}")
    assert code == 0
    assert "&lt;b&gt;run &amp; co" in (tmp_path / "out" / "compare.html").read_text()


class TestCompare:
    @pytest.fixture
    def other(self, notes_run, tmp_path):
        """A run that differs in two keys, and learned less."""
        folder = tmp_path / "other"
        shutil.copytree(notes_run, folder, ignore=shutil.ignore_patterns("checkpoints"))
        config = json.loads((folder / "config.json").read_text())
        config["seed"], config["optimizer"]["learning_rate"] = 5, 0.01
        (folder / "config.json").write_text(json.dumps(config))
        summary = json.loads((folder / "summary.json").read_text()) | {"test_accuracy": 0.9}
        (folder / "summary.json").write_text(json.dumps(summary))
        renew_sums(folder)
        return folder

    def test_what_differs_comes_first(self, run, notes_run, other, tmp_path):
        code, out, error = run(f"--compare={notes_run},{other}", f"--out={tmp_path}")
        assert (code, error) == (0, "")
        first, second, _, header, *lines, file = out.splitlines()
        assert [first, second] == [f"[1] {notes_run}", f"[2] {other}"]
        assert header.split() == ["[1]", "[2]"]
        assert file.strip() == str(tmp_path / "compare.html")
        cells = {line.split("  ")[0]: line.split()[-2:] for line in lines}
        assert cells["test accuracy, %"][1] == "90.00"
        assert cells["optimizer.learning_rate"] == ["0.05", "0.01"]
        assert cells["seed"] == ["0", "5"]
        assert "train.batch_size" not in cells
        text = (tmp_path / "compare.html").read_text()
        page = Page(text)
        assert len(page.all("figure")) == 1 and len(page.all("svg")) == 1
        assert lines[-1].split() == ["[1],", "[2]", "0", "0", "1.000"]  # the weights are the same
        assert 0 < text.index("optimizer.learning_rate") < text.index("train.batch_size")

    def test_members_of_a_sweep(self, run, sweep, tmp_path):
        code, out, error = run(f"--compare={sweep}:3,{sweep}@7", f"--out={tmp_path}")
        assert (code, error) == (0, "")
        cells = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines()[3:-1]}
        assert cells["test accuracy, %"] == ["30.00", "70.00"]
        assert cells["seed"] == ["3", "7"]

    def test_equal_configs_are_reported(self, run, notes_run, tmp_path):
        code, _, _ = run(f"--compare={notes_run},{notes_run}", f"--out={tmp_path}")
        assert code == 0
        assert "The configs are equal" in (tmp_path / "compare.html").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--compare=a"], "takes two or more runs"),
            (["--compare=a,b", "--corruptions"], "cannot be combined with other flags"),
            (["--compare=a,b"], "a is not a directory"),
            (["--compare=.,."], "is not a run directory"),
            (["--compare=.:1,.:2"], "is not a sweep, so it has no member 1"),
            (["--compare=a:1,:2"], "a:1 is not a directory"),
            (["--compare=a,b", "--workdir=c"], "cannot be combined with other flags than --out"),
        ],
    )
    def test_mistakes(self, run, arguments, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, out, error = run(*arguments)
        assert (code, out) == (2, "")
        assert message in error and len(error.splitlines()) <= 3


def test_mistakes_are_reported_in_three_lines(run, notes_run, sweep, tmp_path):
    weights = notes_run / "model.safetensors"
    (tmp_path / "file").touch()
    for arguments, message in (
        ([], "missing --workdir=DIR or --weights=FILE, for"),
        (["--weights=a"], "a does not exist"),
        ([f"--weights={weights}", "--activation=tahn"], "must be one of relu, "),
        ([f"--weights={weights}", "--data=./none"], "there is no file or folder none"),
        ([f"--workdir={weights}"], "must be a run, which has a config"),
        ([f"--workdir={tmp_path}"], "is not a run directory"),
        ([f"--workdir={sweep}"], "is a sweep of 9 networks"),
        ([f"--workdir={notes_run}", "--index=1", "--image=a.png"], "not allowed with"),
        ([f"--workdir={notes_run}", "--index=10000"], "test images are numbered 0 to 9999"),
        ([f"--workdir={notes_run}", "--index=-1"], "test images are numbered 0 to 9999"),
        ([f"--workdir={notes_run}", "--format=png,gif"], "--format=png,gif: must be some of png, "),
        ([f"--workdir={notes_run}", "--image=no.png"], "no.png cannot be read"),
        ([f"--workdir={notes_run}", f"--out={tmp_path / 'file' / 'a'}"], "cannot be written"),
    ):
        code, out, error = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in error
        assert len(error.splitlines()) <= 3
    assert not (notes_run / "inspect").exists()


def test_a_weights_file_is_inspected_on_given_data(run, notes_run, tmp_path):
    file = tmp_path / "net.safetensors"
    shutil.copy(notes_run / "model.safetensors", file)
    code, out, error = run(f"--weights={file}", "--data=mnist", "--activation=relu")
    assert (code, error) == (0, "")
    folder = tmp_path / "inspect_net"
    assert f"  {folder / 'report.html'}" in out
    assert "test accuracy" in out and (folder / "journey.png").exists()
    code, _, error = run(f"--weights={file}", "--activation=tanh", "--pool=avg")
    assert code == 0 and "says activation relu, pool max; what is given is taken" in error
    assert "Dead ReLUs" not in (folder / "report.html").read_text()


def test_help_and_mistakes_need_no_jax():
    code = (
        "import sys; from lenet_jax import errors, inspect\n"
        "assert errors.run_command(inspect.main, ['--workdir=nowhere']) == 2\n"
        "assert not {'jax', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_the_reports_style_and_templates_are_installed_with_the_package():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = project["tool"]["setuptools"]["package-data"]["lenet_jax.report"]
    assert files == ["page.css", "templates/*", "live/*"]
