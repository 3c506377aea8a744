// From a drawing to the form of the images that the network was trained on: cropped, scaled and
// centred as `characters.normalise` in Python does, with Pillow's resampling.

/** Rounds halves to even, as Python does. */
function roundEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 ? floor + 1 : floor;
}

const clip = (x, low, high) => Math.min(Math.max(x, low), high);

/** What is drawn in a group's box, 0 to 1, with its edges. */
function inkOf(group, contrast, side) {
  const [height, width] = [heightOf(group), widthOf(group)];
  const cut = cutOut(contrast, group, side);
  const own = new Uint8Array(cut.filter((_, i) => group.mask[i])).sort();
  const place = 0.8 * (own.length - 1);
  const low = own[Math.floor(place)];
  const full = low + (place % 1) * (own[Math.ceil(place)] - low);
  const columns = transpose(spread(group.mask, width, 2), width);
  const near = transpose(spread(columns, height, 2), height);
  return cut.map((value, i) => (near[i] ? Math.min(value / full, 1) : 0));
}

/** Extends a mask by `reach` pixels along its rows. */
function spread(mask, width, reach) {
  const wider = new Uint8Array(mask.length);
  for (let start = 0; start < mask.length; start += width) {
    for (let x = 0; x < width; x++) {
      if (!mask[start + x]) continue;
      wider.fill(1, start + Math.max(x - reach, 0), start + Math.min(x + reach + 1, width));
    }
  }
  return wider;
}

function bicubic(x) {
  const t = Math.abs(x);
  if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
  return t < 2 ? -0.5 * (((t - 5) * t + 8) * t - 4) : 0;
}

const bilinear = (x) => Math.max(1 - Math.abs(x), 0);

/** Pillow's antialiased resampling of the rows of an image, each `length` long, to `target`. */
function resampleRows(values, length, target, kernel, support, round) {
  const rows = values.length / length;
  const output = new Float32Array(rows * target);
  const scale = length / target;
  const stretch = Math.max(scale, 1);
  for (let place = 0; place < target; place++) {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support * stretch + 0.5), length);
    const weights = [];
    for (let i = first; i < last; i++) weights.push(kernel((i - centre + 0.5) / stretch));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let y = 0; y < rows; y++) {
      let sum = 0;
      for (let i = first; i < last; i++) {
        sum += values[y * length + i] * (weights[i - first] / total);
      }
      output[y * target + place] = round(sum);
    }
  }
  return output;
}

function transpose(values, width) {
  const turned = new values.constructor(values.length);
  const height = values.length / width;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) turned[x * height + y] = values[y * width + x];
  }
  return turned;
}

function resize(values, size, target, kernel, support, round = (x) => x) {
  const across = resampleRows(values, size.width, target.width, kernel, support, round);
  const columns = transpose(across, target.width);
  const down = resampleRows(columns, size.height, target.height, kernel, support, round);
  return transpose(down, target.height);
}

/** Scales what is drawn into a box and puts its centre of mass into the middle. */
function centre(ink, group, size, box) {
  const extents = { height: heightOf(group), width: widthOf(group) };
  const scaled = (extent) => Math.max(1, roundEven((extent * box) / longerOf(group)));
  const target = { height: scaled(extents.height), width: scaled(extents.width) };
  const resized = resize(ink, extents, target, bicubic, 2);
  const largest = resized.reduce((a, b) => Math.max(a, b));
  const drawn = resized.map((value) => clip(value / largest, 0, 1));
  let [mass, rows, columns] = [0, 0, 0];
  drawn.forEach((value, i) => {
    mass += value;
    rows += value * (Math.floor(i / target.width) + 0.5);
    columns += value * ((i % target.width) + 0.5);
  });
  const offset = (moment, extent) =>
    clip(roundEven(size / 2 - moment / mass), 0, size - extent);
  const [top, left] = [offset(rows, target.height), offset(columns, target.width)];
  const pixels = new Uint8Array(size * size);
  drawn.forEach((value, i) => {
    const y = top + Math.floor(i / target.width);
    pixels[y * size + left + (i % target.width)] = roundEven(Math.fround(255 * value));
  });
  return pixels;
}

/** Brings a square grey picture to the network's image, by padding or by resizing. */
function fit(pixels, { form, imageSize, channels }) {
  let [picture, side] = [pixels, form.size];
  if (form.fit === "resize" && side !== imageSize) {
    picture = resizePicture(pixels, side, imageSize);
    side = imageSize;
  }
  const image = volume(imageSize, imageSize, channels);
  const start = Math.floor((imageSize - side) / 2);
  picture.forEach((pixel, i) => {
    const place = (start + Math.floor(i / side)) * imageSize + start + (i % side);
    image.values.fill(pixel, place * channels, (place + 1) * channels);
  });
  return image;
}

function resizePicture(pixels, side, target) {
  const [from, to] = [side, target].map((each) => ({ height: each, width: each }));
  return resize(Float32Array.from(pixels), from, to, bilinear, 1, Math.round);
}

/**
 * The image that the network is given of a drawing, how many characters were found in it, and the
 * box of the one that is read.
 * @param {Uint8Array} grey - the sheet, SHEET × SHEET pixels, light on dark.
 */
function prepare(grey, network) {
  const { form } = network;
  if (!form.handwriting) {
    return { image: fit(resizePicture(grey, SHEET, form.size), network), found: 1, box: null };
  }
  const contrast = smooth(grey, SHEET);
  const groups = findCharacters(contrast, SHEET);
  let [pixels, box] = [new Uint8Array(form.size ** 2), null];
  if (groups.length) {
    const area = (group) => heightOf(group) * widthOf(group);
    box = groups.reduce((best, group) => (area(group) > area(best) ? group : best));
    pixels = centre(inkOf(box, contrast, SHEET), box, form.size, form.box);
  }
  const ground = form.darkOnLight ? 255 : 0;
  const turned = pixels.map((pixel) => Math.abs(ground - pixel));
  return { image: fit(turned, network), found: groups.length, box };
}
