// What if: one operation replaced, or patches hidden; both texts, the first difference, and always a held-out number.
"use strict";

function prepareSwitches() {
  const offered = Object.keys(model.switches).filter(name => start.switches[name].needs !== "pictures" || (run?.grids.length ?? 0) > 1)
    .filter(name => !start.switches[name].needs.startsWith("picture") || state.kind === "picture");
  const before = $("switch-name").value;
  options("switch-name", offered.map(name => [name, start.switches[name].label]), offered.includes(before) ? before : offered[0]);
  chooseSwitch(offered.includes(before));
}

function chooseSwitch(same = false) {
  const name = $("switch-name").value, about = start.switches[name], values = model.switches[name], old = [$("switch-value").value, $("switch-layer").value];
  $("value-label").hidden = !values.length;
  $("layer-label").hidden = !about.placed;
  $("value-word").textContent = { expert_off: "expert", expert_silent: "expert", experts_a_token: "number", head_off: "head" }[name] ?? "";
  options("switch-value", values.map(value => [value, value]), same === true ? old[0] : Math.min(3, values.length - 1));
  options("switch-layer", [["", "all layers"], ...[...Array(model.layers).keys()].map(layer => [layer, `layer ${layer} only`])],
    same === true ? old[1] : name === "expert_off" ? model.layers - 1 : "");
  $("switch-say").textContent = about.says;
  $("switch-lines").textContent = about.lines;
}

function switchAsked() {
  const name = $("switch-name").value, layer = $("switch-layer").value;
  return { switch: name, ...(model.switches[name].length ? { value: Number($("switch-value").value) } : {}),
    ...(start.switches[name].placed && layer !== "" ? { layer: Number(layer) } : {}) };
}

function switchSaid(asked) {
  return start.switches[asked.switch].label + (asked.value !== undefined ? ` (${asked.value})` : "") + (asked.layer !== undefined ? `, layer ${asked.layer} only` : "");
}

// Two texts, with a mark where they first differ.
function texts(pairs) {
  const [[, before]] = pairs;
  return pairs.flatMap(([name, one]) => {
    const pieces = one.pieces.slice(one.prompt), wanted = before.pieces.slice(before.prompt);
    let at = 0;
    while (at < pieces.length && pieces[at] === wanted[at]) at += 1;
    const same = one === before || at === pieces.length && at === wanted.length;
    const body = same ? [pieces.join("")] : [pieces.slice(0, at).join(""), el("mark", {}, pieces[at] ?? "(ends here)"), pieces.slice(at + 1).join("")];
    return [el("h3", {}, name), el("p", { className: "story" }, ...body),
      one === before ? null : el("p", { className: "dim" }, same ? "No difference in this text." : `The first difference is written token ${at + 1}.`)];
  }).filter(Boolean);
}

function number(found, switched = true) {
  const { before, after, blind, control } = found, [kind] = before;
  const of = before[2].toLocaleString("en");
  if (kind === "loss") return `On ${of} tokens of stories never trained on: loss ${before[1].toFixed(3)} as trained, ${after[1].toFixed(3)} so. (Lower is better.)`;
  if (control) return `On ${of} new pictures, asked for the colour of a thing: ${before[1]} right, ${after[1]} with the thing hidden, ${control[1]} with as many others hidden.`;
  return `On ${of} questions about new pictures: ${before[1]} right as trained, ${after[1]} so` + (blind ? `, ${blind[1]} as trained but blind.` : ".");
}

async function compare() {
  const asked = switchAsked(), name = switchSaid(asked), about = start.switches[asked.switch], before = trained;
  fill("switch-result", el("p", {}, "Writing …"));
  try {
    const after = await runOf({ ...before.asked, ...asked });
    const look = after.run ? el("button", { textContent: "Show this run in the panels", onclick: () => showRun(after, name) }) : "";
    const held = el("p", { className: "number" }, "The held-out number is computed …");
    fill("switch-result", ...texts([["As trained", before], [`Changed: ${name}`, after]]), held, el("div", { className: "bar" }, look));
    const kind = state.kind === "text" ? "loss" : about.needs === "pictures" ? "pairs" : "right";
    held.textContent = number(await ask("/measure", { model: model.name, kind, ...asked }));
  } catch (error) { fill("switch-result", el("p", { className: "error" }, error.message)); }
}

// ---- hiding

function sayMarks() {
  $("marks").textContent = state.marks.size ? `${state.marks.size} of ${trained.places.length} patches are marked.` : "Tap patches of the picture above, or choose a thing.";
  $("hide-go").disabled = !state.marks.size;
}

function prepareThings() {
  const words = trained.asked.text.toLowerCase().split(/[^a-z0-9]+/), asked = name => words.includes(name.toLowerCase());
  const things = Object.entries(state.things).sort(([one], [other]) => asked(other) - asked(one));
  fill("things", ...things.map(([name, patches]) => el("button", { textContent: `Mark the ${name}`, onclick: () => setMarks(patches) })),
    el("button", { textContent: "Clear the marks", onclick: () => setMarks([]) }));
  sayMarks();
}

// As many of the other patches, drawn by a small generator, so that the same marks have the same control.
function others(marks, of) {
  const left = [...Array(of).keys()].filter(patch => !marks.includes(patch)), found = [];
  let seed = marks.reduce((total, patch) => (31 * total + patch + 7) % 2147483647, 1);
  while (found.length < marks.length && left.length) {
    seed = 48271 * seed % 2147483647;
    found.push(left.splice(seed % left.length, 1)[0]);
  }
  return found.sort((a, b) => a - b);
}

async function hide() {
  const marks = [...state.marks].sort((a, b) => a - b), control = others(marks, trained.places.length), before = trained;
  fill("hide-result", el("p", {}, "Writing …"));
  try {
    const gone = await runOf({ ...before.asked, hide: marks }), other = await runOf({ ...before.asked, hide: control });
    const held = el("p", { className: "number" }, "The held-out number is computed …");
    const cells = [["nothing", before], [`the ${marks.length} marked patches`, gone], [`${control.length} others, for comparison`, other]].map(
      ([name, one]) => [name, el("strong", {}, one.text), one.run === "" ? "" : el("button", { textContent: "Show in the panels", onclick: () => showRun(one, one === before ? "" : `hidden: ${name}`) })]);
    fill("hide-result", table(["hidden from the words", "answer", ""], cells), held);
    held.textContent = number(await ask("/measure", { model: model.name, kind: "hiding" }));
  } catch (error) { fill("hide-result", el("p", { className: "error" }, error.message)); }
}
