"""Mistakes in rounding points and in orders of addition, each as an edit of a source text.

A mutant names a file under `tiny/` and what to replace in it; `spoil` puts the functions of the edited file in the
place of those that the models use.
"""

import importlib
import sys
import types

import tiny.decoder
import tiny.mixtral
import tiny.rope
import tiny.vision
from tiny.tools.verify import torch_cpu, torch_sums

DECODER, ROPE, CPU, SUMS = (module.__name__ for module in (tiny.decoder, tiny.rope, torch_cpu, torch_sums))

# name: (module, text, text in its place, ...); rounding points first, then orders.
BFLOAT16_MUTANTS = {
    "norm_rounded_once": (CPU, "rounded(rounded(normed, precision) * weight", "rounded(normed * weight"),
    "rope_rounded_once": (ROPE, "round_to(even * cos, precision) - round_to(odd * sin, precision)",
                          "even * cos - odd * sin",
                          "round_to(odd * cos, precision) + round_to(even * sin, precision)", "odd * cos + even * sin"),
    "cosines_not_rounded": (ROPE, "round_to(cos, precision)[:, None], round_to(sin, precision)[:, None]",
                            "cos[:, None], sin[:, None]"),
    "scale_rounded": (CPU, "* np.float32(d**-0.5)", "* rounded(np.float32(d**-0.5), precision)"),
    "scale_before_the_first_rounding": (CPU, "rounded(scores, precision) * np", "scores * np"),
    "scaled_scores_not_rounded": (CPU, "    scores = rounded(scores, precision)\n", ""),
    "probabilities_not_rounded": (CPU, "product(rounded(weights, precision)", "product(weights"),
    "residual_not_rounded": (DECODER, "x = round_to(x + y, precision)", "x = x + y"),
    "router_logits_not_rounded": (CPU, "logits = linear(x, gate, precision)",
                                  "logits = product(x, np.asarray(gate, np.float32))"),
    "router_weights_rounded": (CPU, "chosen, weights / row_sums(weights)[:, None]",
                               "chosen, rounded(weights / row_sums(weights)[:, None], precision)"),
    "expert_term_not_rounded_before_adding": (
        CPU, "rounded(linear(hidden, w2[e], precision) * weights[tokens, rank, None], precision)",
        "linear(hidden, w2[e], precision) * weights[tokens, rank, None]"),
    "experts_in_falling_order": (CPU, "np.unique(chosen)", "np.unique(chosen)[::-1]"),
    "silu_not_rounded": (CPU, "rounded(silu(gate), precision) * up", "silu(gate) * up",
                         "rounded(silu(linear(x, w1, precision)), precision) *", "silu(linear(x, w1, precision)) *"),
    "pixels_not_rounded": (CPU, "x = rounded(np.concatenate([patches(pixels, p) for pixels in images]), precision)",
                           "x = np.concatenate([patches(pixels, p) for pixels in images])"),
    "bias_after_rounding": (CPU, "product(x, weight) + bias",
                            "rounded(product(x, weight), precision) + bias"),
    "gelu_not_rounded": (CPU, "affine(gelu(affine(x, \"w_in\"), precision), \"w_out\")",
                         "affine(tiny.numerics.gelu(affine(x, \"w_in\")), \"w_out\")",
                         "import numpy as np\n", "import numpy as np\nimport tiny.numerics\n"),
    "gelu_without_the_entries": (CPU, "found[values == key] = value", "pass"),
    "stable_top_k": (CPU, "[top_k(row, num_experts_per_tok) for row in probabilities]",
                     "np.argsort(-probabilities, axis=1, kind=\"stable\")[:, :num_experts_per_tok]"),
    "pairs_of_q_and_k_side_by_side": (CPU, "[*range(0, d, 2), *range(1, d, 2)]", "list(range(d))"),
    "numpy_softmax": (SUMS, "e = exp(", "e = np.exp("),
    "softmax_divides": (SUMS, "e * (np.float32(1) / total)[..., None]", "e / total[..., None]"),
    "softmax_in_turn": (SUMS, "if n < 16:", "if n:"),
    "sums_in_float64": (SUMS, "    count = x.shape[1] // 8\n",
                        "    return x.sum(axis=1, dtype=np.float64).astype(np.float32)\n"),
    "sums_in_numpys_order": (SUMS, "    count = x.shape[1] // 8\n", "    return x.sum(axis=1)\n"),
    "float64_dots": (SUMS, "    (M, K), N = a.shape[-2:], b.shape[-2]\n",
                     "    return (a.astype(np.float64) @ b.swapaxes(-1, -2)).astype(np.float32)\n"),
    "float32_dots_of_blas": (SUMS, "    (M, K), N = a.shape[-2:], b.shape[-2]\n",
                             "    return a @ b.swapaxes(-1, -2)\n"),
    "lower_of_a_pair_first": (SUMS, "for k in (first + 1, first) if", "for k in (first, first + 1) if"),
    "small_products_through_onednn": (SUMS, "OWN, PLAIN = 4096, 400", "OWN, PLAIN = 0, 400"),
    "no_plain_order_in_a_batch": (SUMS, "OWN, PLAIN = 4096, 400", "OWN, PLAIN = 4096, 0"),
    "four_sums_never": (SUMS, "four_sums(a, b) if by_columns else", ""),
    "convolution_in_blocks": (CPU, "in_blocks(channels_last(x), kernel, block=kernel.shape[1])",
                              "product(channels_last(x), kernel)"),
    "convolution_with_channels_first": (CPU, "return padded.reshape(len(x), -1)", "return x.reshape(len(x), -1)"),
    "convolution_of_three_channels": (CPU, "p, p, C + C % 2)", "p, p, C)"),
    "gate_and_up_apart": (CPU, "linear(x[tokens], np.concatenate([w1[e], w3[e]]), precision)",
                          "np.hstack([linear(x[tokens], w[e], precision) for w in (w1, w3)])"),
    "frequencies_in_float64": (
        CPU, "np.float32(1) / (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)",
        "(theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)"),
    "power_in_float32": (CPU, "(np.float64(theta) ** exponents.astype(np.float64))",
                         "(np.float32(theta) ** exponents)"),
    "images_by_themselves": (CPU, "if not causal:", "if False:", "high - low - length, dtype=bool)",
                             "high - low - length + (0 if causal else length), dtype=bool)"),
}


def spoil(name, monkeypatch) -> tuple[types.ModuleType, types.ModuleType]:
    """The operations and the sums under them, with the mistake in either or around them."""
    home, *edits = BFLOAT16_MUTANTS[name]
    original = importlib.import_module(home)
    with open(original.__file__, encoding="utf-8") as file:
        source = file.read()
    for old, new in zip(edits[::2], edits[1::2]):
        assert old in source, f"{name}: {home} no longer holds {old!r}"
        source = source.replace(old, new)
    spoiled = types.ModuleType(home)
    exec(compile(source, f"{home} with {name}", "exec"), vars(spoiled))
    if original is torch_cpu:
        return spoiled, torch_sums
    functions = {id(value): vars(spoiled)[key] for key, value in vars(original).items()
                 if isinstance(value, types.FunctionType) and value.__module__ == home}
    for module in [module for key, module in sys.modules.items() if key.partition(".")[0] == "tiny"]:
        for key, value in list(vars(module).items()):
            if id(value) in functions:
                monkeypatch.setattr(module, key, functions[id(value)])
    return torch_cpu, spoiled if original is torch_sums else torch_sums
