// Questions to the server, or to a recorded run on a page without one.
"use strict";
let start = null;        // what the server tells once
let model = null;        // the model that is looked at
let run = null;          // the run that the panels show; run.asked is its request
let trained = null;      // the last run without a switch
let row = null;          // the numbers of the chosen token
const state = { model: 0, kind: "text", row: 0, word: null, layer: 0, choice: 0, head: null, pictures: [], seed: null,
  things: {}, answers: {}, marks: new Set(), patch: null, cursor: 0, encoder: [0, 0] };
const times = [];        // [path, milliseconds, bytes] of each request, for the tests

class Refused extends Error {
  constructor(status, cause, remedy) { super(`${cause} ${remedy}`); this.status = status; }
}

async function ask(path, body, signal) {
  const begun = performance.now();
  if (window.recorded) return window.recorded(path, body);
  let reply;
  try {
    reply = await fetch(path, body === undefined ? { signal } : { method: "POST", body: JSON.stringify(body), signal,
      headers: { "Content-Type": "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.", "Is python -m tiny explore still running?");
  }
  const data = await reply.arrayBuffer();
  times.push([path, performance.now() - begun, data.byteLength]);
  const json = reply.headers.get("Content-Type") === "application/json" ? JSON.parse(new TextDecoder().decode(data)) : null;
  if (!reply.ok) throw new Refused(reply.status, json?.error?.cause ?? "The server failed.", json?.error?.remedy ?? "");
  return json ?? new Float32Array(data);
}

// What belongs to a run. The server forgets old ones: then its request is asked again, and has the same name.
async function askOf(one, path, body) {
  try {
    return await ask(path, { run: one.run, ...body });
  } catch (error) {
    if (error.status !== 410) throw error;
    await ask("/run", one.asked);
    return ask(path, { run: one.run, ...body });
  }
}

function request(more = {}) {
  const pictures = state.kind === "picture" ? { pictures: state.pictures } : { chat: $("chat").checked };
  return { model: model.name, text: $("text").value, tokens: Number($("tokens-wanted").value) || 40, ...pictures, ...more };
}

async function runOf(asked, signal) { return { ...await ask("/run", asked, signal), asked }; }

// The numbers of a token, cut from one row of float32; only the number of keys is not known before.
function unpack(data) {
  const { layers: L, heads: H, experts: E } = model, V = model.pieces.length;
  const K = E ? run.chosen : 0, rest = L * E + 2 * L * K + V, S = (data.length - rest) / (L * H);
  let at = 0;
  const take = size => data.subarray(at, at += size);
  return { S, attention: take(L * H * S), scores: take(L * E), chosen: take(L * K), weights: take(L * K), logits: take(V), K };
}
