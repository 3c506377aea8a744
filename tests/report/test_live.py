import base64
import html
import io
import json
import re

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lenet_jax.data.characters import find_characters, may_be_several
from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.data.form import ImageForm
from lenet_jax.inference.forward import GUESS, energy
from lenet_jax.inference.images import largest
from lenet_jax.inference.load import load
from lenet_jax.inference.network import Network
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.mlp import MLP
from lenet_jax.plots.results import rank_mistakes
from lenet_jax.report import live
from lenet_jax.report.live import SCRIPTS, live_page, to_data, why_not
from tests.support.chromium import browse, need_chromium
from tests.support.handwriting import PENS, draw_digit

pytestmark = pytest.mark.slow

TOUCHING = [(0, 0), (5, 3), (8, 2)]
DRAWINGS = [(digit, seed) for seed in range(10) for digit in range(10)]
NETWORKS = {
    "average, tanh, 3 channels": {"pool": "avg", "activation": "tanh", "in_channels": 3},
    "gelu, padding": {"activation": "gelu", "padding": 2, "image_size": 28},
    "silu, elsewhere sized": {
        **{"activation": "silu", "channels": (3, 5), "features": (30, 20)},
        **{"num_classes": 26, "image_size": 40},
    },
    "elu": {"activation": "elu"},
    "leaky_relu": {"activation": "leaky_relu"},
    "sigmoid": {"activation": "sigmoid", "pool": "avg"},
}
# What the proof runs in the page: `given` is what Python wants it to compute.
PROBE = """
const encode = (array) => btoa(String.fromCharCode(...new Uint8Array(array.buffer)));
function logitsOf(network, pixels) {
  const { imageSize, channels } = network;
  const size = imageSize ** 2 * channels;
  return Array.from({ length: pixels.length / size }, (_, i) => {
    const values = Float32Array.from(pixels.subarray(i * size, (i + 1) * size));
    const image = { height: imageSize, width: imageSize, channels, values };
    return [...forward(network, image).fc3.values];
  });
}
function draw(strokes) {
  sheet.clear();
  sheet.strokes = strokes;
  redraw();
  return {
    sheet: sheet.canvas.toDataURL(),
    image: encode(Uint8Array.from(state.outputs.image.values)),
    answer: byId("answer").textContent,
    doubt: byId("doubt").textContent,
    redraw: state.redraw,
  };
}
function clearSheet() {
  sheet.clear();
  redraw();
  const canvases = [...byId("flow").querySelectorAll(".frame canvas")];
  const painted = canvases.filter((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value);
  });
  const [answer, bars] = [byId("answer").textContent, byId("bars").textContent];
  return { maps: canvases.length, painted: painted.length, answer, bars };
}
function drawWithEvents([{ points }]) {
  sheet.clear();
  const box = sheet.canvas.getBoundingClientRect();
  const send = (target, kind, { x, y }) =>
    target.dispatchEvent(
      new PointerEvent(kind, {
        pointerId: 7,
        clientX: box.left + (x * box.width) / SHEET,
        clientY: box.top + (y * box.height) / SHEET,
      }),
    );
  send(sheet.canvas, "pointerdown", points[0]);
  for (const point of points.slice(1)) send(window, "pointermove", point);
  send(window, "pointerup", points.at(-1));
  redraw();
  return byId("answer").textContent;
}
/** How far what is explained of some values of each stage is from the values themselves. */
function explanations() {
  const far = {};
  for (const stage of stages) {
    const view = views.get(stage.key);
    const { channels, width, values } = state.outputs[stage.output];
    const { rows, columns, maps } = view.layout;
    for (let i = 0; i < 20; i++) {
      const [map, row, column] = [i % maps, (7 * i) % rows, (5 * i) % columns];
      const place = view.at({ map, row, column });
      if (!place) continue;
      choose(place);
      const index = place.unit ?? (row * width + column) * channels + map;
      const explanation = explain(network, state.outputs, stage, place);
      const { sentence, total, block, windows, contributions } = explanation;
      if (!sentence.includes(stage.kind === "image" ? `${values[index]}` : exact(values[index])))
        far[`${stage.key} ${i}`] = sentence;
      const sum = total ? total.sum + total.bias : null;
      if (total && Math.abs(sum - total.before) > 1e-4) far[stage.key] = [sum, total.before];
      if (total) Object.assign(far, inconsistent(stage, sentence, windows, contributions));
      if (block && block.winner !== null && block.values[block.winner] !== values[index])
        far[stage.key] = block;
    }
  }
  choose(null);
  return far;
}
/** Where the numbers that are shown do not add up. */
function inconsistent(stage, sentence, windows, contributions) {
  const number = "([+]|−|)([0-9]+[.][0-9]+)";
  const pattern = RegExp(`add up to ${number}; with the bias ${number} it is ${number}`);
  const found = sentence.match(pattern).slice(1);
  const [sum, bias, before] = [0, 2, 4].map((i) => (found[i] === "−" ? -1 : 1) * found[i + 1]);
  const parts = windows
    ? windows.map((each) => each.sum)
    : [...contributions.strongest.map((each) => each.product), contributions.rest];
  const isFar = (a, b) => Math.abs(a - b) > 1e-9;
  return isFar(sum + bias, before) || isFar(sumOf(parts), sum) ? { [stage.key]: sentence } : {};
}
function goThroughSteps() {
  const [names, pooled] = [[], []];
  byId("slow-toggle").click();
  for (; !byId("slow-next").disabled; byId("slow-next").click()) {
    names.push(byId("slow-name").textContent);
    const cells = [...byId("explanation").querySelectorAll("td")];
    if (names.at(-1).includes("Pooling")) pooled.push(cells.map((cell) => cell.title));
  }
  byId("slow-toggle").click();
  return { names, pooled };
}
"""


