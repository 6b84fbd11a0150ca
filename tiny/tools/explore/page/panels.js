// The router of one token, its way through the layers, and the next token.
"use strict";

function showPanels() {
  if (model.experts) { showRouter(); showPath(); }
  showNext();
  showAttention();
}

function chip(expert) {
  const node = el("span", { className: "chip" }, String(expert));
  node.style.background = colour(expert);
  return node;
}

function showRouter() {
  const { layer } = state, E = model.experts, K = row.K;
  const scores = row.scores.subarray(layer * E, (layer + 1) * E), finite = [...scores].filter(Number.isFinite);
  const low = Math.min(...finite), span = Math.max(...finite) - low || 1;
  const weights = new Map([...Array(K).keys()].map(k => [row.chosen[layer * K + k], row.weights[layer * K + k]]));
  weights.delete(-1);
  const sum = [...weights.values()].reduce((total, one) => total + one, 0);
  $("router-say").textContent = `${quoted(run.pieces[state.row])} in layer ${layer}: the ${weights.size} experts with the largest logits ` +
    `are chosen, and a softmax over those gives their weights; they add up to ${sum.toFixed(2)}.`;
  fill("router-table", table(["expert", "logit", "", "weight"], [...scores].map((score, expert) => {
    const cells = [chip(expert), Number.isFinite(score) ? score.toFixed(2) : "off",
      bar(Number.isFinite(score) ? (score - low) / span : 0), weights.has(expert) ? weights.get(expert).toFixed(3) : "–"];
    cells.className = weights.has(expert) ? "drawn" : "";
    return cells;
  })));
}

async function showPath() {
  const { K } = row, mine = turn, now = state.row;
  const lines = sizes => [...Array(model.layers).keys()].map(layer => {
    const cells = [el("button", { textContent: `layer ${layer}`, ariaPressed: String(layer === state.layer), onclick: () => setLayer(layer) })];
    const part = n => sizes ? sizes[layer * (2 + K) + n].toFixed(1) : "…";
    cells.push(part(0), part(1));
    for (let k = 0; k < K; k += 1) {
      const expert = row.chosen[layer * K + k];
      cells.push(expert < 0 ? "" : el("span", {}, chip(expert), ` × ${row.weights[layer * K + k].toFixed(2)} adds ${part(2 + k)}`));
    }
    return cells;
  });
  const head = ["", "before", "attention adds", ...Array.from({ length: K }, (_, k) => `choice ${k + 1}`)];
  const show = sizes => fill("path-table", table(head, lines(sizes)));
  show(state.sizes?.row === now && state.sizes.run === run.run ? state.sizes.data : null);
  $("parts").hidden = !model.large || !run.parts;
  if (model.large || !run.parts) return;
  const data = await askOf(run, "/parts", { row: now }).catch(error => say(error.message, true));
  if (data && mine === turn && now === state.row) { state.sizes = { row: now, run: run.run, data }; show(data); }
}

async function computeParts() {
  const data = await askOf(run, "/parts", { row: state.row }).catch(error => say(error.message, true));
  if (data) { state.sizes = { row: state.row, run: run.run, data }; showPath(); }
}

function setLayer(layer) {
  state.layer = layer;
  $("layer").value = layer;
  paintTokens();
  if (row) { showRouter(); showPath(); }
}

function showNext() {
  const temperature = Math.max(0, Number($("temperature").value) || 0), topP = Math.min(1, Math.max(1e-6, Number($("top-p").value) || 1));
  const random = Math.min(0.999999, Math.max(0, Number($("dice").value) || 0));
  const found = distribution(row.logits, temperature, topP), drawn = draw(found, random), after = run.pieces[state.row + 1];
  const total = found.cumulative[found.kept - 1];
  $("next-say").textContent = `After ${quoted(run.pieces[state.row])}: ${found.kept.toLocaleString("en")} of ${row.logits.length.toLocaleString("en")} tokens can be drawn` +
    (temperature === 0 ? ", the likeliest one" : "") + `; the random number draws ${quoted(model.pieces[drawn])}` +
    (after === undefined ? "." : `; in the text stands ${quoted(after)}.`);
  fill("next-table", table(["token", "", "probability", "when drawn"], found.order.slice(0, 20).filter((id, place) => place < 5 || found.probabilities[id] >= 0.0005).map((id, place) => {
    const kept = place < found.kept;
    const cells = [token(model.pieces[id]), bar(found.probabilities[id]), percent(found.probabilities[id], 1),
      kept ? percent(found.probabilities[id] / total, 1) : "cut off"];
    cells.className = id === drawn ? "drawn" : kept ? "" : "cut";
    return cells;
  })));
}
