"""Faults planted in a run of an embedded model, and in a kernel: the cases that detectives.py asks about.

A model is built with the operations that it uses, so a fault is one operation of another kind. A fault of a kernel is
a change of its text.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

import tiny
from tiny.numerics import softmax
from tiny.system.whole import write_whole
from tiny.tools.demo import PICTURES, STORED
from tiny.tools.prompt_images import user_turn
from tutorial import detectives
from tutorial.source import ROOT, source_of

MODELS = {"A": "tiny-mixtral", "B": "tiny-pixtral"}
PROMPTS = {"A": "Tom had a red kite. Mia had a blue ball. Tom", "B": "what does the image show?"}


def rope_backwards(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *rest: Any) -> np.ndarray:
    return tiny.ops.rope(x, cos, -sin, *rest)


def rope_in_halves(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *rest: Any) -> np.ndarray:
    half = x.shape[-1] // 2
    pairs = np.stack([x[..., :half], x[..., half:]], axis=-1).reshape(x.shape)
    turned = tiny.ops.rope(pairs, cos, sin, *rest)
    return np.concatenate([turned[..., 0::2], turned[..., 1::2]], axis=-1)


def scores_not_scaled(q: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
    return tiny.ops.attention(q * np.float32(q.shape[-1] ** 0.5), *rest, **more)


def kv_heads_tiled(q: np.ndarray, keys: np.ndarray, values: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
    times = (1, q.shape[1] // keys.shape[1], 1)
    return tiny.ops.attention(q, np.tile(keys, times), np.tile(values, times), *rest, **more)


def weights_over_all(*arguments: Any) -> tuple[np.ndarray, ...]:
    logits, ids, _ = tiny.ops.route(*arguments)
    return logits, ids, np.take_along_axis(softmax(logits), ids, axis=1)


def weights_swapped(*arguments: Any) -> tuple[np.ndarray, ...]:
    logits, ids, weights = tiny.ops.route(*arguments)
    return logits, ids, np.ascontiguousarray(weights[:, ::-1])


def rows_and_columns_swapped(positions: np.ndarray, *rest: Any) -> tuple[np.ndarray, ...]:
    return tiny.ops.rope_2d_table(np.ascontiguousarray(positions[:, ::-1]), *rest)


def images_see_each_other(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Any, spans: Any,
                          causal: bool = True, *rest: Any, **more: Any) -> np.ndarray:
    if not causal:
        lengths, spans = [len(q)], [(0, len(keys))]
    return tiny.ops.attention(q, keys, values, lengths, spans, causal, *rest, **more)


def a_causal_encoder(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Any, spans: Any,
                     causal: bool = True, *rest: Any, **more: Any) -> np.ndarray:
    return tiny.ops.attention(q, keys, values, lengths, spans, True, *rest, **more)


# The operation in whose place each fault stands, by part.
FAULTS: dict[str, dict[Callable, str]] = {
    "A": {rope_backwards: "rope", rope_in_halves: "rope", scores_not_scaled: "attention", kv_heads_tiled: "attention",
          weights_over_all: "route", weights_swapped: "route"},
    "B": {rows_and_columns_swapped: "rope_2d_table", images_see_each_other: "attention", a_causal_encoder: "attention"}}
NAMES = {part: {fault.__name__: fault for fault in faults} for part, faults in FAULTS.items()}


# What is changed in the kernel of part C, by the name of the fault: each pattern is there once.
KERNEL, SHARED = "kernels/experts.cu", "kernels/swiglu.cuh"
BARRIER = r"^ *__syncthreads\(\);.*\n"
CHANGES = {"hidden_read_too_early": (rf"{BARRIER}(?=  for \(int d)", ""),
           "hidden_overwritten": (rf"{BARRIER}(?=\}})", ""),
           "hidden_over_answer": (r"\(answer \+ D\)", "(answer + D - 1)"),
           "total_not_zero": (r"^ *for .* total\[d\] = 0\.0f;\n", ""),
           "one_row_too_many": (r"f < F;", "f <= F;"),
           "barrier_for_some": (r"__syncthreads\(\);(?=\n  for \(int d)", "if (threadIdx.x < D) __syncthreads();")}

# The case has no scales of int8 weights, and no layer without a router.
PLAIN = {r"scaled\((dot_v1\(.*?, \w+\)), s\d, \w\)": r"\1", r",\s*const SCALE\*(?: const\*)? s\d": "",
         r", s\d\[e\]": "", r"expert_of\((\w+), pair\)": r"\1[pair]", r"weight_of\((\w+), pair\)": r"\1[pair]"}


def kernel(name: str) -> str:
    """The first version of the experts as a file of its own, with a fault in it."""
    silu, first, last = (source_of(name) for name in (f"{SHARED}:silu", f"{KERNEL}:dot_v1", f"{KERNEL}:experts_v1"))
    lines = (ROOT / KERNEL).read_text(encoding="utf-8").splitlines()[first.first - 1 : last.last]
    lines = [*(ROOT / SHARED).read_text(encoding="utf-8").splitlines()[silu.first - 1 : silu.last], "", *lines]
    text = "\n".join(["// A kernel with a fault in it, for exercise 11.4: student/detectives.py says how to run it.",
                      '#include "numbers.cuh"', "", *lines, ""])
    for written, plain in PLAIN.items():
        text, times = re.subn(written, plain, text)
        assert times, written
    changed, times = re.subn(*CHANGES[name], text, flags=re.M)
    assert times == 1, name
    return changed


def run(part: str, name: str) -> dict[str, np.ndarray]:
    """Every array of a run of a part's model with a fault in it, in the order in which they are made."""
    fault = NAMES[part][name]
    ops: Any = SimpleNamespace(**{name: getattr(tiny.ops, name) for name in tiny.ops.__all__})
    setattr(ops, FAULTS[part][fault], fault)
    model = tiny.load(MODELS[part], ops=ops)
    pictures = []
    if part == "B":
        for file in PICTURES:
            with Image.open(STORED / file) as opened:
                pictures.append(opened.convert("RGB"))
    ids, pixels = (model.tokenizer.encode_chat([user_turn(PROMPTS[part], pictures)]) if pictures
                   else ([model.tokenizer.bos_id, *model.tokenizer.encode(PROMPTS[part])], []))
    arrays: dict[str, np.ndarray] = {"ids": np.array(ids)}
    arrays |= {f"pixels{n}": array for n, array in enumerate(pixels)}
    arrays["logits"] = model(ids, images=pixels, trace=arrays)
    return arrays


def write_case(part: str, path: Path) -> None:
    """Write the case of a part: a kernel, or a run as `verify dump` writes it."""
    if part == "C":
        write_whole(path, kernel(detectives.case_c()))
        return
    name = {"A": detectives.case_a, "B": detectives.case_b}[part]()
    record = {"format": "tiny-verify 1", "precision": "float32", "implementation": "a case for detectives",
              "model": MODELS[part]}
    arrays: dict[str, Any] = run(part, name)
    write_whole(path, lambda file: np.savez(file, record=np.array(json.dumps(record)), **arrays))
