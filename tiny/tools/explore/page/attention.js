// Attention: a table of layers by heads, beside what is read. One scale for all heads: nothing is stretched to its own maximum.
"use strict";
const keysOf = (data, S, heads, layer, head) => data.subarray((layer * heads + head) * S, (layer * heads + head + 1) * S);
const largest = weights => weights.reduce((best, one, at) => one > weights[best] ? at : best, 0);
const sumAt = (weights, places) => places.reduce((total, at) => total + (weights[at] ?? 0), 0);

function showAttention() {
  const reading = state.patch !== null;
  $("to-token").hidden = !reading;
  if (!reading) showHeads(row.attention, row.S, model.layers, model.heads, state.head, tokenCell);
  else showHeads(state.patchRow, run.places.length, ...model.vision, state.encoder, patchCell);
  showRow();
  drawPictures();
}

// The head to begin with: it reads most of the picture, or most of a token that is not the first one.
function telling() {
  let best = [0, 0], most = -1;
  for (let layer = 0; layer < model.layers; layer += 1) for (let head = 0; head < model.heads; head += 1) {
    const weights = keysOf(row.attention, row.S, model.heads, layer, head);
    const share = run.places.length ? sumAt(weights, run.places) : Math.max(0, ...weights.subarray(1));
    if (share > most) [best, most] = [[layer, head], share];
  }
  return best;
}

// The weights that the squares and colours show.
function weightsShown() {
  return state.patch !== null ? keysOf(state.patchRow, run.places.length, model.vision[1], ...state.encoder)
    : keysOf(row.attention, row.S, model.heads, ...state.head);
}

function tokenCell(weights) {
  if (run.places.length) {
    const marked = [...state.marks].map(patch => run.places[patch]);
    const on = sumAt(weights, run.places);
    return { share: on, text: percent(on) + (state.marks.size ? ` (${percent(sumAt(weights, marked))})` : "") };
  }
  const best = largest(weights);
  return { share: weights[best], text: `${visible(run.pieces[best])} ${percent(weights[best])}` };
}

function patchCell(weights) {
  const own = weights[state.patch], best = largest(weights);
  return { share: weights[best], text: `${placeOf(best)} ${percent(weights[best])}${best === state.patch ? " itself" : `, itself ${percent(own)}`}` };
}

function showHeads(data, S, layers, heads, chosen, cellOf) {
  const marks = state.marks.size, patches = run.places.length;
  $("heads-say").textContent = state.patch !== null
    ? `The patch at ${placeOf(state.patch)} in the encoder. Each cell: the patch that it reads most in this head.`
    : `Token ${state.row}, ${quoted(run.pieces[state.row])}. ` + (patches
      ? "Each cell: how much of what this head reads is the picture" + (marks ? `, and in brackets the marked patches. They are ${percent(marks / patches)} of all patches.` : ".")
      : `Each cell: the token that this head reads most. ${quoted(run.pieces[0])} is where a head reads when it looks for nothing.`);
  const cell = (layer, head) => {
    const { share, text } = cellOf(keysOf(data, S, heads, layer, head));
    const button = el("button", { textContent: text, title: text, ariaPressed: String(layer === chosen[0] && head === chosen[1]),
      ariaLabel: `layer ${layer}, head ${head}: ${text}`, tabIndex: layer === chosen[0] && head === chosen[1] ? 0 : -1,
      onclick: () => chooseHead(layer, head) });
    button.dataset.at = `${layer},${head}`;
    button.style.background = heat(share);
    return el("td", {}, button);
  };
  const numbers = count => [...Array(count).keys()];
  fill("heads-table", el("table", {}, el("thead", {}, el("tr", {}, el("td"), ...numbers(heads).map(head => el("th", {}, `head ${head}`)))),
    el("tbody", {}, ...numbers(layers).map(layer => el("tr", {}, el("th", {}, `layer ${layer}`), ...numbers(heads).map(head => cell(layer, head)))))));
}

// Colour for a share: its square root, so that 1 % can be seen; the same share has the same colour everywhere.
const heat = share => `color-mix(in srgb, var(--heat) ${(100 * Math.sqrt(share)).toFixed(1)}%, transparent)`;

function chooseHead(layer, head, focus = false) {
  if (state.patch !== null) state.encoder = [layer, head]; else state.head = [layer, head];
  showAttention();
  if (focus) $("heads-table").querySelector("[aria-pressed=true]")?.focus();
}

function moveHead(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step || !event.target.dataset.at) return;
  event.preventDefault();
  const [layers, heads] = state.patch !== null ? model.vision : [model.layers, model.heads];
  const [layer, head] = state.patch !== null ? state.encoder : state.head;
  chooseHead(Math.max(0, Math.min(layers - 1, layer + step[0])), Math.max(0, Math.min(heads - 1, head + step[1])), true);
}

function showRow() {
  const weights = weightsShown(), [layer, head] = state.patch !== null ? state.encoder : state.head;
  const sum = weights.reduce((total, one) => total + one, 0);
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 12);
  $("row-title").textContent = `What head ${head} of layer ${layer} reads (all ${weights.length} add up to ${percent(sum)})`;
  const named = at => state.patch !== null ? `patch at ${placeOf(at)}` : run.places.includes(at) ? `patch at ${placeOf(run.places.indexOf(at))}` : token(run.pieces[at]);
  fill("row-table", table(["what", "at", "", "share"], order.map(at => [named(at), state.patch !== null ? "" : at, bar(weights[at]), percent(weights[at], 1)])));
  showReading(state.patch === null ? weights : null);
}

// The text again, each token on a colour for how much of it this head reads.
function showReading(weights) {
  if ($("read").of !== run) {
    fill("read", ...shownAt.map(at => el("span", {}, visible(run.pieces[at]))));
    $("read").of = run;
  }
  [...$("read").children].forEach((span, n) => {
    const at = shownAt[n];
    span.style.background = weights && weights[at] ? heat(weights[at]) : "";
    span.classList.toggle("later", Boolean(weights) && at >= weights.length);
    span.classList.toggle("here", at === state.row && Boolean(weights));
  });
  const swatch = share => { const node = el("span", { className: "swatch" }); node.style.background = heat(share); return node; };
  fill("scale", "Colours and squares: the share of what this head reads, on one scale for all heads. ", ...[0.01, 0.04, 0.25, 1].flatMap(share => [swatch(share), ` ${percent(share)} `]),
    run.places.length ? `On the picture: a square that fills its patch is ${percent(fullPatch())} or more.` : "");
}