@pytest.fixture(scope="module")
def network(notes_run):
    return load(notes_run)


@pytest.fixture(scope="module")
def dataset(network):
    return network.load_data(print)


@pytest.fixture(scope="module")
def logits(network, dataset):
    return network.logits(dataset.test.images)


def run_probe(page, code, given, folder, width=800):
    """What code gives within a page; the page as Chromium has it then, and its console."""
    need_chromium()
    data = json.dumps(given).replace("<", "\\u003c")
    proof = (
        f"<script>{PROBE} const given = {data};\n"
        "const proof = document.createElement('pre'); proof.id = 'proof';\n"
        f"proof.textContent = JSON.stringify((() => {{ {code} }})()); document.body.append(proof);"
        "</script>"
    )
    (folder / "page.html").write_text(page.replace("</body>", f"{proof}</body>"))
    dom, console = browse(folder / "page.html", folder, width)
    found = re.search(r'<pre id="proof">(.*?)</pre>', dom, re.DOTALL)
    assert found, console
    return json.loads(html.unescape(found[1])), dom, console


def scribble(seed):
    """A stroke to and fro over the sheet: no digit."""
    points = np.random.default_rng(seed).uniform(30, 330, (9, 2))
    return [{"points": [{"x": x, "y": y} for x, y in points.tolist()], "width": 26}]


def touching(left, right):
    """Strokes of two digits, side by side, that touch."""
    strokes = [draw_digit(left, 0), draw_digit(right, 0)]
    for own, middle in zip(strokes, (148, 212), strict=True):
        for stroke in own:
            stroke["width"] = PENS[0]
            for point in stroke["points"]:
                point["x"] = middle + 0.7 * (point["x"] - 180)
                point["y"] = 180 + 0.5 * (point["y"] - 180)
    return [*strokes[0], *strokes[1]]


def sheet_of(drawn):
    """The picture of a drawing on the page."""
    return Image.open(io.BytesIO(base64.b64decode(drawn["sheet"].partition(",")[2])))


def doubt_of(network, drawn):
    """What `predict` remarks on the answer to a drawing."""
    pixels = np.frombuffer(base64.b64decode(drawn["image"]), np.uint8)
    logits = network.logits(pixels.reshape(1, network.image_size, network.image_size, 1))
    guess = float(jax.nn.softmax(logits).max()) < GUESS
    unlike = bool(energy(logits)[0] < network.least_energy)
    box = largest(find_characters(np.asarray(sheet_of(drawn).convert("L")))).box
    remarks = {
        "a guess": guess,
        "may be several characters": may_be_several(box, unlike),
        "unlike any class": unlike,
    }
    return ", ".join(remark for remark, holds in remarks.items() if holds)


def encode(array):
    return base64.b64encode(array.tobytes()).decode()


