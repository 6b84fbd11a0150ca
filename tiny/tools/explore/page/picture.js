// Pictures: patches as squares whose area is the share that is read, on one fixed scale; marks to hide; keys to move.
"use strict";
const fullPatch = () => Math.min(1, 12 / run.places.length);  // the share that fills a patch: 12 times an even one

function gridOf(patch) {
  let first = 0;
  for (const [picture, [columns, rows]] of run.grids.entries()) {
    if (patch < first + columns * rows) return { picture, columns, rows, first, x: (patch - first) % columns, y: Math.floor((patch - first) / columns) };
    first += columns * rows;
  }
  return null;
}

function placeOf(patch) {
  const { picture, x, y } = gridOf(patch);
  return `${run.grids.length > 1 ? `picture ${picture + 1}, ` : ""}row ${y + 1}, column ${x + 1}`;
}

function preparePictures() {
  $("attention").classList.toggle("pictured", run.grids.length > 0);
  $("tap-bar").hidden = !run.grids.length;
  fill("canvases", ...run.grids.map(([columns, rows], picture) => el("canvas", { tabIndex: 0, role: "application",
    ariaLabel: `Picture ${picture + 1}, ${columns} by ${rows} patches. Arrow keys move, space marks a patch, Enter shows what it reads.`,
    onclick: event => tapPatch(event, picture), onkeydown: event => keyPatch(event, picture) })));
}

function drawPictures() {
  if (!run.grids.length) return;
  const weights = weightsShown(), own = state.patch !== null;
  let first = 0;
  for (const [picture, [columns, rows]] of run.grids.entries()) {
    const patches = [...Array(columns * rows).keys()].map(n => first + n);
    drawOne($("canvases").children[picture], state.images[picture], columns, rows,
      patches.map(patch => ({ patch, share: (own ? weights[patch] : weights[run.places[patch]]) ?? 0 })));
    first += columns * rows;
  }
}

// Drawn at the pixels of the screen, so that no line is lost when the picture is small.
function drawOne(canvas, image, columns, rows, patches) {
  const size = Math.max(4, Math.round(Math.min(560, $("seen").clientWidth || 560) * (window.devicePixelRatio || 1) / columns));
  Object.assign(canvas, { width: columns * size, height: rows * size });
  const pen = canvas.getContext("2d"), line = Math.max(1, Math.round(size / 24));
  pen.imageSmoothingEnabled = false;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  for (const { patch, share } of patches) {
    const { x, y } = gridOf(patch), left = x * size, top = y * size, side = size * Math.sqrt(Math.min(1, share / fullPatch()));
    pen.lineWidth = 1;
    pen.strokeStyle = "rgb(128 128 128 / 60%)";
    pen.strokeRect(left + 0.5, top + 0.5, size, size);
    if (side >= 3 * line) {
      pen.fillStyle = "#fff";
      pen.strokeStyle = "#000";
      pen.lineWidth = line;
      pen.fillRect(left + (size - side) / 2, top + (size - side) / 2, side, side);
      pen.strokeRect(left + (size - side) / 2, top + (size - side) / 2, side, side);
    }
    if (state.marks.has(patch)) cross(pen, left, top, size, line);
    if (patch === state.patch || patch === state.cursor && document.activeElement === canvas) frame(pen, left, top, size, 2 * line);
  }
}

function cross(pen, left, top, size, line) {
  for (const [colour, width] of [["#fff", 4 * line], ["#d0008f", 2 * line]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width });
    pen.beginPath();
    for (const [from, to] of [[0.15, 0.85], [0.85, 0.15]]) {
      pen.moveTo(left + from * size, top + 0.15 * size);
      pen.lineTo(left + to * size, top + 0.85 * size);
    }
    pen.stroke();
  }
}

function frame(pen, left, top, size, line) {
  for (const [colour, inset] of [["#fff", line / 2], ["#0050ff", 1.5 * line]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: line });
    pen.strokeRect(left + inset, top + inset, size - 2 * inset, size - 2 * inset);
  }
}

const firstOf = picture => run.grids.slice(0, picture).reduce((total, [columns, rows]) => total + columns * rows, 0);

function tapPatch(event, picture) {
  const box = event.target.getBoundingClientRect(), [columns, rows] = run.grids[picture];
  const x = Math.min(columns - 1, Math.floor((event.clientX - box.left) / box.width * columns));
  const y = Math.min(rows - 1, Math.floor((event.clientY - box.top) / box.height * rows));
  state.cursor = firstOf(picture) + y * columns + x;
  if ($("tap").value === "mark") mark(state.cursor); else readPatch(state.cursor);
}

function keyPatch(event, picture) {
  const [columns, rows] = run.grids[picture], first = firstOf(picture);
  let at = state.cursor - first;
  if (at < 0 || at >= columns * rows) at = 0;
  const x = at % columns, y = Math.floor(at / columns);
  const to = { ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y], ArrowUp: [x, y - 1], ArrowDown: [x, y + 1] }[event.key];
  if (to && to[0] >= 0 && to[0] < columns && to[1] >= 0 && to[1] < rows) state.cursor = first + to[1] * columns + to[0];
  else if (event.key === " ") mark(first + at);
  else if (event.key === "Enter") readPatch(first + at);
  else if (!to) return;
  event.preventDefault();
  say(`Patch at ${placeOf(state.cursor)}${state.marks.has(state.cursor) ? ", marked" : ""}.`);
  drawPictures();
}

function mark(patch) {
  if (state.marks.has(patch)) state.marks.delete(patch); else state.marks.add(patch);
  sayMarks();
  showAttention();
}

function setMarks(patches) {
  state.marks = new Set(patches);
  sayMarks();
  showAttention();
}

async function readPatch(patch) {
  const data = await askOf(run, "/patch", { patch }).catch(error => say(error.message, true));
  if (!data) return;
  Object.assign(state, { patch, patchRow: data });
  showAttention();
}
