// The page of a sweep: a table to sort and to filter, and each member as a line over the axes.

const MOST_ROWS = 500; // of the table
const MOST_LINES = 2000;
const HEIGHT = 340;
const EDGE = 60; // around the axes
const STEP = 110; // between two axes, at least
const LINE = 15; // from one label of an axis to the next, at least
const NEAR = 12; // from a line, to point at it
const MOST_OWN = 8; // labels of an axis at its own values
const FAR = 10; // times the lowest value is the highest where the scale is logarithmic
const HINT = "Point at a line or at a row, or go through the lines with ↑ and ↓, to read a member.";

// Whether a value passes a filter: a text, a number, `>1`, `<1` or `1..2`; an empty one is none.
function passes(value, filter, shown = String(value)) {
  const text = filter.trim();
  if (text === "") return true;
  if (value === null) return false;
  const toNumber = (end) => Number(end.replace("%", ""));
  const range = text.match(/^(.*)\.\.(.*)$/);
  const bound = text.match(/^([<>]=?)(.+)$/);
  if (typeof value === "number" && range) {
    const [low, high] = [range[1], range[2]].map((end) => end.trim());
    return (low === "" || value >= toNumber(low)) && (high === "" || value <= toNumber(high));
  }
  if (typeof value === "number" && bound) {
    const limit = toNumber(bound[2]);
    if (bound[1][0] === ">") return value > limit || (bound[1] === ">=" && value === limit);
    return value < limit || (bound[1] === "<=" && value === limit);
  }
  if (typeof value === "number" && !Number.isNaN(toNumber(text))) {
    return value === toNumber(text) || shown === text;
  }
  return shown.includes(text);
}

function compareTexts(first, second) {
  return String(first).localeCompare(String(second), undefined, { numeric: true });
}

// The order of two values; what is missing comes last, up or down.
function order(first, second, down) {
  if (first === null || second === null) return (first === null) - (second === null);
  const sign = down ? -1 : 1;
  if (typeof first === "number" && typeof second === "number") return sign * (first - second);
  return sign * compareTexts(first, second);
}

