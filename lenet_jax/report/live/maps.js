// Draws the stages: a canvas for each map, one colour scale for each stage, and what is selected.

const MOST_MAPS = 64; // of a stage
const COLUMNS = 50; // cells in a row of what is no image, or more, so that it is no column

// As the report's figures have them: matplotlib's magma, from 0 up, and RdBu, around 0.
const PALETTES = {
  grey: ["#000000", "#ffffff"],
  rising: ["#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"],
  signed: ["#053061", "#4393c3", "#d1e5f0", "#f7f6f6", "#fddbc7", "#d6604d", "#67001f"],
};

/** 256 colours, as red, green, blue and opacity, between the stops of a palette. */
function tableOf(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((i) => parseInt(stop.slice(i, i + 2), 16)));
  return Uint8ClampedArray.from({ length: 4 * 256 }, (_, i) => {
    const place = (Math.floor(i / 4) / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const [a, b] = [parts[low][i % 4], parts[low + 1][i % 4]];
    return i % 4 === 3 ? 255 : a + (place - low) * (b - a);
  });
}

const TABLES = Object.fromEntries(
  Object.entries(PALETTES).map(([name, stops]) => [name, tableOf(stops)]),
);

/** The colours of values: grey for pixels, else from 0 up, or around 0 where some are below. */
function scaleOf(values, isPixels = false) {
  if (isPixels) return { palette: "grey", low: 0, high: 255 };
  let [low, high] = [0, 0];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const largest = Math.max(-low, high) || 1;
  return low < 0
    ? { palette: "signed", low: -largest, high: largest }
    : { palette: "rising", low: 0, high: largest };
}

/** A scale around 0, also where no value is below it. */
function signedScaleOf(values) {
  const { high } = scaleOf(values);
  return { palette: "signed", low: -high, high };
}

const gradientOf = ({ palette }) => `linear-gradient(90deg, ${PALETTES[palette].join(", ")})`;

function levelOf(value, { low, high }) {
  return clip(Math.round((255 * (value - low)) / (high - low)), 0, 255);
}

/** The background of a number, and black or white for the number itself. */
function colourOf(value, scale) {
  const [r, g, b] = TABLES[scale.palette].subarray(4 * levelOf(value, scale));
  const isLight = 0.299 * r + 0.587 * g + 0.114 * b > 140;
  return { background: `rgb(${r} ${g} ${b})`, color: isLight ? "#000" : "#fff" };
}

/** An element with properties and children; texts are never parsed. */
function element(tag, properties = {}, ...children) {
  const { style, ...rest } = properties;
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(rest)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  Object.assign(node.style, style);
  node.append(...children);
  return node;
}

/** Paints a map into a canvas of one pixel a value; `progress` values are shown, the others not. */
function paint(canvas, valueOf, scale, progress = Infinity) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const table = TABLES[scale.palette];
  for (let i = 0; i < Math.min(width * height, progress); i++) {
    const value = valueOf(i);
    if (value === undefined) continue;
    const level = Array.isArray(value) ? 0 : levelOf(value, scale);
    const colour = Array.isArray(value) ? [...value, 255] : table.subarray(4 * level, 4 * level + 4);
    image.data.set(colour, 4 * i);
  }
  context.putImageData(image, 0, 0);
}

/** How many maps a stage has, and the sides of each. */
function layoutOf(stage, { height, width, channels }) {
  if (height === 1) {
    const rows = Math.ceil(width / Math.max(COLUMNS, Math.ceil(Math.sqrt(8 * width))));
    const columns = Math.ceil(width / rows);
    return { maps: 1, rows, columns, units: width, size: `${width} numbers` };
  }
  const maps = stage.kind === "image" && channels === 3 ? 1 : channels;
  const size = `${height}×${width}`;
  if (maps === 1) return { maps, rows: height, columns: width, size: `${size} pixels` };
  return { maps, rows: height, columns: width, size: `${maps} maps of ${size}` };
}

/** The part of the page that shows one stage. */
class StageView {
  /**
   * @param {object} stage - one of `stagesOf`.
   * @param {object} output - its volume, for the sizes.
   * @param {(place: object, event: string) => void} report - takes where a pixel is pointed at,
   *   chosen or left.
   */
  constructor(stage, output, report) {
    this.stage = stage;
    this.layout = layoutOf(stage, output);
    this.report = report;
    this.place = { map: 0, row: 0, column: 0 };
    const shown = Math.min(this.layout.maps, MOST_MAPS);
    const some = shown < this.layout.maps ? `, the first ${shown} shown` : "";
    this.low = element("span");
    this.high = element("span");
    this.strip = element("i");
    this.views = Array.from({ length: shown }, (_, map) => this.makeMap(map));
    this.maps = element(
      "div",
      {
        className: this.layout.units ? "maps row" : "maps",
        tabIndex: 0,
        role: "application",
        ariaLabel:
          `${stage.title}, ${this.layout.size}. Arrow keys move from value to value` +
          (shown > 1 ? ", Page Up and Page Down from map to map." : "."),
      },
      ...this.views.map((view) => view.figure),
    );
    const title = element("h3", {}, stage.title);
    const size = element("span", { className: "size" }, this.layout.size + some);
    this.scale = element("div", { className: "scale", ariaHidden: "true" });
    this.scale.append(this.low, this.strip, this.high);
    const header = element("header", {}, title, size, this.scale);
    this.node = element("section", { className: "stage" }, header, this.maps);
    this.maps.addEventListener("keydown", (event) => this.onKey(event));
  }

