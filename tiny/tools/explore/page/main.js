// The page begins here: models, examples, pictures, and a run.
"use strict";
let going = null;  // the run that is being computed, so that a new one can end it

async function go() {
  going?.abort();
  const mine = going = new AbortController();
  say("Reading and writing …");
  try {
    const asked = request();
    const found = await runOf(asked, mine.signal);
    if (mine !== going) return;
    trained = found;
    say(`${found.pieces.length} tokens in ${found.seconds.toFixed(2)} s. ${found.said.join(" ")}`);
    await showRun(found);
    if (found.grids.length) await showBlind(asked, mine);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

// Beside every answer stands the one to a plain picture: what is right there too was guessed.
async function showBlind(asked, mine) {
  const right = state.answers[asked.text];
  $("answer").textContent = trained.text;
  $("right").textContent = right === undefined ? "" : right === trained.text ? "(right)" : `(right would be: ${right})`;
  $("blind").textContent = "…";
  $("answers").hidden = false;
  const found = await runOf({ ...asked, blind: true }, mine.signal);
  if (mine === going) $("blind").textContent = found.text;
}

// Shows a run in all panels, from the token after which the model began to write.
async function showRun(found, changed = "") {
  run = found;
  run.chosen = run.experts ? Math.max(...run.experts.map(layer => layer[0].length)) : 0;
  for (const id of ["tokens", "next", "attention", "switch", "cell"]) $(id).hidden = false;
  $("router").hidden = !model.experts;
  $("hide").hidden = !run.grids.length;
  $("next").parentElement.classList.toggle("one", !model.experts);
  $("colour-by").hidden = !run.experts;
  $("changed").hidden = !changed;
  fill("changed", `These are the panels of a changed run: ${changed}. `, el("button", { textContent: "Back to as trained", onclick: () => showRun(trained) }));
  $("answers").hidden = !run.grids.length;
  if (run.experts) options("choice", [...Array(run.chosen).keys()].map(k => [k, `choice ${k + 1}`]), Math.min(state.choice, run.chosen - 1));
  state.choice = Number($("choice").value) || 0;
  prepareTokens();
  preparePictures();
  prepareThings();
  prepareSwitches();
  await choose(Math.min(run.prompt - 1, run.pieces.length - 1));
}

async function chooseModel(index) {
  Object.assign(state, { model: index, layer: 0, choice: 0, head: null, encoder: [0, 0], row: 0, seed: null });
  model = start.models[index];
  state.kind = model.vision ? "picture" : "text";
  [...$("models").children].forEach((button, n) => { button.ariaPressed = String(n === index); });
  $("with-pictures").hidden = $("chat-label").hidden = false;
  $("with-pictures").hidden = state.kind === "text";
  $("chat-label").hidden = state.kind === "picture";
  $("examples").hidden = state.kind === "picture";
  $("cost").hidden = !model.large;
  $("cost").textContent = `A large model, so nothing is computed before you ask for it. ${model.cost}. A click on a token costs much less than a run; a comparison costs one more run, and four held-out texts.`;
  options("layer", [...Array(model.layers).keys()].map(layer => [layer, layer]), 0);
  for (const id of ["tokens", "router", "next", "attention", "hide", "switch", "cell", "answers"]) $(id).hidden = true;
  for (const id of ["switch-result", "hide-result"]) fill(id);
  prepareSources();
  if (state.kind === "picture") await drawScene(336);
  else { $("text").value = start.examples[0].text; if (!model.large) await go(); }
}

async function drawScene(seed) {
  const number = Number($("number").value);
  try {
    const found = await ask("/scene", { model: model.name, seed, number });
    Object.assign(state, { seed, things: found.things, answers: Object.fromEntries(found.questions) });
    $("drawn").textContent = `scene ${seed}`;
    fill("questions", ...found.questions.map(([text]) => el("button", { textContent: text, onclick: () => { $("text").value = text; go(); } })));
    const asked = found.questions.map(([text]) => text);
    await usePictures(found.pictures, asked.find(text => /^what color is the \w+ ?\??$/i.test(text)) ?? asked.find(text => /colou?r/i.test(text)) ?? asked[0]);
  } catch (error) { say(error.message, true); }
}

async function usePictures(urls, text) {
  const images = urls.map(src => Object.assign(new Image(), { src, alt: "" }));
  await Promise.all(images.map(image => image.decode()));
  Object.assign(state, { pictures: urls, images, marks: new Set(), cursor: 0, patch: null });
  fill("thumbs", ...images.map(image => image.cloneNode()));
  fill("hide-result");
  if (text !== undefined) $("text").value = text;
  if (!model.large) await go();
}

async function openFiles(files) {
  const read = file => new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
  try {
    if (state.kind !== "picture") throw new Error("This model reads text only. Choose the one that sees pictures first.");
    const urls = await Promise.all([...files].map(read));
    if (urls.reduce((total, url) => total + url.length, 0) > 5.9e6) throw new Error("The pictures have more than 4.4 MB in all. Shrink them first.");
    Object.assign(state, { seed: null, things: {}, answers: {} });
    $("drawn").textContent = [...files].map(file => file.name).join(", ").slice(0, 200);
    await usePictures(urls);
  } catch (error) { say(error instanceof Error && error.name !== "EncodingError" ? error.message : "This is no picture that the browser can show. Save it as PNG.", true); }
}

function listen() {
  $("go").onclick = go;
  $("text").onkeydown = event => { if ((event.ctrlKey || event.metaKey) && event.key === "Enter") go(); };
  $("draw").onclick = () => drawScene(Math.floor(Math.random() * 100000));
  $("number").onchange = () => drawScene(state.seed ?? 336);
  $("file").onchange = event => openFiles(event.target.files);
  $("ask").ondragover = event => event.preventDefault();
  $("ask").ondrop = event => { event.preventDefault(); openFiles(event.dataTransfer.files); };
  $("list").onkeydown = moveToken;
  $("heads-table").onkeydown = moveHead;
  $("layer").onchange = event => setLayer(Number(event.target.value));
  $("choice").onchange = event => { state.choice = Number(event.target.value); paintTokens(); };
  for (const id of ["temperature", "top-p", "dice"]) pair(id, showNext);
  $("parts").onclick = computeParts;
  $("to-token").onclick = () => { state.patch = null; showAttention(); };
  $("switch-name").onchange = chooseSwitch;
  $("compare").onclick = compare;
  $("hide-go").onclick = hide;
  $("cell-go").onclick = writeCell;
  $("copy").onclick = copyCell;
  window.onresize = () => { if (run) drawPictures(); };
}

async function begin() {
  listen();
  try {
    start = await ask("/start");
    fill("models", ...start.models.map((one, n) => el("button", { textContent: `${one.vision ? "Text and pictures" : "Text"}: ${one.name}`, onclick: () => chooseModel(n) })));
    fill("examples", ...start.examples.map(one => el("button", { textContent: one.title, onclick: () => { $("text").value = one.text; $("chat").checked = Boolean(one.chat); go(); } })));
    await chooseModel(0);
  } catch (error) { say(error.message, true); }
}
begin();
