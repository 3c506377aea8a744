// The forward pass of a LeNet, step by step, as `LeNet.activations` in Python computes it.
// A volume is {height, width, channels, values}, its channels fastest, as images are in Python.

/** The bytes of base64 text. */
function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

/** Float32 numbers of base64 text: little-endian, as every browser's machine has them. */
function floatsOf(text) {
  return new Float32Array(bytesOf(text).buffer);
}

/** The error function. Source: Abramowitz and Stegun, 7.1.26; to 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const coefficients = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = coefficients.reduce((total, coefficient) => total * t + coefficient, 0);
  return Math.sign(x) * (1 - sum * t * Math.exp(-x * x));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// With the parameters that PyTorch and `ops.ACTIVATIONS` have by default.
const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  silu: (x) => x * sigmoid(x),
  tanh: Math.tanh,
  sigmoid,
};

function volume(height, width, channels) {
  return { height, width, channels, values: new Float32Array(height * width * channels) };
}

function valueAt({ width, channels, values }, row, column, channel) {
  return values[(row * width + column) * channels + channel];
}

/** (pixels − mean) / std, with zeros around it. */
function normalise(image, mean, std, padding) {
  const { height, width, channels, values } = image;
  const padded = volume(height + 2 * padding, width + 2 * padding, channels);
  for (let row = 0; row < height; row++) {
    const start = ((row + padding) * padded.width + padding) * channels;
    for (let i = 0; i < width * channels; i++) {
      const channel = i % channels;
      const pixel = values[row * width * channels + i];
      padded.values[start + i] = (pixel - mean[channel]) / std[channel];
    }
  }
  return padded;
}

/** A 5×5 convolution (valid, stride 1), with its bias; `kernel` has the layout (5, 5, in, out). */
function convolve(input, { kernel, bias, size }) {
  const outputs = bias.length;
  const output = volume(input.height - size + 1, input.width - size + 1, outputs);
  const run = size * input.channels; // a row of the window is contiguous
  const sums = new Float64Array(outputs);
  for (let row = 0; row < output.height; row++) {
    for (let column = 0; column < output.width; column++) {
      sums.set(bias);
      for (let y = 0; y < size; y++) {
        const start = ((row + y) * input.width + column) * input.channels;
        for (let i = 0; i < run; i++) {
          const value = input.values[start + i];
          const weights = (y * run + i) * outputs;
          for (let k = 0; k < outputs; k++) sums[k] += value * kernel[weights + k];
        }
      }
      output.values.set(sums, (row * output.width + column) * outputs);
    }
  }
  return output;
}

function activate(input, activation) {
  return { ...input, values: input.values.map(ACTIVATIONS[activation]) };
}

/** The largest, or the mean, of each 2×2 block. */
function pool(input, kind) {
  const output = volume(input.height / 2, input.width / 2, input.channels);
  for (let row = 0; row < output.height; row++) {
    for (let column = 0; column < output.width; column++) {
      for (let channel = 0; channel < output.channels; channel++) {
        const block = blockOf(input, row, column, channel);
        output.values[(row * output.width + column) * output.channels + channel] =
          kind === "max" ? Math.max(...block) : block.reduce((sum, value) => sum + value) / 4;
      }
    }
  }
  return output;
}

/** The four values that a pooled pixel is of. */
function blockOf(input, row, column, channel) {
  return [0, 1, 2, 3].map((i) =>
    valueAt(input, 2 * row + (i >> 1), 2 * column + (i & 1), channel),
  );
}

/** x @ kernel + bias, of a row of numbers; `kernel` has the layout (in, out). */
function connect(input, { kernel, bias }) {
  const outputs = bias.length;
  const sums = Float64Array.from(bias);
  input.values.forEach((value, i) => {
    for (let k = 0; k < outputs; k++) sums[k] += value * kernel[i * outputs + k];
  });
  return row(Float32Array.from(sums));
}

function row(values) {
  return { height: 1, width: values.length, channels: 1, values };
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map((power) => power / total);
}

/** log Σ exp of the logits: high where the network knows what it sees. */
function energyOf(logits) {
  const largest = Math.max(...logits);
  return largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
}

/** The output of every step, by its name, of an image: a volume of pixels in 0 to 255. */
function forward(network, image) {
  const { layers, mean, std, padding, activation } = network;
  const outputs = { image, normalised: normalise(image, mean, std, padding) };
  let x = outputs.normalised;
  for (const name of ["conv1", "conv2"]) {
    outputs[name] = convolve(x, layers[name]);
    outputs[`${name}.${activation}`] = activate(outputs[name], activation);
    outputs[`${name}.pool`] = x = pool(outputs[`${name}.${activation}`], network.pool);
  }
  outputs.flatten = x = row(x.values);
  for (const name of ["fc1", "fc2"]) {
    outputs[name] = connect(x, layers[name]);
    outputs[`${name}.${activation}`] = x = activate(outputs[name], activation);
  }
  outputs.fc3 = connect(x, layers.fc3);
  return outputs;
}

/** Reads the network and the test images that Python wrote into the page. */
function readNetwork(data) {
  const layers = Object.fromEntries(
    Object.entries(data.layers).map(([name, { kernel, bias, size }]) => [
      name,
      { kernel: floatsOf(kernel), bias: floatsOf(bias), size },
    ]),
  );
  return { ...data, layers, pixels: bytesOf(data.pixels) };
}
