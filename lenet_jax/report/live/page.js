// The page: where one draws, what the network reads, and every stage in between.

const network = readNetwork(JSON.parse(document.getElementById("network").textContent));
const byId = (id) => document.getElementById(id);
const MOST_BARS = 12; // classes that are all shown; of more, the likeliest

const state = {
  example: 0, // the test image shown; null while one draws
  chosen: null, // the value that the panel explains until another is chosen
  pointed: null, // the value under the mouse
  outputs: null,
  redraw: 0, // ms that the last one took
};

const sheet = new Sheet(byId("sheet"), byId("cursor"), () => {
  state.example = null;
  markExample();
  redrawSoon();
});
const stages = stagesOf(network);
const views = new Map();
let slow = null;

/** The image of the network's input: a test image, or what is drawn. */
function currentImage() {
  const { imageSize, channels } = network;
  if (state.example !== null) {
    const image = volume(imageSize, imageSize, channels);
    const length = image.values.length;
    image.values.set(network.pixels.subarray(state.example * length, (state.example + 1) * length));
    return { image, found: 1, box: null };
  }
  return prepare(sheet.pixels(), network);
}

/** Computes and draws everything anew. */
function redraw() {
  const start = performance.now();
  sheet.paint();
  if (state.example !== null) paintExample(sheet.canvas, state.example, SHEET);
  const { image, found, box } = currentImage();
  state.outputs = forward(network, image);
  state.outputs.input = withoutPadding(image, network);
  state.blank = state.example === null && (!found || !sheet.strokes.length);
  for (const stage of stages) drawStage(viewOf(stage), state.outputs[stage.output]);
  showReading(found, box);
  showPanel();
  if (slow && slow.index !== null) slow.finish();
  state.redraw = performance.now() - start;
}

let frame = 0;

/** Redraws once before the next frame, however many events there are. */
function redrawSoon() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(redraw);
}

/** Draws a stage up to a number of values of each map; of an empty sheet nothing. */
function drawStage(view, output, progress) {
  if (state.blank) view.clear();
  else view.draw(output, progress);
}

function viewOf(stage) {
  if (!views.has(stage.key)) {
    const view = new StageView(stage, state.outputs[stage.output], point);
    if (stage.key === "conv1" && network.channels === 1) view.addKernels(network.layers.conv1);
    const short = network.classes.every((name) => name.length <= 3);
    if (stage.key === "fc3" && short && view.layout.rows === 1) view.addLabels(network.classes);
    views.set(stage.key, view);
    byId("flow").append(view.node);
  }
  return views.get(stage.key);
}

/** Paints a test image into a square canvas. */
function paintExample(canvas, index, side) {
  const { imageSize, channels, pixels } = network;
  const small = element("canvas", { width: imageSize, height: imageSize });
  const start = index * imageSize ** 2;
  paint(
    small,
    (i) => {
      const own = pixels.subarray((start + i) * channels, (start + i + 1) * channels);
      return channels === 3 ? Array.from(own) : own[0];
    },
    scaleOf([], true),
  );
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, side, side);
}

/** What to say of an answer that is not to be trusted, as `predict` does. */
function doubtOf(logits, largest, box) {
  const { leastEnergy, guess } = network;
  const unlike = leastEnergy !== null && energyOf(logits) < leastEnergy;
  const [marks, sentences] = [[], [""]];
  if (largest < guess) {
    marks.push("a guess");
    sentences.push(`A guess: no class has a probability of ${100 * guess}\u00a0%.`);
  }
  if (box && mayBeSeveral(box, unlike)) {
    marks.push("may be several characters");
    sentences.push("It may be several characters: it is wide for one.");
  }
  if (unlike) {
    marks.push("unlike any class");
    const rare = "of the validation images one in a hundred is as unlike them";
    sentences.push(`It may be none of the classes: ${rare}.`);
  }
  return { marks: marks.join(", "), text: sentences.join(" ") };
}

