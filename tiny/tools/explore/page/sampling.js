// The rule of tiny/sampling.py, on all logits: temperature, then the smallest set of likeliest tokens that holds top_p.
"use strict";

function distribution(logits, temperature, topP) {
  let largest = -Infinity;
  for (const score of logits) if (score > largest) largest = score;
  if (temperature === 0) {  // the largest logit, of equal ones the lower id
    const best = logits.indexOf(largest), probabilities = new Float64Array(logits.length);
    probabilities[best] = 1;
    return { probabilities, order: [best], cumulative: [1], kept: 1 };
  }
  const probabilities = Float64Array.from(logits, score => Math.exp(Math.fround(score - largest) / temperature));
  const sum = probabilities.reduce((total, one) => total + one, 0);
  probabilities.forEach((one, id) => { probabilities[id] = one / sum; });
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const cumulative = [];
  let total = 0, kept = 0;
  for (const id of order) {
    total += probabilities[id];
    cumulative.push(total);
    if (total - probabilities[id] <= topP) kept += 1;
  }
  return { probabilities, order, cumulative, kept: Math.max(1, kept) };
}

// The token that a random number from 0 to 1 draws.
function draw(found, random) {
  const wanted = random * found.cumulative[found.kept - 1];
  const place = found.cumulative.slice(0, found.kept).findIndex(total => total > wanted);
  return found.order[place < 0 ? found.kept - 1 : place];
}
