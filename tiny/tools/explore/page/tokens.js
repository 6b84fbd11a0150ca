// The tokens: each by the colour and the number of its expert; the chosen one decides what all panels show.
"use strict";
const inPicture = at => run.places.includes(at) || run.pieces[at].startsWith("[IMG");
const colour = expert => `rgb(${model.colours[expert % model.colours.length]})`;
let turn = 0;  // of clicks: an answer that comes late is not shown

function showTokens() {
  const skipped = new Set(run.pieces.keys().filter(inPicture));
  fill("list", ...run.pieces.map((piece, at) => skipped.has(at) ? null : el("button",
    { className: at >= run.prompt ? "written" : "", onclick: () => chooseWord(at), tabIndex: -1 },
    visible(piece), el("small"))).filter(Boolean));
  [...$("list").children].forEach((button, n) => { button.at = shownAt[n]; });
}
let shownAt = [];

function prepareTokens() {
  shownAt = [...run.pieces.keys()].filter(at => !inPicture(at));
  showTokens();
  paintTokens();
}

function paintTokens() {
  const { layer, choice } = state;
  for (const button of $("list").children) {
    const expert = run.experts ? run.experts[layer][button.at][choice] : null;
    button.style.background = expert === null || expert === undefined ? "var(--plain)" : colour(expert);
    fillNumber(button.lastChild, expert);
  }
}

function fillNumber(small, expert) {
  small.replaceChildren(...(expert === null || expert === undefined ? [] : [el("span", { className: "sr" }, " expert "), String(expert)]));
}

function markTokens() {
  const [first, end] = state.word ?? [state.row + 1, state.row + 2];
  for (const button of $("list").children) {
    const here = button.at === state.row;
    button.ariaPressed = String(here);
    button.tabIndex = here ? 0 : -1;
    button.classList.toggle("decided", button.at >= first && button.at < end);
  }
}

// A word that the model wrote goes from a space or a sign to the next one.
function wordAt(at) {
  const begins = n => n <= run.prompt || /^[^\p{L}\p{N}]/u.test(run.pieces[n]) || /[^\p{L}\p{N}]$/u.test(run.pieces[n - 1]);
  let first = at, end = at + 1;
  while (!begins(first)) first -= 1;
  while (end < run.pieces.length && !begins(end)) end += 1;
  return [first, end];
}

function chooseWord(at) {
  if (at < run.prompt) return choose(at);
  const word = wordAt(at);
  return choose(word[0] - 1, word);
}

// Shows the numbers of one token, or of the one before a written word: there the word was decided.
async function choose(at, word = null, focus = false) {
  const mine = ++turn, shown = run;
  const data = await askOf(run, "/row", { row: at }).catch(error => say(error.message, true));
  if (!data || mine !== turn || shown !== run) return;
  Object.assign(state, { row: at, word, patch: null });
  row = unpack(data);
  state.head ??= telling();
  markTokens();
  sayReading();
  showPanels();
  if (focus) $("list").querySelector("[aria-pressed=true]")?.focus();
}

function sayReading() {
  const after = run.pieces[state.row + 1], word = state.word && run.pieces.slice(...state.word).join("").trim();
  const here = `The panels show token ${state.row}, ${quoted(run.pieces[state.row])}`;
  fill("reading", word ? `You chose the word ${quoted(word)}, which the model wrote. It was decided one token earlier. ${here}, after which it came.`
    : `${here}${after === undefined ? ", the last one" : `; after it comes ${quoted(after)}`}.`,
    el("span", { className: "dim" }, " Underlined tokens were written by the model. Solid frame: the token of the panels. Dashed frame: what comes after it."));
}

function moveToken(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (!step || !run) return;
  event.preventDefault();
  const place = shownAt.indexOf(state.row) + step;
  choose(shownAt[Math.max(0, Math.min(shownAt.length - 1, place))], null, true);
}
