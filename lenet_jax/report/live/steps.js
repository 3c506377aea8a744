// The slow steps: what each operation does, and why, in one sentence each.

const FEW = 8; // values that are computed slowly, up to the largest one
const TIMES = [1500, 5000, 2500]; // ms: up to these, for them, and for those that follow
const PAUSE = 4000; // ms between a step and the next while it plays

/** The steps: a stage, whether it is seen before its activation, a name and a reason. */
function stepsOf(network, stages) {
  const act = activationName(network.activation);
  const isMax = network.pool === "max";
  const needed = "without something that bends, all layers together would be no more than one.";
  const activation =
    network.activation === "relu"
      ? `ReLU turns every negative sum into 0: only what was looked for is passed on; ${needed}`
      : `${act} bends every sum; ${needed}`;
  const pooling = isMax
    ? "Of each 2×2 block only the largest value remains: that a feature is there counts, and a " +
      "shift by a pixel matters less; a quarter of the numbers are left to compute with."
    : "Of each 2×2 block the mean remains: a shift by a pixel matters less, and a quarter of the " +
      "numbers are left to compute with.";
  const units = (layer) => network.layers[layer].bias.length;
  const [first, second] = [units("conv1"), units("conv2")];
  const reasons = {
    input: network.form.handwriting
      ? "What is drawn is cropped, scaled and centred by its mass, as the images were that the " +
        "network was trained on, so that it need not learn where or how large people write."
      : "What is drawn is scaled to the size of the images that the network was trained on.",
    normalised:
      "The mean of the training pixels is subtracted and the result divided by their standard " +
      "deviation: numbers around 0 are what training works best with.",
    conv1:
      `Each of ${first} filters slides a 5×5 window over the image and adds up pixels times ` +
      "weights: a large sum says that what it looks for, an edge or an end, is here. One filter " +
      "serves every place, so few weights suffice.",
    "conv1.pool": pooling,
    conv2:
      `Each of ${second} filters looks through a 5×5 window at all ${first} maps at once: edges ` +
      "are combined into corners, curves and loops.",
    "conv2.pool": pooling,
    flatten:
      "The maps are written as one row of numbers, since a linear layer takes a row: nothing is " +
      "computed, and every number keeps its meaning.",
    fc1:
      `Each of ${units("fc1")} units weighs all numbers at once and adds them up: features from ` +
      "every place are combined, which a window cannot do.",
    fc2: `${units("fc2")} units weigh what the ${units("fc1")} before found: evidence is gathered.`,
    fc3:
      "One number for each class, the evidence for and against it. No activation follows: " +
      "evidence against a class counts too. Softmax turns the logits into probabilities.",
  };
  const names = { image: "Input", normalise: "Normalisation", convolution: "Convolution" };
  Object.assign(names, { pool: "Pooling", flatten: "Flatten", linear: "Linear" });
  return stages.flatMap((stage) => {
    const step = { stage, name: names[stage.kind], why: reasons[stage.key] };
    if (stage.layer || stage.kind === "pool") step.name = `${stage.key}: ${names[stage.kind]}`;
    if (!stage.before || stage.before === stage.output) return [step];
    return [
      { ...step, before: true },
      { stage, name: `${stage.key}: ${act}`, why: activation, isActivation: true },
    ];
  });
}

/** Runs through the steps; `show` draws one up to a number of values of each map, or whole. */
class SlowSteps {
  constructor(steps, parts, show, scroll) {
    Object.assign(this, { steps, parts, show, scroll, index: null, timer: 0, playing: false });
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    parts.toggle.addEventListener("click", () => this.turn(this.index === null));
    parts.back.addEventListener("click", () => this.go(this.index - 1));
    parts.next.addEventListener("click", () => this.go(this.index + 1));
    parts.play.addEventListener("click", () => this.play(!this.playing));
  }

  turn(on) {
    this.parts.toggle.setAttribute("aria-checked", on);
    this.parts.bar.hidden = !on;
    this.stop();
    this.index = null;
    if (on) this.go(0);
    else this.show(null);
  }

  go(index) {
    this.stop();
    this.index = clip(index, 0, this.steps.length - 1);
    const { name, why } = this.steps[this.index];
    const { parts } = this;
    parts.name.textContent = `Step ${this.index + 1} of ${this.steps.length} · ${name}`;
    parts.why.textContent = why;
    parts.back.disabled = this.index === 0;
    parts.next.disabled = this.index === this.steps.length - 1;
    this.scroll(this.steps[this.index]);
    this.animate();
  }

  play(on) {
    this.playing = on;
    this.parts.play.textContent = on ? "Pause" : "Play";
    if (on) this.go(this.index);
    else this.finish();
  }

  /** Lets the values of a step appear one by one, slowly where they become large. */
  animate() {
    const step = this.steps[this.index];
    const { count, largest } = step.extent();
    if (this.still.matches || step.isActivation || !this.moves(step)) return this.finish();
    const ends = [Math.max(largest - FEW + 1, 0), largest + 1, count];
    const start = performance.now();
    const tick = (now) => {
      let [elapsed, phase, done] = [now - start, 0, 0];
      while (phase < 3 && elapsed >= TIMES[phase]) elapsed -= TIMES[phase++];
      if (phase === 3) return this.finish();
      done = phase ? ends[phase - 1] : 0;
      this.show(step, Math.floor(done + (elapsed / TIMES[phase]) * (ends[phase] - done)));
      this.timer = requestAnimationFrame(tick);
    };
    tick(start);
  }

  moves({ stage }) {
    return ["convolution", "pool", "linear"].includes(stage.kind);
  }

  finish() {
    this.stop();
    this.show(this.steps[this.index], null);
    if (!this.playing) return;
    if (this.index === this.steps.length - 1) return this.play(false);
    this.pause = setTimeout(() => this.go(this.index + 1), PAUSE);
  }

  stop() {
    cancelAnimationFrame(this.timer);
    clearTimeout(this.pause);
  }
}
