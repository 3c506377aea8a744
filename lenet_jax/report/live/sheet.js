// The sheet to draw on, with mouse, finger, pen or keys.

const MARGIN = 24; // pixels of the sheet, which no stroke enters but by half its width
const STEP = 6; // pixels that an arrow key moves the pen

/** Strokes on a canvas, white on black: lists of `points` with the `width` of the pen. */
class Sheet {
  /**
   * @param {HTMLCanvasElement} canvas - of SHEET × SHEET pixels.
   * @param {HTMLElement} cursor - shows where the keys have moved the pen.
   * @param {() => void} changed - is called after every change.
   */
  constructor(canvas, cursor, changed) {
    Object.assign(this, { canvas, cursor, changed, strokes: [], pointer: null });
    this.context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.pen = { x: SHEET / 2, y: SHEET / 2, isDown: false };
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    // Of the window, so that a stroke goes on outside the sheet.
    window.addEventListener("pointermove", (event) => this.onMove(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      window.addEventListener(kind, (event) => {
        if (event.pointerId === this.pointer) this.pointer = null;
      });
    }
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("blur", () => {
      this.pen.isDown = false;
      cursor.hidden = true;
    });
  }

  addStroke(point) {
    const width = Number(document.querySelector("input[name=pen]:checked").value);
    this.strokes.push({ points: [point], width });
    this.changed();
  }

  undo() {
    if (this.strokes.pop()) this.changed();
  }

  clear() {
    this.strokes = [];
    this.changed();
  }

  paint() {
    const { context } = this;
    context.fillStyle = "#000";
    context.fillRect(0, 0, SHEET, SHEET);
    Object.assign(context, { strokeStyle: "#fff", lineCap: "round", lineJoin: "round" });
    for (const { points, width } of this.strokes) {
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(points[0].x, points[0].y);
      // Through the middles between points, so that a fast stroke is no polygon.
      for (let i = 1; i < points.length - 1; i++) {
        const [a, b] = [points[i], points[i + 1]];
        context.quadraticCurveTo(a.x, a.y, (a.x + b.x) / 2, (a.y + b.y) / 2);
      }
      context.lineTo(points.at(-1).x, points.at(-1).y);
      context.stroke();
    }
  }

  /** What is painted: SHEET × SHEET grey pixels. */
  pixels() {
    const { data } = this.context.getImageData(0, 0, SHEET, SHEET);
    const grey = new Uint8Array(SHEET * SHEET);
    for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
    return grey;
  }

  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    const inside = (offset, side) => clip((offset / side) * SHEET, MARGIN, SHEET - MARGIN);
    return {
      x: inside(event.clientX - box.left, box.width),
      y: inside(event.clientY - box.top, box.height),
    };
  }

  onDown(event) {
    if (this.pointer !== null || event.button > 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.pointer = event.pointerId;
    this.addStroke(this.pointOf(event));
  }

  onMove(event) {
    if (event.pointerId !== this.pointer || !this.strokes.length) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const points = (events.length ? events : [event]).map((each) => this.pointOf(each));
    this.strokes.at(-1).points.push(...points);
    this.changed();
  }

  /** Arrow keys move the pen, the space bar lowers and lifts it. */
  onKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { pen } = this;
    if (event.key === " ") {
      pen.isDown = !pen.isDown;
      if (pen.isDown) this.addStroke({ x: pen.x, y: pen.y });
    } else if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const [dx, dy] = moves[event.key];
      pen.x = clip(pen.x + STEP * dx, MARGIN, SHEET - MARGIN);
      pen.y = clip(pen.y + STEP * dy, MARGIN, SHEET - MARGIN);
      if (pen.isDown && this.strokes.length) {
        this.strokes.at(-1).points.push({ x: pen.x, y: pen.y });
        this.changed();
      }
    } else return;
    event.preventDefault();
    this.cursor.hidden = false;
    this.cursor.classList.toggle("down", pen.isDown);
    this.cursor.style.left = `${(100 * pen.x) / SHEET}%`;
    this.cursor.style.top = `${(100 * pen.y) / SHEET}%`;
  }
}