def other_networks():
    """LeNets of other sizes and layers, with images: all that a page is given of them."""
    rng = np.random.default_rng(0)
    for arguments in NETWORKS.values():
        model = LeNet(**arguments, rngs=nnx.Rngs(0))
        channels, side = model.conv1.in_features, model.image_size
        names = tuple(map(str, range(model.fc3.out_features)))
        network = Network(model, (33.0,) * channels, (78.0,) * channels, names, "random")
        images = rng.integers(0, 256, (5, side, side, channels), np.uint8)
        yield network, images


def test_the_page_computes_what_the_run_does_and_reads_drawings_as_predict_does(
    network, dataset, logits, tmp_path
):
    images = dataset.test.images[:200]
    others = [
        (other, pixels, Split(pixels, np.zeros(len(pixels), np.int32)))
        for other, pixels in other_networks()
    ]
    given = {
        "images": encode(images),
        "drawings": [draw_digit(*drawing) for drawing in DRAWINGS],
        "scribbles": [scribble(seed) for seed in range(30)],
        "touching": [touching(*pair) for pair in TOUCHING],
        "others": [to_data(other, split, other.logits(pixels)) for other, pixels, split in others],
        "other_images": [encode(pixels) for _, pixels, _ in others],
    }
    code = """return {
      logits: logitsOf(network, bytesOf(given.images)),
      others: given.others.map((each, i) =>
        logitsOf(readNetwork(each), bytesOf(given.other_images[i]))),
      drawings: given.drawings.map(draw),
      events: drawWithEvents(given.drawings[3]),
      explanations: explanations(),
      steps: goThroughSteps(),
      scribbles: given.scribbles.map(draw),
      touching: given.touching.map(draw),
      empty: clearSheet(),
    }"""
    page = live_page(network, dataset, logits)
    assert len(page) < 1_500_000
    result, _, console = run_probe(page, code, given, tmp_path)
    assert console == []
    np.testing.assert_allclose(result["logits"], logits[:200], atol=1e-4, rtol=0)
    for got, (other, pixels, _) in zip(result["others"], others, strict=True):
        np.testing.assert_allclose(got, other.logits(pixels), atol=1e-4, rtol=0)
    assert result["events"] == "3"
    assert result["explanations"] == {}
    steps = result["steps"]
    assert len(steps["names"]) == 13 and "ReLU" in steps["names"][3]
    assert [len(set(four)) for four in steps["pooled"]] == [4, 4]
    drawn = result["drawings"]
    prepared = network.prepare([sheet_of(each) for each in drawn]).astype(int)
    seen = [np.frombuffer(base64.b64decode(each["image"]), np.uint8) for each in drawn]
    assert np.abs(np.stack(seen).reshape(prepared.shape) - prepared).max() <= 1
    right: dict[int, list[bool]] = {}  # by pen
    for each, drawing, (digit, _) in zip(drawn, given["drawings"], DRAWINGS, strict=True):
        right.setdefault(drawing[0]["width"], []).append(each["answer"] == str(digit))
    assert sorted(right) == sorted(PENS)
    assert all(np.mean(own) >= 0.9 for own in right.values())
    pairs = result["touching"]
    assert all("may be several characters" in each["doubt"] for each in pairs)
    drawn += result["scribbles"] + pairs
    assert [each["doubt"] for each in drawn] == [doubt_of(network, each) for each in drawn]
    assert {each["doubt"] for each in drawn} >= {"", "unlike any class"}
    assert result["empty"] == {
        **{"maps": result["empty"]["maps"], "painted": 0},
        **{"answer": "", "bars": "0123456789"},
    }
    assert result["empty"]["maps"] > 30
    times = sorted(each["redraw"] for each in drawn)
    print(f"redraw: median {times[len(times) // 2]:.1f} ms, 90 % {times[-10]:.1f} ms")


