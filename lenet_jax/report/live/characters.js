// Finds the characters of a drawing: what `data/characters.py` does to a sheet of clean strokes,
// light on dark, that touch no border. There, its estimate of the paper's light is exact, and the
// strokes are too thick to be rules.

const SHEET = 360; // pixels: the sides of the sheet; up to 400 it is not scaled before
const DRAWN = 102; // of 255: the contrast of a stroke, 0.4 of that of its surroundings
const SMALLEST = 0.04; // of the sheet's side: what is smaller is a speck
const THICKEST = 0.35; // of the longer side of a character: its strokes
const SOLID = 0.8; // of its box: what fills it more is a block, if it is thick
const PAGE = 0.25; // of the sheet: the same
const [WIDE, WIDE_IF_UNLIKE] = [1.3, 1]; // widths a height: what is wider may be several

/** The mean of each pixel and its eight neighbours, of a drawing that leaves its border black. */
function smooth(grey, side) {
  const means = new Uint8Array(grey.length);
  for (let y = 1; y < side - 1; y++) {
    for (let x = 1; x < side - 1; x++) {
      let sum = 0;
      for (let i = (y - 1) * side + x; i <= (y + 1) * side + x; i += side) {
        sum += grey[i - 1] + grey[i] + grey[i + 1];
      }
      means[y * side + x] = Math.floor((sum + 4) / 9);
    }
  }
  return means;
}

/** The connected components, corners included: their labels, from 1, and what is known of each. */
function findComponents(contrast, side) {
  const labels = new Int32Array(contrast.length);
  const waiting = new Int32Array(contrast.length);
  const steps = [-side - 1, -side, -side + 1, -1, 1, side - 1, side, side + 1];
  const components = [];
  for (let start = 0; start < contrast.length; start++) {
    if (contrast[start] <= DRAWN || labels[start]) continue;
    const component = { ink: 0, area: 0, left: side, top: side, right: 0, bottom: 0 };
    components.push(component);
    labels[start] = components.length;
    waiting[0] = start;
    for (let count = 1; count > 0; ) {
      const place = waiting[--count];
      component.ink += contrast[place];
      component.area += 1;
      const [y, x] = [Math.floor(place / side), place % side];
      growBox(component, { left: x, top: y, right: x + 1, bottom: y + 1 });
      for (const step of steps) {
        const next = place + step;
        if (contrast[next] <= DRAWN || labels[next]) continue;
        labels[next] = components.length;
        waiting[count++] = next;
      }
    }
  }
  return { labels, components };
}

function growBox(box, other) {
  box.left = Math.min(box.left, other.left);
  box.top = Math.min(box.top, other.top);
  box.right = Math.max(box.right, other.right);
  box.bottom = Math.max(box.bottom, other.bottom);
}

const widthOf = (box) => box.right - box.left;
const heightOf = (box) => box.bottom - box.top;
const longerOf = (box) => Math.max(widthOf(box), heightOf(box));

/** Whether a component has the size of a character, and is no line. */
function hasSize(box, side) {
  const longer = longerOf(box);
  return longer >= SMALLEST * side && longer <= 40 * Math.min(widthOf(box), heightOf(box));
}

/** Whether a component lies around another that is a character rather: a circle, a box. */
function isFrame(outer, components, labels, side) {
  const label = components.indexOf(outer) + 1;
  return components.some((inner) => {
    const ratio = heightOf(inner) / heightOf(outer);
    if (inner === outer || !hasSize(inner, side) || ratio < 0.25 || ratio > 0.8) return false;
    const x = Math.floor((inner.left + inner.right) / 2);
    const y = Math.floor((inner.top + inner.bottom) / 2);
    const meets = (from, to, place) => {
      for (let i = from; i < to; i++) if (labels[place(i)] === label) return true;
      return false;
    };
    const [along, down] = [(i) => y * side + i, (i) => i * side + x];
    return (
      meets(0, inner.left, along) &&
      meets(inner.right, side, along) &&
      meets(0, inner.top, down) &&
      meets(inner.bottom, side, down)
    );
  });
}

/** Whether a component is a stroke below others, as wide as these. */
function isUnderline(bar, boxes) {
  const isBar = (box) => widthOf(box) >= 4 * heightOf(box);
  if (!isBar(bar)) return false;
  const near = boxes.filter(
    (box) => !isBar(box) && box.left < bar.right && box.right > bar.left,
  );
  const above = near.filter(
    (box) => box.top < bar.top - heightOf(bar) && box.bottom <= bar.bottom,
  );
  if (!above.length) return false;
  const tallest = Math.max(...above.map(heightOf));
  const below = near.some(
    (box) => heightOf(box) >= 0.3 * tallest && box.top + box.bottom > 2 * bar.bottom,
  );
  const spread =
    Math.max(...above.map((box) => box.right)) - Math.min(...above.map((box) => box.left));
  return widthOf(bar) >= Math.max(0.9 * spread, 0.7 * tallest) && !below;
}

