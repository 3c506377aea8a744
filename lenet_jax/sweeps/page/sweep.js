// The page of a sweep: a table to sort and to filter, and each member as a line over the axes.

const MOST_ROWS = 500; // of the table
const MOST_LINES = 2000;
const WIDTH = 1200;
const HEIGHT = 340;
const EDGE = 60; // around the axes
const MOST_TICKS = 6; // of an axis, at its own values

// Whether a value passes a filter: a text, a number, `>1`, `<1` or `1..2`; an empty one is none.
function passes(value, filter) {
  const text = filter.trim();
  if (text === "") return true;
  if (value === null) return false;
  const range = text.match(/^(.*)\.\.(.*)$/);
  const bound = text.match(/^([<>]=?)(.+)$/);
  if (typeof value === "number" && range) {
    const [low, high] = [range[1], range[2]].map((end) => end.trim());
    return (low === "" || value >= Number(low)) && (high === "" || value <= Number(high));
  }
  if (typeof value === "number" && bound) {
    const limit = Number(bound[2]);
    if (bound[1][0] === ">") return value > limit || (bound[1] === ">=" && value === limit);
    return value < limit || (bound[1] === "<=" && value === limit);
  }
  if (typeof value === "number" && !Number.isNaN(Number(text))) return value === Number(text);
  return String(value).includes(text);
}

// The order of two values; what is missing comes last, up or down.
function order(first, second, down) {
  if (first === null || second === null) return (first === null) - (second === null);
  const sign = down ? -1 : 1;
  if (typeof first === "number" && typeof second === "number") return sign * (first - second);
  return sign * String(first).localeCompare(String(second));
}

// The rows that pass the filters of all columns, sorted.
function select(rows, filters, column, down) {
  const kept = rows.filter((row) => filters.every((filter, place) => passes(row[place], filter)));
  return kept.sort((a, b) => order(a[column], b[column], down) || a[0] - b[0]);
}

// Where values lie on an axis, from 0 below to 1 above: by size, on a logarithmic scale where
// they are far apart, or names in turn.
function makeAxis(values) {
  const known = values.filter((value) => value !== null);
  const numeric = known.every((value) => typeof value === "number");
  if (!numeric || known.length === 0) {
    const names = [...new Set(known.map(String))];
    const at = (value) => (names.indexOf(String(value)) + 0.5) / Math.max(names.length, 1);
    return { at, numeric: false, ticks: names.map((name) => [name, at(name)]) };
  }
  const [low, high] = known.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [known[0], known[0]]);
  const log = low > 0 && high / low >= 20;
  const [bend, back] = log ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const span = bend(high) - bend(low);
  const at = (value) => (span === 0 ? 0.5 : (bend(value) - bend(low)) / span);
  const invert = (place) => back(bend(low) + place * span);
  const own = new Set(known);
  const ticks = own.size > MOST_TICKS ? [0, 0.25, 0.5, 0.75, 1].map(invert) : [...own];
  return { at, invert, log, numeric: true, ticks: ticks.map((value) => [show(value), at(value)]) };
}