// Round numbers from low to high: 1, 2 and 5, times powers of ten.
function roundNumbers(low, high, log) {
  const power = (x) => Math.floor(Math.log10(x));
  if (log) {
    const [first, last] = [power(low), power(high)];
    const digits = last - first > 3 ? [1] : [1, 2, 5];
    const powers = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    const numbers = powers.flatMap((p) => digits.map((digit) => Number(`${digit}e${p}`)));
    return numbers.filter((x) => x >= low && x <= high);
  }
  const least = (high - low) / 5;
  const step = [1, 2, 5, 10].map((x) => x * 10 ** power(least)).find((x) => x >= least);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// Where values lie on an axis, from 0 below to 1 above: by size, on a logarithmic scale where
// they are far apart and may be, or names in turn. Labels are at the values themselves if these
// are few.
function makeAxis(values, mayBeLog = true) {
  const own = [...new Set(values.filter((value) => value !== null))];
  if (own.length === 0 || own.some((value) => typeof value !== "number")) {
    const names = own.map(String).sort(compareTexts);
    const at = (value) => (names.indexOf(String(value)) + 0.5) / Math.max(names.length, 1);
    return { at, numeric: false, ticks: names };
  }
  own.sort((a, b) => a - b);
  const [low, high] = [own[0], own.at(-1)];
  const log = mayBeLog && low > 0 && high / low >= FAR;
  const [bend, back] = log ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const span = bend(high) - bend(low);
  const at = (value) => (span === 0 ? 0.5 : (bend(value) - bend(low)) / span);
  const invert = (place) => back(bend(low) + place * span);
  const ticks = own.length > MOST_OWN ? roundNumbers(low, high, log) : own;
  return { at, invert, log, numeric: true, ticks };
}

// Of ascending heights those at which labels do not overlap, the lowest and the highest among them.
function thin(heights) {
  const kept = [];
  heights.forEach((height, index) => {
    const last = heights.at(-1);
    const free = kept.length === 0 || height - heights[kept.at(-1)] >= LINE;
    if (index === heights.length - 1 || (free && last - height >= LINE)) kept.push(index);
  });
  return kept;
}

function show(value, decimals = null) {
  if (value === null) return "–";
  if (typeof value !== "number") return String(value);
  if (decimals !== null) return value.toFixed(decimals);
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(4)));
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function start() {
  const { sweep, columns, axes, rows, judged } = JSON.parse(
    document.getElementById("data").textContent,
  );
  const svg = document.getElementById("lines");
  const reading = document.getElementById("reading");
  const [head, body] = document.getElementById("members").children;
  const inputs = columns.map(() => document.createElement("input"));
  const names = columns.map(({ name, unit }) => (unit ? `${name}, ${unit}` : name));
  const scales = axes.map((column) =>
    makeAxis(rows.map((row) => row[column]), columns[column].unit !== "%"),
  );
  const errors = makeAxis(rows.map((row) => (row[judged] === null ? null : 100 - row[judged])));
  const overlay = element("path", { class: "chosen", d: "" });
  const y = (place) => HEIGHT - EDGE / 2 - place * (HEIGHT - 1.5 * EDGE);
  const cells = []; // of the names of the columns
  let [sorted, down, width, kept, chosen] = [judged, true, 0, [], null];
  let points = new Map(); // of the line of each member that is drawn

  const step = () => (width - 2 * EDGE) / Math.max(axes.length - 1, 1);
  const text = (row, column) =>
    column === 0 ? `${sweep}:${row[0]}` : show(row[column], columns[column].decimals);

  // What is said of a member: its name, and its values on the axes.
  function describe(row) {
    const values = axes.map((column) => {
      const unit = columns[column].unit && row[column] !== null ? ` ${columns[column].unit}` : "";
      return `${columns[column].name} ${text(row, column)}${unit}`;
    });
    return `${text(row, 0)}: ${values.join(", ")}`;
  }

  function toPath(line) {
    return line.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  }

  function choose(member) {
    chosen = member;
    const row = kept.find((one) => one[0] === member);
    overlay.setAttribute("d", toPath(points.get(member) ?? []));
    reading.textContent = row ? describe(row) : HINT;
    for (const line of body.rows) {
      line.classList.toggle("chosen", line.dataset.member === String(member));
    }
    for (const line of svg.querySelectorAll("[aria-selected=true]")) line.ariaSelected = "false";
    svg.removeAttribute("aria-activedescendant");
    const line = document.getElementById(`member-${member}`);
    if (line === null) return;
    line.ariaSelected = "true";
    svg.setAttribute("aria-activedescendant", line.id);
  }

  // The member whose line passes closest to a point, if one is near.
  function nearest(at) {
    let [best, distance] = [null, NEAR];
    for (const [member, line] of points) {
      for (let i = 1; i < line.length; i++) {
        const [[left, from], [right, to]] = [line[i - 1], line[i]];
        if (at.x < left || at.x > right) continue;
        const [across, along] = [to - from, right - left];
        const height = from + (across * (at.x - left)) / along;
        const away = (Math.abs(at.y - height) * along) / Math.hypot(across, along);
        if (away < distance) [best, distance] = [member, away];
      }
    }
    return best;
  }

  function toPoint(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  function drawLines() {
    width = Math.max(svg.parentElement.clientWidth, 2 * EDGE + (axes.length - 1) * STEP);
    svg.setAttribute("width", width);
    svg.setAttribute("height", HEIGHT);
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren();
    points = new Map();
    for (const row of kept.slice(0, MOST_LINES)) {
      const known = axes.map((column, place) => [column, place]).filter(([c]) => row[c] !== null);
      const line = known.map(([c, i]) => [EDGE + i * step(), y(scales[i].at(row[c]))]);
      points.set(row[0], line);
      const path = element("path", { d: toPath(line), id: `member-${row[0]}`, role: "option" });
      path.setAttribute("aria-label", describe(row));
      path.ariaSelected = "false";
      if (row[judged] === null) path.classList.add("without");
      else path.style.setProperty("--at", `${100 - 100 * errors.at(100 - row[judged])}%`);
      svg.prepend(path); // the first lies above the others
    }
    const group = element("g", { "aria-hidden": "true" });
    group.append(overlay);
    svg.append(group);
    axes.forEach((column, place) => drawAxis(group, column, place));
  }

  function drawAxis(group, column, place) {
    const [x, scale] = [EDGE + place * step(), scales[place]];
    group.append(element("line", { x1: x, x2: x, y1: y(0), y2: y(1) }));
    const name = names[column] + (scale.log ? " (log)" : "");
    const height = 16 + (place % 2) * 16; // in turn, so that long names do not meet
    const anchor = place === 0 ? "start" : place === axes.length - 1 ? "end" : "middle";
    const edge = { start: -EDGE, middle: 0, end: EDGE }[anchor];
    group.append(element("text", { x: x + edge, y: height, "text-anchor": anchor }, name));
    const heights = scale.ticks.map((tick) => y(0) - y(scale.at(tick)));
    for (const index of thin(heights)) {
      const label = show(scale.ticks[index], columns[column].decimals);
      group.append(element("text", { x: x + 5, y: y(0) - heights[index] + 4 }, label));
    }
    if (!scale.numeric) return;
    const area = element("rect", { x: x - 14, y: y(1), width: 28, height: y(0) - y(1) });
    area.addEventListener("pointerdown", (event) => brush(event, column, place));
    group.append(area);
  }

  // A drag sets the filter of a column to what it covers, a click takes it away.
  function brush(event, column, place) {
    const at = (moved) => Math.min(1, Math.max(0, (y(0) - toPoint(moved).y) / (y(0) - y(1))));
    const first = at(event);
    const mark = element("rect", { class: "brush", x: EDGE + place * step() - 8, width: 16 });
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
      const write = (p) => Number(scales[place].invert(p).toPrecision(4));
      // Open at an end of the axis, so that rounding leaves no member out.
      const range = [low === 0 ? "" : write(low), high === 1 ? "" : write(high)];
      inputs[column].value = high - low < 0.01 ? "" : range.join("..");
      draw();
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end, { once: true });
  }

  // What the colours of the lines mean.
  function drawScale() {
    const part = (tag, name, content) => {
      const made = document.createElement(tag);
      made.className = name;
      made.textContent = content;
      return made;
    };
    const say = (error) => part("span", "", `${show(100 - error, columns[judged].decimals)} %`);
    const parts = [part("span", "", `Colour: ${columns[judged].name}`)];
    if (errors.numeric) {
      const [best, middle, worst] = [0, 0.5, 1].map((place) => say(errors.invert(place)));
      parts.push(worst, part("i", "lower", ""), middle, part("i", "upper", ""), best);
    }
    if (errors.log) parts.push(part("span", "", "(log scale of the error)"));
    if (rows.some((row) => row[judged] === null)) parts.push(part("span", "", "dotted: no result"));
    document.getElementById("scale").replaceChildren(...parts);
  }

  function draw() {
    const passing = rows.filter((row) =>
      inputs.every((input, column) => passes(row[column], input.value, text(row, column))),
    );
    kept = passing.sort((a, b) => order(a[sorted], b[sorted], down) || a[0] - b[0]);
    cells.forEach((cell, column) => {
      const direction = down ? "descending" : "ascending";
      cell.setAttribute("aria-sort", column === sorted ? direction : "none");
    });
    body.replaceChildren();
    for (const row of kept.slice(0, MOST_ROWS)) {
      const line = body.insertRow();
      line.dataset.member = row[0];
      row.forEach((_, column) => {
        const cell = document.createElement(column === 0 ? "th" : "td");
        if (column === 0) cell.scope = "row";
        cell.textContent = text(row, column);
        line.append(cell);
      });
    }
    drawLines();
    choose(null);
    const first = kept.length > MOST_ROWS ? `; the first ${MOST_ROWS} are listed` : "";
    document.getElementById("shown").textContent = `${kept.length} of ${rows.length} shown${first}`;
  }

  const [titles, filters] = [head.insertRow(), head.insertRow()];
  columns.forEach(({ unit }, column) => {
    const button = document.createElement("button");
    // Where a long name may break.
    const parts = names[column].replace(" ", "\u00a0").split(/(?<=[._])/);
    button.append(...parts.flatMap((part, i) => (i ? [document.createElement("wbr"), part] : part)));
    button.addEventListener("click", () => {
      down = sorted === column ? !down : true;
      sorted = column;
      draw();
    });
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.append(button);
    cells.push(cell);
    titles.append(cell);
    const input = inputs[column];
    input.setAttribute("aria-label", `filter of ${names[column]}`);
    if (unit) input.placeholder = `in ${unit}`;
    input.size = 4;
    input.addEventListener("input", draw);
    const below = document.createElement("td");
    below.append(input);
    filters.append(below);
  });
  const point = (event) => {
    const member = nearest(toPoint(event));
    if (member !== chosen) choose(member);
  };
  const leave = (event) => {
    if (event.pointerType !== "touch") choose(null); // a finger leaves as soon as it has tapped
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("keydown", (event) => {
    const members = [...points.keys()];
    const place = members.indexOf(chosen);
    const last = members.length - 1;
    const [above, below] = [Math.max(place - 1, 0), Math.min(place + 1, last)];
    const next = { ArrowUp: above, ArrowDown: below, Home: 0, End: last }[event.key];
    if (next === undefined || last < 0) return;
    event.preventDefault();
    choose(members[next]);
  });
  svg.addEventListener("blur", () => choose(null));
  body.addEventListener("pointerover", (event) => {
    choose(Number(event.target.closest("tr").dataset.member));
  });
  body.addEventListener("pointerleave", leave);
  drawScale();
  draw();
  new ResizeObserver(() => {
    if (svg.parentElement.clientWidth === width) return;
    drawLines();
    choose(chosen);
  }).observe(svg.parentElement);
}

if (typeof document !== "undefined") start();