/** Whether two boxes are of one character: one above the other, or nearly touching. */
function belongTogether(a, b) {
  const overlap = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const gap = Math.max(a.top, b.top) - Math.min(a.bottom, b.bottom);
  const narrow = Math.min(widthOf(a), widthOf(b));
  const tall = Math.max(heightOf(a), heightOf(b));
  const low = Math.min(heightOf(a), heightOf(b)) < 0.4 * tall;
  const long = Math.min(longerOf(a), longerOf(b)) >= 0.15 * tall;
  return (
    (overlap >= 0.5 * narrow && gap <= 0.25 * tall) ||
    Math.max(-overlap, gap) <= 0.06 * tall ||
    (low && long && overlap > 0 && gap <= 0.35 * tall)
  );
}

/** Groups components into characters: boxes with their `members` and the sum of their `ink`. */
function merge(components) {
  const groups = components.map((component) => ({ ...component, members: [component] }));
  for (let merged = true; merged; ) {
    merged = false;
    // All pairs of a round are compared as they were at its beginning.
    const owner = groups.map((_, index) => index);
    const find = (index) => (owner[index] === index ? index : find(owner[index]));
    for (let a = 0; a < groups.length; a++) {
      for (let b = a + 1; b < groups.length; b++) {
        if (belongTogether(groups[a], groups[b])) owner[find(b)] = find(a);
      }
    }
    for (let index = groups.length - 1; index >= 0; index--) {
      const target = groups[find(index)];
      if (target === groups[index]) continue;
      growBox(target, groups[index]);
      target.members.push(...groups[index].members);
      target.ink += groups[index].ink;
      groups[index].members = [];
      merged = true;
    }
    groups.splice(0, groups.length, ...groups.filter((group) => group.members.length));
  }
  return groups;
}

/** What `values` of the sheet has in the box of a group. */
function cutOut(values, group, side) {
  const [height, width] = [heightOf(group), widthOf(group)];
  const cut = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const start = (group.top + y) * side + group.left;
    cut.set(values.subarray(start, start + width), y * width);
  }
  return cut;
}

/** The pixels of a group, in its box. */
function maskOf(group, labels, components, side) {
  const isOwn = new Uint8Array(components.length + 1);
  for (const member of group.members) isOwn[components.indexOf(member) + 1] = 1;
  return cutOut(labels, group, side).map((label) => isOwn[label]);
}

/** Whether it is too thick for strokes, and a solid block. */
function isSurface(mask, group, side) {
  const drawn = mask.reduce((sum, pixel) => sum + pixel, 0);
  if (drawn < PAGE * side ** 2 && drawn <= SOLID * mask.length) return false;
  const width = widthOf(group);
  const squares = new Uint16Array(mask.length); // the largest whose last corner is there
  let largest = 0;
  mask.forEach((pixel, i) => {
    if (!pixel) return;
    const inside = i % width && i >= width;
    squares[i] =
      1 + (inside ? Math.min(squares[i - 1], squares[i - width], squares[i - width - 1]) : 0);
    largest = Math.max(largest, squares[i]);
  });
  return largest >= Math.max(1, roundEven(THICKEST * longerOf(group)));
}

/** The characters of a sheet: boxes with a `mask`. */
function findCharacters(contrast, side) {
  const { labels, components } = findComponents(contrast, side);
  const masked = (group) => ({ ...group, mask: maskOf(group, labels, components, side) });
  const likely = components.filter(
    (each) => !(hasSize(each, side) && isFrame(each, components, labels, side)),
  );
  const main = likely
    .filter((each) => hasSize(each, side))
    .sort((a, b) => b.ink - a.ink)
    .find((each) => !isSurface(masked({ ...each, members: [each] }).mask, each, side));
  if (!main) return [];
  const alike = likely.filter(
    (each) => each.ink >= 0.04 * main.ink && each.ink * main.area >= 0.4 * main.ink * each.area,
  );
  const kept = alike.filter((each) => !isUnderline(each, alike));
  if (!kept.length) return [];
  const groups = merge(kept);
  const largest = groups.reduce((best, group) => (group.ink > best.ink ? group : best));
  return groups
    .filter(
      (group) =>
        heightOf(group) >= 0.4 * heightOf(largest) &&
        group.ink >= 0.1 * largest.ink &&
        widthOf(group) <= 3 * heightOf(group) &&
        longerOf(group) >= SMALLEST * side &&
        Math.max(...group.members.map((member) => member.ink)) >= 0.08 * group.ink,
    )
    .map(masked)
    .filter((group) => !isSurface(group.mask, group, side));
}

/** Whether what was found as one may be several characters that touch. */
function mayBeSeveral(box, unlike) {
  return widthOf(box) > (unlike ? WIDE_IF_UNLIKE : WIDE) * heightOf(box);
}