  makeMap(map) {
    const { rows, columns, maps } = this.layout;
    const canvas = element("canvas", { width: columns, height: rows });
    const frame = element("div", { className: "frame" }, canvas);
    const figure = element("figure", {}, frame);
    if (maps > 1) figure.append(element("figcaption", {}, `${map}`));
    figure.style.setProperty("--columns", columns);
    figure.classList.toggle("small", columns < 20);
    const pointed = (event) => {
      const box = canvas.getBoundingClientRect();
      const at = (offset, side, count) => clip(Math.floor((offset / side) * count), 0, count - 1);
      const row = at(event.clientY - box.top, box.height, rows);
      const column = at(event.clientX - box.left, box.width, columns);
      return this.at({ map, row, column });
    };
    const tell = (kind) => (event) => {
      const place = pointed(event);
      if (place && (kind !== "point" || event.pointerType === "mouse")) this.report(place, kind);
    };
    canvas.addEventListener("pointermove", tell("point"));
    canvas.addEventListener("click", tell("choose"));
    canvas.addEventListener("pointerleave", () => this.report(null, "leave"));
    return { canvas, frame, figure };
  }

  /** A place with the number of its unit, of what is no image; null beyond the last one. */
  at({ map, row, column }) {
    const { rows, columns, maps, units } = this.layout;
    const place = {
      stage: this.stage,
      map: clip(map, 0, Math.min(maps, MOST_MAPS) - 1),
      row: clip(row, 0, rows - 1),
      column: clip(column, 0, columns - 1),
    };
    if (!units) return place;
    const unit = place.row * columns + place.column;
    return unit < units ? { ...place, unit } : null;
  }

  onKey(event) {
    const moves = {
      ArrowLeft: { column: -1 },
      ArrowRight: { column: 1 },
      ArrowUp: { row: -1 },
      ArrowDown: { row: 1 },
      PageUp: { map: -1 },
      PageDown: { map: 1 },
      Enter: {},
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { map, row, column } = this.place;
    const next = this.at({
      map: map + (move.map ?? 0),
      row: row + (move.row ?? 0),
      column: column + (move.column ?? 0),
    });
    if (next) this.report(next, "choose");
  }

  /** Draws nothing: of an empty sheet. */
  clear() {
    for (const { canvas } of this.views) {
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    }
    this.scale.hidden = true;
  }

  /** Draws a volume, up to a value of each map, with the scale of the whole stage. */
  draw(output, progress) {
    this.scale.hidden = false;
    const { channels, values } = output;
    const isPixels = this.stage.kind === "image";
    const scale = scaleOf(values, isPixels);
    const colours = isPixels && channels === 3;
    this.views.forEach(({ canvas }, map) => {
      const valueOf = colours
        ? (i) => Array.from(values.subarray(3 * i, 3 * i + 3))
        : (i) => values[i * channels + map];
      paint(canvas, valueOf, scale, progress);
    });
    this.low.textContent = isPixels ? "0" : format(scale.low);
    this.high.textContent = isPixels ? "255" : format(scale.high);
    this.strip.style.background = gradientOf(scale);
  }

  /** Outlines boxes, or units, in one map or in all. */
  mark(boxes, className) {
    const { rows, columns } = this.layout;
    for (const box of boxes) {
      const { height = 1, width = 1 } = box;
      const row = box.unit === undefined ? box.row : Math.floor(box.unit / columns);
      const column = box.unit === undefined ? box.column : box.unit % columns;
      const views = box.map === undefined ? this.views : this.views.slice(box.map, box.map + 1);
      for (const { frame } of views) {
        const percent = (part, whole) => `${(100 * part) / whole}%`;
        const style = {
          top: percent(row, rows),
          left: percent(column, columns),
          height: percent(height, rows),
          width: percent(width, columns),
        };
        frame.append(element("i", { className: `mark ${className}`, style }));
      }
    }
  }

  /** Shows the kernel of each map, of a layer that reads one map, beside its number. */
  addKernels({ kernel, bias, size }) {
    const scale = signedScaleOf(kernel);
    const strip = element("i", { style: { background: gradientOf(scale) } });
    const ends = [scale.low, scale.high].map((value) => element("span", {}, format(value)));
    const bar = element("div", { className: "scale", ariaHidden: "true" }, "kernels");
    bar.append(ends[0], strip, ends[1]);
    this.node.append(bar);
    this.views.forEach(({ figure }, map) => {
      const properties = { width: size, height: size, className: "kernel", ariaHidden: "true" };
      const canvas = element("canvas", properties);
      paint(canvas, (i) => kernel[i * bias.length + map], scale);
      figure.lastChild.append(canvas);
    });
  }

  /** Writes a name below each number of a row. */
  addLabels(names) {
    const [{ figure }] = this.views;
    figure.classList.add("labelled");
    figure.append(
      element("div", { className: "labels" }, ...names.map((name) => element("span", {}, name))),
    );
  }

  unmark() {
    for (const mark of this.node.querySelectorAll(".mark")) mark.remove();
  }
}
