// The stages that the page draws, from the input to the logits, and what their values are made of.

/**
 * The stages in their order: `output` names what is drawn, a step of `forward`; `source` the stage
 * that it is computed from; `before` the step before the activation.
 */
function stagesOf(network) {
  const stages = [
    { key: "input", kind: "image", output: "input", title: "Input" },
    { key: "normalised", kind: "normalise", source: "input", output: "normalised" },
  ];
  stages[1].title = outerOffset(network) ? "Padded and normalised" : "Normalised";
  const act = network.activation;
  for (const layer of ["conv1", "conv2"]) {
    const source = stages.at(-1).key;
    const [output, pooled] = [`${layer}.${act}`, `${layer}.pool`];
    const title = `${layer}, then ${activationName(act)}`;
    stages.push({ key: layer, kind: "convolution", layer, source, before: layer, output, title });
    const poolTitle = `${pooled}, ${network.pool === "max" ? "the largest" : "the mean"} of 2×2`;
    stages.push({ key: pooled, kind: "pool", source: layer, output: pooled, title: poolTitle });
    stages.at(-1).unpooled = output;
  }
  const flat = { kind: "flatten", source: "conv2.pool", output: "flatten", title: "flatten" };
  stages.push({ key: "flatten", ...flat });
  for (const layer of ["fc1", "fc2", "fc3"]) {
    const source = stages.at(-1).key;
    const last = layer === "fc3";
    const output = last ? layer : `${layer}.${act}`;
    const title = last ? "fc3, the logits" : `${layer}, then ${activationName(act)}`;
    stages.push({ key: layer, kind: "linear", layer, source, before: layer, output, title });
  }
  return stages;
}

function activationName(activation) {
  return activation === "relu" ? "ReLU" : activation;
}

/** How far the picture lies within what the first layer takes, in pixels. */
function outerOffset({ form, imageSize, padding }) {
  return padding + Math.max(Math.floor((imageSize - form.size) / 2), 0);
}

/** The picture without what pads it to the network's size. */
function withoutPadding(image, { form, imageSize }) {
  const side = Math.min(form.size, imageSize);
  const start = Math.floor((imageSize - side) / 2);
  const picture = volume(side, side, image.channels);
  picture.values.forEach((_, i) => {
    const place = Math.floor(i / image.channels);
    const [y, x] = [start + Math.floor(place / side), start + (place % side)];
    picture.values[i] = valueAt(image, y, x, i % image.channels);
  });
  return picture;
}

/** A number as people read it: two decimals, or three digits where it is large or tiny. */
function format(value) {
  const size = Math.abs(value);
  const text = size && (size >= 1000 || size < 0.01) ? size.toPrecision(2) : size.toFixed(2);
  return (value < 0 ? "−" : "") + text;
}

/** The same with three decimals, for numbers that are added up. */
function exact(value) {
  const text = Math.abs(value).toFixed(3);
  return (value < 0 && Number(text) ? "−" : "") + text;
}

/** The same in at most four characters, for tables: −.36, 1.2, −14, 0. */
function short(value) {
  const size = Math.abs(value);
  const text = size.toFixed(size < 0.995 ? 2 : size < 9.95 ? 1 : 0);
  if (Number(text) === 0) return "0";
  return (value < 0 ? "−" : "") + text.replace(/^0/, "");
}

const signed = (value) => (value < 0 ? exact(value) : `+${exact(value)}`);

const sumOf = (values) => values.reduce((total, value) => total + value, 0);

/** Values with three decimals whose sum is the total with three decimals, each off by ≤ 0.001. */
function addUp(values, total) {
  const scaled = values.map((value) => 1000 * value);
  const rounded = scaled.map(Math.round);
  const missing = Math.round(1000 * total) - sumOf(rounded);
  const step = Math.sign(missing);
  const gains = scaled.map((value, i) => step * (value - rounded[i]));
  const order = [...gains.keys()].sort((a, b) => gains[b] - gains[a]);
  for (let i = 0; i < Math.abs(missing); i++) rounded[order[i % order.length]] += step;
  return rounded.map((value) => value / 1000);
}

/**
 * What a value of a stage is made of: a sentence, and what the panel draws of it. `reads` are the
 * parts of the source that it is computed from: boxes, in one map or (without `map`) in all.
 */
function explain(network, outputs, stage, { map, row: y, column: x, unit }) {
  const makers = {
    image: explainPixel,
    normalise: explainNormalised,
    convolution: explainConvolution,
    pool: explainPooled,
    flatten: explainFlat,
    linear: explainUnit,
  };
  return makers[stage.kind](network, outputs, stage, { map, row: y, column: x, unit });
}

function explainPixel(network, { input }, stage, { map, row: y, column: x }) {
  const colour = input.channels === 3;
  const values = (colour ? [0, 1, 2] : [map]).map((channel) => valueAt(input, y, x, channel));
  const what = colour ? "red, green and blue are" : "the pixel is";
  return {
    sentence: `Row ${y}, column ${x}: ${what} ${values.join(", ")} of 255.`,
    reads: [],
  };
}

function explainNormalised(network, { input, normalised }, stage, { map, row: y, column: x }) {
  const offset = outerOffset(network);
  const [top, left] = [y - offset, x - offset];
  const inside = top >= 0 && left >= 0 && top < input.height && left < input.width;
  const result = valueAt(normalised, y, x, map);
  const where = `Row ${y}, column ${x}${input.channels > 1 ? `, channel ${map}` : ""}`;
  const added = network.padding;
  const end = network.imageSize + added;
  if (y < added || x < added || y >= end || x >= end) {
    return { sentence: `${where}: a zero that pads the normalised image.`, reads: [] };
  }
  const pixel = inside ? valueAt(input, top, left, map) : 0;
  const origin = inside ? `the pixel ${pixel}` : "padding, a pixel of 0";
  const [mean, std] = [exact(network.mean[map]), exact(network.std[map])];
  return {
    sentence: `${where}: ${origin}; (${pixel} − ${mean}) / ${std} = ${exact(result)}.`,
    reads: inside ? [{ row: top, column: left, height: 1, width: 1 }] : [],
  };
}

