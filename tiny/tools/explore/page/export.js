// Where the numbers of a panel come from; a panel as a picture; what is shown as a cell of a notebook.
"use strict";
const FROM = { tokens: ["tokens"], router: ["router", "parts"], attention: ["attention", "patch"], next: ["next"], switch: ["switch"], hide: ["hide"] };

function prepareSources() {
  for (const [section, names] of Object.entries(FROM)) {
    $(section).querySelector(".from")?.remove();
    const shown = names.filter(name => name !== "patch" || model.vision).map(name => start.panels[name]);
    const arrays = shown.map(one => one.arrays).filter(Boolean).join("; ");
    $(section).append(el("details", { className: "from" }, el("summary", {}, "Where this comes from, and a picture of it"),
      el("p", {}, arrays ? `Arrays: ${arrays} (NN is the layer). ` : "", `Chapter: ${[...new Set(shown.map(one => `tutorial/${one.chapter}`))].join(", ")}.`),
      ...shown.flatMap(one => one.functions).flatMap(one => [el("p", {}, one.place), el("pre", { textContent: one.lines, tabIndex: 0 })]),
      el("button", { textContent: "Save this panel as PNG", onclick: () => savePanel($(section)).catch(error => say(error.message, true)) })));
  }
}

// The panel is drawn by the browser itself, from a copy in SVG with the same style sheet.
async function panelPicture(section) {
  const { width, height } = section.getBoundingClientRect(), copy = section.cloneNode(true);
  copy.querySelectorAll(".from").forEach(node => node.remove());
  const drawn = [...copy.querySelectorAll("canvas")];
  section.querySelectorAll("canvas").forEach((canvas, n) => {
    const picture = el("img", { src: canvas.toDataURL() });
    picture.style.width = `${canvas.clientWidth}px`;
    drawn[n].replaceWith(picture);
  });
  const copies = [...copy.querySelectorAll("select, input")];
  section.querySelectorAll("select, input").forEach((field, n) => copies[n].replaceWith(el("strong", {},
    field.tagName === "SELECT" ? field.selectedOptions[0]?.textContent ?? "" : field.type === "range" ? "" : field.value)));
  const sheet = [...document.styleSheets[0].cssRules].map(rule => rule.cssText).join("\n");
  const body = el("div", {}, el("style", { textContent: sheet }), copy);
  Object.assign(body.style, { background: getComputedStyle(document.body).backgroundColor, font: "16px/1.45 system-ui, sans-serif", color: getComputedStyle(document.body).color });
  body.style.colorScheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const inside = new XMLSerializer().serializeToString(body);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%">${inside}</foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = el("canvas", { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done, failed) => canvas.toBlob(blob => blob ? done(blob) : failed(new Error("The browser drew nothing.")), "image/png"));
}

async function savePanel(section) {
  const link = el("a", { href: URL.createObjectURL(await panelPicture(section)), download: `explore-${section.id}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function writeCell() {
  const seed = state.seed === null ? {} : { seed: state.seed };
  const found = await askOf(run, "/cell", { row: state.row, layer: state.head[0], head: state.head[1], ...seed }).catch(error => say(error.message, true));
  if (!found) return;
  $("cell-text").textContent = found.cell;
  $("cell-text").hidden = $("copy").hidden = false;
}

async function copyCell() {
  try {
    await navigator.clipboard.writeText($("cell-text").textContent);
    say("Copied.");
  } catch {  // not allowed here: the reader copies what is selected
    getSelection().selectAllChildren($("cell-text"));
    say("Selected: copy it with your keyboard.");
  }
}