function show(value) {
  if (value === null) return "–";
  return typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function start() {
  const { columns, axes, rows, sortedBy } = JSON.parse(document.getElementById("data").textContent);
  const svg = document.getElementById("lines");
  const [head, body] = document.getElementById("members").children;
  const inputs = columns.map(() => document.createElement("input"));
  const scales = axes.map((column) => makeAxis(rows.map((row) => row[column])));
  const step = (WIDTH - 2 * EDGE) / Math.max(axes.length - 1, 1);
  const y = (place) => HEIGHT - EDGE / 2 - place * (HEIGHT - 1.5 * EDGE);
  const chosen = new Map(); // the line and the row of the table of each member
  let [sorted, down] = [sortedBy, true];

  function choose(member, on) {
    for (const part of chosen.get(member) ?? []) part.classList.toggle("chosen", on);
  }

  function follow(part, member) {
    chosen.set(member, [...(chosen.get(member) ?? []), part]);
    part.addEventListener("pointerenter", () => choose(member, true));
    part.addEventListener("pointerleave", () => choose(member, false));
  }

  function drawLines(kept) {
    svg.replaceChildren();
    for (const row of kept.slice(0, MOST_LINES).reverse()) {
      let path = "";
      axes.forEach((column, place) => {
        if (row[column] === null) return;
        path += `${path ? "L" : "M"}${EDGE + place * step} ${y(scales[place].at(row[column])).toFixed(1)}`;
      });
      const line = element("path", { d: path });
      line.append(element("title", {}, `member ${row[0]}`));
      follow(line, row[0]);
      svg.append(line);
    }
    axes.forEach(drawAxis);
  }

  function drawAxis(column, place) {
    const [x, scale] = [EDGE + place * step, scales[place]];
    svg.append(element("line", { x1: x, x2: x, y1: y(0), y2: y(1) }));
    const name = columns[column] + (scale.log ? " (log)" : "");
    const height = 16 + (place % 2) * 16; // in turn, so that long names do not meet
    const anchor = place === 0 ? "start" : place === axes.length - 1 ? "end" : "middle";
    const edge = { start: -EDGE, middle: 0, end: EDGE }[anchor];
    svg.append(element("text", { x: x + edge, y: height, "text-anchor": anchor }, name));
    for (const [text, at] of scale.ticks) svg.append(element("text", { x: x + 5, y: y(at) + 4 }, text));
    const area = element("rect", { x: x - 14, y: y(1), width: 28, height: y(0) - y(1) });
    if (scale.numeric) area.addEventListener("pointerdown", (event) => brush(event, column, place));
    svg.append(area);
  }

  // A drag sets the filter of a column to what it covers, a click takes it away.
  function brush(event, column, place) {
    const at = (moved) => {
      const point = new DOMPoint(moved.clientX, moved.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return Math.min(1, Math.max(0, (y(0) - point.y) / (y(0) - y(1))));
    };
    const first = at(event);
    const mark = element("rect", { class: "brush", x: EDGE + place * step - 8, width: 16 });
    svg.append(mark);
    const ends = (moved) => [first, at(moved)].sort((a, b) => a - b);
    const move = (moved) => {
      const [low, high] = ends(moved);
      mark.setAttribute("y", y(high));
      mark.setAttribute("height", y(low) - y(high));
    };
    const end = (moved) => {
      window.removeEventListener("pointermove", move);
      const [low, high] = ends(moved);
      const range = [low, high].map((p) => Number(scales[place].invert(p).toPrecision(4)));
      inputs[column].value = high - low < 0.01 ? "" : range.join("..");
      draw();
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end, { once: true });
  }

  function draw() {
    const kept = select(rows, inputs.map((input) => input.value), sorted, down);
    [...names.cells].forEach((cell, column) => {
      if (column === sorted) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    chosen.clear();
    drawLines(kept);
    body.replaceChildren();
    for (const row of kept.slice(0, MOST_ROWS)) {
      const line = body.insertRow();
      for (const value of row) line.insertCell().textContent = show(value);
      follow(line, row[0]);
    }
    const first = kept.length > MOST_ROWS ? `; the first ${MOST_ROWS} are listed` : "";
    document.getElementById("shown").textContent = `${kept.length} of ${rows.length} shown${first}`;
  }

  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const [names, filters] = [head.insertRow(), head.insertRow()];
  columns.forEach((name, column) => {
    const button = document.createElement("button");
    button.textContent = name;
    button.addEventListener("click", () => {
      down = sorted === column ? !down : true;
      sorted = column;
      draw();
    });
    const cell = document.createElement("th");
    cell.append(button);
    names.append(cell);
    inputs[column].setAttribute("aria-label", `filter of ${name}`);
    inputs[column].addEventListener("input", draw);
    const below = document.createElement("th");
    below.append(inputs[column]);
    filters.append(below);
  });
  draw();
}

if (typeof document !== "undefined") start();