def test_a_page_of_colour_pictures_and_hostile_names(tmp_path):
    rng = np.random.default_rng(0)
    model = LeNet(**NETWORKS["average, tanh, 3 channels"], num_classes=15, rngs=nnx.Rngs(0))
    names = ("</script><script>nowhere()</script>", "<b>two", *map(str, range(13)))
    form = ImageForm(32, "pad", handwriting=False, box=32, sides=(32, 32))
    network = Network(model, (120.0,) * 3, (60.0,) * 3, names, "<i>run", form=form)
    images = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)
    test = Split(images, np.arange(20, dtype=np.int32) % 15)
    dataset = Dataset("colours", test, test, test, names, "")
    page = live_page(network, dataset, network.logits(images))
    code = "return { drawing: draw(given.drawing), explanations: explanations() }"
    given = {"drawing": draw_digit(5, 0)}
    result, dom, console = run_probe(page, code, given, tmp_path)
    assert console == []
    assert result["explanations"] == {}
    sheet = sheet_of(result["drawing"]).convert("RGB")
    seen = np.frombuffer(base64.b64decode(result["drawing"]["image"]), np.uint8)
    assert np.abs(seen.astype(int) - network.prepare([sheet]).ravel()).max() <= 1
    assert "<b>two" not in dom and "<i>run" not in dom


def test_a_phone_has_type_of_a_legible_size_and_the_ends_of_long_names(tmp_path):
    rng = np.random.default_rng(0)
    model = LeNet(num_classes=3, rngs=nnx.Rngs(0))
    names = ("a class with a name that is far too long for its place", "mmmm", "llll")
    network = Network(model, (33.0,), (78.0,), names, "run")
    images = rng.integers(0, 256, (3, 32, 32, 1), np.uint8)
    logits = network.logits(images)
    test = Split(images, np.where(logits.argmax(axis=1) == 0, 1, 0).astype(np.int32))
    page = live_page(network, Dataset("pictures", test, test, test, names, ""), logits)
    code = """
    choose(views.get("conv2").at({ map: 1, row: 3, column: 3 }));
    const boxOf = (node) => node.getBoundingClientRect();
    const cells = [...byId("explanation").querySelectorAll("td")];
    const reads = [...byId("examples").querySelectorAll(".read")];
    return {
      width: window.innerWidth,
      type: Math.min(...cells.map((cell) => parseFloat(getComputedStyle(cell).fontSize))),
      outside: cells.filter((cell) => cell.scrollWidth > cell.clientWidth).length,
      bars: [...byId("bars").querySelectorAll(".track")].map((track) => boxOf(track).left),
      cut: reads.filter((read) => boxOf(read).right > boxOf(read.parentNode).right).length,
      reads: reads.map((read) => read.textContent),
    };"""
    result, _, console = run_probe(page, code, {}, tmp_path, width=500)  # windows are no narrower
    assert console == [] and result["width"] == 500
    assert result["type"] >= 11 and result["outside"] == 0
    assert len(set(result["bars"])) == 1
    assert len(result["reads"]) == 3 and result["cut"] == 0
    assert all(read.startswith("→") for read in result["reads"])


def test_the_page_is_self_contained(network, dataset, logits):
    page = live_page(network, dataset, logits)
    assert "default-src 'none'" in page
    assert not re.search(r'@import|url\(|fetch\(|(?:src|href)="(?!data:|#)', page)
    assert "prefers-color-scheme: dark" in page and "prefers-reduced-motion" in page
    assert all(f"function {name}(" in page for name in ("forward", "prepare", "explain"))
    assert len(set(SCRIPTS)) == len(SCRIPTS)


def test_test_images_come_with_the_most_confident_mistakes_first(network, dataset, logits):
    examples = to_data(network, dataset.test, logits)["examples"]
    wrong = [each["label"] != each["predicted"] for each in examples]
    assert wrong == sorted(wrong, reverse=True) and 0 < sum(wrong) < len(wrong)
    indices = [each["index"] for each in examples[: sum(wrong)]]
    assert indices == rank_mistakes(logits, dataset.test.labels)[: len(indices)].tolist()
    assert {each["label"] for each in examples[sum(wrong) :]} == set(range(10))


def test_networks_that_are_no_lenet_or_too_large_have_no_page(network, monkeypatch):
    assert why_not(network) is None
    mlp = MLP(features=(4, 3), image_shape=(28, 28, 1), num_classes=10, rngs=nnx.Rngs(0))
    other = Network(mlp, (0.0,), (1.0,), network.class_names, "mlp", image_shape=(28, 28, 1))
    assert why_not(other) == "it is for model.name=lenet, and this network is MLP"
    monkeypatch.setattr(live, "MOST_PARAMS", 49_101)
    assert why_not(network) == "it holds up to 49,101 parameters, and these are 49,102"