/** The answer in words, and the probabilities as bars. */
function showReading(found, box) {
  const logits = state.outputs.fc3.values;
  const probabilities = softmax(logits);
  const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a]);
  const percent = (k) => `${(100 * probabilities[k]).toFixed(1)}\u00a0%`;
  const name = network.classes[order[0]];
  const doubt = doubtOf(logits, probabilities[order[0]], box);
  byId("answer").textContent = state.blank ? "" : name;
  byId("sure").textContent = state.blank ? "Nothing to read" : percent(order[0]);
  byId("doubt").textContent = state.blank ? "" : doubt.marks;
  const several = found > 1 ? ` Of ${found} characters the largest is read.` : "";
  let remark = "The sheet is empty: draw, or choose a test image.";
  if (state.example !== null) {
    remark = exampleText(network.examples[state.example]) + doubt.text;
  } else if (!state.blank) {
    remark = `The network reads ${name}, ${percent(order[0])}.${doubt.text}${several}`;
  }
  if (state.blank && sheet.strokes.length) remark = "No character found: too small, or a solid block.";
  if (byId("remark").textContent !== remark) byId("remark").textContent = remark;
  const shown = logits.length <= MOST_BARS ? [...logits.keys()] : order.slice(0, 10);
  const bars = byId("bars");
  const longest = Math.max(...shown.map((k) => network.classes[k].length));
  bars.style.setProperty("--name", `${clip(longest, 2, 12)}ch`);
  while (bars.children.length < shown.length) {
    const button = element(
      "button",
      { type: "button" },
      ...["name", "track", "percent"].map((className) => element("span", { className })),
    );
    button.querySelector(".track").append(element("i"));
    button.addEventListener("click", () => choose(unitPlace(+button.dataset.unit)));
    bars.append(element("li", {}, button));
  }
  shown.forEach((k, i) => {
    const button = bars.children[i].firstChild;
    const [label, track, number] = button.children;
    button.dataset.unit = k;
    button.classList.toggle("best", k === order[0] && !state.blank);
    button.disabled = state.blank;
    button.ariaLabel = state.blank
      ? network.classes[k]
      : `${network.classes[k]}: ${percent(k)}, logit ${exact(logits[k])}`;
    label.textContent = network.classes[k];
    number.textContent = state.blank ? "" : percent(k);
    track.firstChild.style.width = state.blank ? 0 : `${100 * probabilities[k]}%`;
  });
}

function exampleText({ index, label, predicted, probability }) {
  const [truth, read] = [network.classes[label], network.classes[predicted]];
  const sure = `${(100 * probability).toFixed(1)}\u00a0%`;
  return truth === read
    ? `Test image ${index}: a ${truth}, read as such, ${sure}.`
    : `Test image ${index}: a ${truth}, read as ${read}, ${sure}. A mistake.`;
}

function unitPlace(unit) {
  const view = views.get("fc3");
  const { columns } = view.layout;
  return view.at({ map: 0, row: Math.floor(unit / columns), column: unit % columns });
}

/** A value is pointed at with the mouse, chosen by a click or a key, or left. */
function point(place, kind) {
  if (kind === "choose") {
    const same = state.chosen && JSON.stringify(state.chosen) === JSON.stringify(place);
    return choose(same ? null : place);
  }
  if (JSON.stringify(state.pointed) === JSON.stringify(place)) return;
  state.pointed = place;
  if (!state.chosen) showPanel();
}

function choose(place) {
  state.chosen = place;
  if (place) views.get(place.stage.key).place = place;
  showPanel();
}

/** Explains the value that is chosen or pointed at, and outlines what it reads. */
function showPanel(place = state.chosen ?? state.pointed) {
  for (const view of views.values()) view.unmark();
  if (state.blank) place = null;
  const panel = byId("panel");
  panel.classList.toggle("open", Boolean(place));
  byId("close").hidden = !place || !state.chosen;
  if (!place) {
    byId("explanation").replaceChildren(element("p", { className: "faint" }, panel.dataset.hint));
    return;
  }
  const { stage } = place;
  const explanation = explain(network, state.outputs, stage, place);
  views.get(stage.key).mark([place], "own");
  if (stage.source) views.get(stage.source).mark(explanation.reads, "read");
  byId("explanation").replaceChildren(...panelNodes(stage, explanation));
  byId("spoken").textContent = state.chosen ? explanation.sentence : "";
}

/** What a step draws. */
function outputOfStep({ stage, before }) {
  return state.outputs[before ? stage.before : stage.output];
}

/**
 * How many values each map of a step has, and where and in which map its example is: the largest
 * one; of pooling the largest of those whose four values differ most.
 */
