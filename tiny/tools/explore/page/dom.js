// Small helpers. Text that comes from models, files or readers is only ever set as text, never as markup.
"use strict";
const $ = id => document.getElementById(id);

function el(name, more = {}, ...children) {
  const node = Object.assign(document.createElement(name), more);
  node.append(...children.filter(child => child !== null));
  return node;
}

function fill(id, ...children) { $(id).replaceChildren(...children.filter(child => child !== null)); }

// A token as it is shown: marks for line ends and tabs, and for one that is empty.
const visible = piece => piece.replace(/<0x0A>|\n/g, "↵").replace(/<0x09>|\t/g, "→") || "∅";
const token = piece => el("span", { className: "token" }, visible(piece));
const quoted = piece => `“${visible(piece)}”`;
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

function bar(share, colour) {
  const node = el("span", { className: "b" });
  node.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  if (colour) node.style.background = colour;
  return node;
}

// Rows are lists of cells, texts or nodes; a row may carry a class name.
function table(head, rows) {
  const cell = (kind, content) => el(kind, content instanceof Element && content.className === "b" ? { className: "bars" } : {},
    content instanceof Node ? content : String(content));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head.map(name => cell(name ? "th" : "td", name)))),
    el("tbody", {}, ...rows.map(row => el("tr", { className: row.className ?? "" }, ...row.map(one => cell("td", one))))));
}

function options(id, pairs, chosen) {
  fill(id, ...pairs.map(([value, text]) => el("option", { value, textContent: text })));
  if (chosen !== undefined) $(id).value = chosen;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").className = wrong ? "error" : "";
}

// A slider and a number field that show one number; the field may go beyond the slider.
function pair(id, changed) {
  const slider = $(`${id}-range`), field = $(id);
  slider.oninput = () => { field.value = slider.value; changed(); };
  field.oninput = () => { slider.value = field.value; changed(); };
}