function explainConvolution(network, outputs, stage, { map, row: y, column: x }) {
  const { kernel, bias, size } = network.layers[stage.layer];
  const source = outputs[outputOf(network, stage.source)];
  const windows = Array.from({ length: source.channels }, (_, channel) => {
    const places = Array.from({ length: size * size }, (_, i) => [Math.floor(i / size), i % size]);
    const values = places.map(([dy, dx]) => valueAt(source, y + dy, x + dx, channel));
    const weights = places.map(
      ([dy, dx]) => kernel[((dy * size + dx) * source.channels + channel) * bias.length + map],
    );
    const products = values.map((value, i) => value * weights[i]);
    return { channel, size, values, weights, products, sum: sumOf(products) };
  });
  windows.sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum));
  const sum = sumOf(windows.map((each) => each.sum));
  const [before, after] = [stage.before, stage.output].map((name) =>
    valueAt(outputs[name], y, x, map),
  );
  const count = size * size * source.channels;
  const [shown, shownBias] = addUp([sum, bias[map]], before);
  const sums = addUp(
    windows.map((each) => each.sum),
    shown,
  );
  windows.forEach((each, i) => (each.sum = sums[i]));
  return {
    sentence:
      `Map ${map}, row ${y}, column ${x}: ${count} products of window and kernel add up to ` +
      `${exact(shown)}; with the bias ${signed(shownBias)} it is ${exact(before)}; ` +
      `${activationName(network.activation)} gives ${exact(after)}.`,
    windows,
    scale: scaleOf(source.values),
    total: {
      sum,
      bias: bias[map],
      shown: [shown, shownBias],
      before,
      after,
      activation: network.activation,
    },
    reads: [{ row: y, column: x, height: size, width: size }],
  };
}

function explainPooled(network, outputs, stage, { map, row: y, column: x }) {
  const source = outputs[outputOf(network, stage.source)];
  const four = blockOf(source, y, x, map);
  const result = valueAt(outputs[stage.output], y, x, map);
  const isMax = network.pool === "max";
  const isOne = isMax && new Set(four).size > 1;
  const winner = isOne ? four.indexOf(Math.max(...four)) : null;
  const box = { map, row: 2 * y, column: 2 * x, height: 2, width: 2 };
  const names = ["upper left", "upper right", "lower left", "lower right"];
  const at = winner === null ? "" : names[winner];
  return {
    sentence:
      `Map ${map}, row ${y}, column ${x}: ${isMax ? "the largest" : "the mean"} of ` +
      `${four.map(exact).join(", ")} is ${exact(result)}${at && `, the ${at} one`}.`,
    block: { values: four, winner },
    scale: scaleOf(source.values),
    reads: [box],
  };
}

function explainFlat(network, outputs, stage, { unit }) {
  const maps = outputs["conv2.pool"];
  const place = Math.floor(unit / maps.channels);
  const box = {
    map: unit % maps.channels,
    row: Math.floor(place / maps.width),
    column: place % maps.width,
  };
  const value = exact(outputs.flatten.values[unit]);
  return {
    sentence: `Number ${unit} is ${value}: map ${box.map}, row ${box.row}, column ${box.column}.`,
    reads: [{ ...box, height: 1, width: 1 }],
  };
}

const STRONGEST = 8; // contributions that are named

function explainUnit(network, outputs, stage, { unit }) {
  const { kernel, bias } = network.layers[stage.layer];
  const inputs = outputs[outputOf(network, stage.source)].values;
  const every = Array.from(inputs, (value, index) => {
    const weight = kernel[index * bias.length + unit];
    return { index, value, weight, product: value * weight };
  });
  const strongest = [...every]
    .sort((a, b) => Math.abs(b.product) - Math.abs(a.product))
    .slice(0, STRONGEST);
  const sum = sumOf(every.map((each) => each.product));
  const [before, after] = [stage.before, stage.output].map((name) => outputs[name].values[unit]);
  const isLast = stage.before === stage.output;
  const name = isLast ? `The logit of “${network.classes[unit]}”` : `Unit ${unit}`;
  const activated = isLast
    ? "."
    : `; ${activationName(network.activation)} gives ${exact(after)}.`;
  const [shown, shownBias] = addUp([sum, bias[unit]], before);
  const rest = sum - sumOf(strongest.map((each) => each.product));
  const products = addUp([...strongest.map((each) => each.product), rest], shown);
  return {
    sentence:
      `${name}: ${inputs.length} inputs times their weights add up to ${exact(shown)}; ` +
      `with the bias ${signed(shownBias)} it is ${exact(before)}${activated}`,
    contributions: {
      strongest: strongest.map((each, i) => ({ ...each, product: products[i] })),
      others: every.length - strongest.length,
      rest: products.at(-1),
    },
    total: {
      sum,
      bias: bias[unit],
      shown: [shown, shownBias],
      before,
      after,
      activation: isLast ? null : network.activation,
    },
    reads: strongest.map(({ index }) => ({ unit: index })),
  };
}

/** The step of `forward` that a stage draws. */
function outputOf(network, key) {
  return stagesOf(network).find((stage) => stage.key === key).output;
}