function extentOf(step) {
  const output = outputOfStep(step);
  const { values, channels } = output;
  const different = (i) => {
    const place = Math.floor(i / channels);
    const [y, x] = [Math.floor(place / output.width), place % output.width];
    return new Set(blockOf(state.outputs[step.stage.unpooled], y, x, i % channels)).size;
  };
  const kinds = step.stage.kind === "pool" ? values.map((_, i) => different(i)) : null;
  const isBetter = (a, b) =>
    kinds && kinds[a] !== kinds[b] ? kinds[a] > kinds[b] : values[a] > values[b];
  const best = values.reduce((most, _, i) => (isBetter(i, most) ? i : most), 0);
  const count = values.length / channels;
  return { count, largest: Math.floor(best / channels), map: best % channels };
}

/** Draws a step of the slow ones: what comes later is faint, and what it reads is outlined. */
function showStep(step, progress) {
  const current = step ? stages.indexOf(step.stage) : stages.length;
  stages.forEach((stage, i) => {
    const view = views.get(stage.key);
    view.node.classList.toggle("later", i > current);
    view.node.classList.toggle("current", i === current);
    if (i !== current) drawStage(view, state.outputs[stage.output]);
  });
  if (!step) return showPanel();
  const view = views.get(step.stage.key);
  drawStage(view, outputOfStep(step), progress === null ? Infinity : progress + 1);
  const { largest, map } = extentOf(step);
  // A pixel on the way may be of four zeros.
  const index = step.stage.kind === "pool" ? largest : (progress ?? largest);
  const { columns } = view.layout;
  showPanel(
    state.chosen ?? view.at({ map, row: Math.floor(index / columns), column: index % columns }),
  );
}

/** Scrolls to a step, below the bar and, as far as they fit, what it reads. */
function scrollToStep({ stage }) {
  const { node } = views.get(stage.key);
  const source = stage.source ? views.get(stage.source).node.offsetHeight : 0;
  const bar = document.querySelector(".slow").offsetHeight;
  const { position, maxHeight } = getComputedStyle(byId("panel"));
  const below = position === "fixed" ? parseFloat(maxHeight) : 0; // the panel may cover
  // Of what it reads as much as leaves room for the step itself.
  const room = Math.max(window.innerHeight - bar - below - node.offsetHeight, 0);
  node.style.scrollMarginTop = `${bar + Math.min(source, room, 0.2 * window.innerHeight)}px`;
  node.scrollIntoView({ block: "start", behavior: slow.still.matches ? "auto" : "smooth" });
}

byId("undo").addEventListener("click", () => sheet.undo());
byId("clear").addEventListener("click", () => sheet.clear());
byId("close").addEventListener("click", () => choose(null));
byId("fold").addEventListener("click", () => {
  const isFolded = byId("panel").classList.toggle("folded");
  byId("fold").textContent = isFolded ? "Unfold" : "Fold";
  byId("fold").setAttribute("aria-expanded", !isFolded);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") choose(null);
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) sheet.undo();
});

// Test images

/** Of all test images one is reached with the Tab key, the others from it with the arrow keys. */
function markExample() {
  [...byId("examples").children].forEach((item, i) => {
    item.firstChild.setAttribute("aria-pressed", i === state.example);
    item.firstChild.tabIndex = i === (state.example ?? 0) ? 0 : -1;
  });
}

byId("examples").addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!move) return;
  event.preventDefault();
  const index = clip((state.example ?? -1) + move, 0, network.examples.length - 1);
  showExample(index);
  byId("examples").children[index].firstChild.focus();
});

function showExample(index) {
  state.example = index;
  sheet.strokes = [];
  markExample();
  redrawSoon();
}

network.examples.forEach((example, i) => {
  const canvas = element("canvas", { width: network.imageSize, height: network.imageSize });
  paintExample(canvas, i, network.imageSize);
  const [truth, read] = [network.classes[example.label], network.classes[example.predicted]];
  const wrong = example.label !== example.predicted;
  const caption = element(
    "span",
    { className: wrong ? "caption wrong" : "caption" },
    element("span", {}, truth),
    ...(wrong ? [element("span", { className: "read" }, `→${read}`)] : []),
  );
  const text = exampleText(example);
  const properties = { type: "button", title: text, ariaLabel: text };
  const button = element("button", properties, canvas, caption);
  button.addEventListener("click", () => showExample(i));
  byId("examples").append(element("li", {}, button));
});
markExample();
redraw();

const steps = stepsOf(network, stages).map((step) => ({ ...step, extent: () => extentOf(step) }));
const named = (names) => Object.fromEntries(names.map((name) => [name, byId(`slow-${name}`)]));
const parts = named(["toggle", "bar", "name", "why", "back", "next", "play"]);
slow = new SlowSteps(steps, parts, showStep, scrollToStep);
