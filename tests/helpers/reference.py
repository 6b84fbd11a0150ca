"""A whole decoder in float64, token by token and head by head: slow, plain, and written from the papers' formulas.

It shares no operation with `tiny/`. `tensors` are Mistral's names and row order; the result is the logits (T, V).
"""

import math

import numpy as np


def norm(x, weight, eps):
    return x / math.sqrt(sum(float(v) ** 2 for v in x) / len(x) + eps) * weight


def rotate(x, position, theta):
    """Turn pairs (x[2i], x[2i + 1]) of one head, as complex numbers."""
    out = np.zeros(len(x))
    for i in range(len(x) // 2):
        angle = position * theta ** (-2 * i / len(x))
        turned = complex(x[2 * i], x[2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
        out[2 * i], out[2 * i + 1] = turned.real, turned.imag
    return out


def softmax(scores):
    top = max(scores)
    exponentials = [math.exp(s - top) for s in scores]
    return [e / math.fsum(exponentials) for e in exponentials]


def attend(q, keys, values):
    """One query against the keys that it sees."""
    weights = softmax([float(q @ key) / math.sqrt(len(q)) for key in keys])
    return sum(w * value for w, value in zip(weights, values))


def silu(x):
    return np.array([v * (1 / (1 + math.exp(-v)) if v > -700 else 0.0) for v in x])


def feed_forward(x, w1, w2, w3):
    return w2 @ (silu(w1 @ x) * (w3 @ x))


def choose(logits, K):
    """The K largest in falling order, the lower index first where two are equal."""
    return sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:K]


def layer(x, n, W, config):
    """One decoder layer on the list of the tokens' vectors."""
    def w(name):
        return W[f"layers.{n}.{name}.weight"]

    H, G, d, eps = config.n_heads, config.n_kv_heads, config.head_dim, config.norm_eps
    heads = [[], [], []]
    for position, row in enumerate(x):
        normed = norm(row, w("attention_norm"), eps)
        for kind, name, count in ((0, "wq", H), (1, "wk", G), (2, "wv", G)):
            parts = [(w(f"attention.{name}") @ normed)[h * d : (h + 1) * d] for h in range(count)]
            heads[kind].append([rotate(p, position, config.rope_theta) if kind < 2 else p for p in parts])
    q, k, v = heads
    out = []
    for t in range(len(x)):
        groups = [h // (H // G) for h in range(H)]
        mixed = [attend(q[t][h], [key[g] for key in k[: t + 1]], [value[g] for value in v[: t + 1]])
                 for h, g in enumerate(groups)]
        y = x[t] + w("attention.wo") @ np.concatenate(mixed)
        out.append(y + mlp(norm(y, w("ffn_norm"), eps), w, config))
    return out


def mlp(x, w, config):
    if config.moe is None:
        return feed_forward(x, *(w(f"feed_forward.{m}") for m in ("w1", "w2", "w3")))
    logits = w("feed_forward.gate") @ x
    chosen = choose(logits, config.moe.num_experts_per_tok)
    shares = softmax([logits[e] for e in chosen])
    return sum(share * feed_forward(x, *(w(f"feed_forward.experts.{e}.{m}") for m in ("w1", "w2", "w3")))
               for share, e in zip(shares, chosen))


def rotate_2d(x, row, column, theta):
    """Turn the first half of a head's pairs by the row of a patch, the second half by its column."""
    d, out = len(x), np.zeros(len(x))
    for i in range(d // 2):
        angle = row * theta ** (-4 * i / d) if i < d // 4 else column * theta ** (-(4 * (i - d // 4) + 2) / d)
        turned = complex(x[2 * i], x[2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
        out[2 * i], out[2 * i + 1] = turned.real, turned.imag
    return out


def embed_patches(pixels, weight):
    """Vectors of the patches of one image, row by row, and their places: a convolution at each of them."""
    p, places = weight.shape[-1], []
    x = []
    for row in range(pixels.shape[1] // p):
        for column in range(pixels.shape[2] // p):
            patch = pixels[:, row * p : (row + 1) * p, column * p : (column + 1) * p].astype(np.float64)
            x.append(np.array([float((kernel * patch).sum()) for kernel in weight]))
            places.append((row, column))
    return x, places


def vision_layer(x, places, n, W, vision):
    """One layer of the encoder on the patches of one image."""
    def w(name):
        return W[f"vision_encoder.transformer.layers.{n}.{name}.weight"]

    heads, d, out = vision.num_attention_heads, vision.head_dim, []
    normed = [norm(row, w("attention_norm"), 1e-5) for row in x]
    q, k, v = ([[(w(f"attention.{name}") @ row)[h * d : (h + 1) * d] for h in range(heads)] for row in normed]
               for name in ("wq", "wk", "wv"))
    q, k = ([[rotate_2d(head, *place, vision.rope_theta) for head in row] for row, place in zip(rows, places)]
            for rows in (q, k))
    for t, row in enumerate(x):
        mixed = [attend(q[t][h], [key[h] for key in k], [value[h] for value in v]) for h in range(heads)]
        y = row + w("attention.wo") @ np.concatenate(mixed)
        w1, w2, w3 = (w(f"feed_forward.{m}") for m in ("w1", "w2", "w3"))
        out.append(y + feed_forward(norm(y, w("ffn_norm"), 1e-5), w1, w2, w3))
    return out


def encode(vision, tensors, images):
    """The encoder (N, hidden_size) in float64, one image after the other."""
    W = {name: x.astype(np.float64) for name, x in tensors.items() if name.startswith("vision_")}
    out = []
    for pixels in images:
        x, places = embed_patches(pixels, W["vision_encoder.patch_conv.weight"])
        x = [norm(row, W["vision_encoder.ln_pre.weight"], 1e-5) for row in x]
        for n in range(vision.num_hidden_layers):
            x = vision_layer(x, places, n, W, vision)
        out += x
    return np.array(out)


def adapt(x, tensors):
    """The adapter (N, D) in float64."""
    W = {name.removeprefix("vision_language_adapter."): w.astype(np.float64) for name, w in tensors.items()
         if name.startswith("vision_language_adapter.")}
    out = []
    for row in x:
        hidden = W["w_in.weight"] @ row + W["w_in.bias"]
        hidden = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in hidden])
        out.append(W["w_out.weight"] @ hidden + W["w_out.bias"])
    return np.array(out)


def forward(config, tensors, ids, images=()):
    """Logits (T, V) in float64 of one sequence, whose image tokens are the patches of the images in order."""
    W = {name: x.astype(np.float64) for name, x in tensors.items()}
    x = [W["tok_embeddings.weight"][id] for id in ids]
    if images:
        patches = iter(adapt(encode(config.vision, tensors, images), tensors))
        x = [next(patches) if id == config.vision.image_token_id else row for id, row in zip(ids, x)]
        assert next(patches, None) is None
    for n in range(config.n_layers):
        x = layer(x, n, W, config)
    return np.array([W["output.weight"] @ norm(row, W["norm.weight"], config.norm_eps) for row in x])
