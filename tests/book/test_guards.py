"""What every operation refuses: arguments that it has no meaning for. The kernels refuse the same, in the same words.

The oracle is the docstring of each operation: its shapes, its dtypes and what it raises.
"""

import inspect
import re

import ml_dtypes
import numpy as np
import pytest
from emulator_case import needs_compiler

import kernels.ops
import tiny.ops
from kernels.rms_norm import add_rms_norm
from tiny import numerics
from tiny.kv_cache import KVCache

RNG = np.random.default_rng(3)
KERNELS = ("attention", "experts", "rms_norm", "rope", "route")


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def right(name: str) -> dict:
    """Arguments that an operation takes, by name."""
    cos, sin = tiny.ops.rope_table(np.arange(3), 8, 1e4)
    matrices = {"w1": draw(6, 4), "w2": draw(4, 6), "w3": draw(6, 4)}
    adapter = {f"vision_language_adapter.{key}": value for key, value in
               {"w_in.weight": draw(6, 4), "w_in.bias": draw(6), "w_out.weight": draw(6, 6),
                "w_out.bias": draw(6)}.items()}
    return {
        "adapter": {"x": draw(3, 4), "weights": adapter},
        "add": {"x": draw(3, 4), "y": draw(3, 4)},
        "add_norm": {"x": draw(3, 4), "y": draw(3, 4), "weight": draw(4), "eps": 1e-5},
        "attention": {"q": draw(3, 4, 8), "keys": draw(5, 2, 8), "values": draw(5, 2, 8), "lengths": [2, 1],
                      "spans": [(0, 3), (3, 5)]},
        "embed": {"ids": np.array([4, 0, 4]), "table": draw(5, 4)},
        "experts": {"x": draw(3, 4), "expert_ids": np.array([[0, 2], [1, 0], [2, 1]]), "expert_weights": draw(3, 2),
                    **{key: [value] * 3 for key, value in matrices.items()}},
        "feed_forward": {"x": draw(3, 4), **matrices},
        "linear": {"x": draw(3, 4), "weight": draw(5, 4)},
        "patch_embed": {"images": [draw(3, 4, 6), draw(3, 2, 2)], "weight": draw(5, 3, 2, 2)},
        "rms_norm": {"x": draw(3, 4), "weight": draw(4), "eps": 1e-5},
        "rope": {"x": draw(3, 2, 8), "cos": cos, "sin": sin},
        "rope_2d_table": {"positions": np.array([[0, 0], [0, 1]]), "head_dim": 8, "theta": 1e4},
        "rope_table": {"positions": np.arange(3), "head_dim": 8, "theta": 1e4},
        "route": {"x": draw(3, 4), "gate": draw(5, 4), "num_experts_per_tok": 2},
        "erf": {"x": draw(3, 4)}, "gelu": {"x": draw(3, 4)}, "silu": {"x": draw(3, 4)}, "softmax": {"x": draw(3, 4)},
        "round_to": {"x": draw(3, 4), "precision": "float32"}}[name]


SEAM = sorted({*tiny.ops.__all__} - {"new_cache", "splice"})  # these two have tests of their own
OPERATIONS = {name: getattr(tiny.ops if hasattr(tiny.ops, name) else numerics, name) for name in
              [*SEAM, "erf", "gelu", "silu", "softmax", "round_to"]}
ACTIVATIONS = {"attention": ["q", "keys", "values"], "rope": ["x", "cos", "sin"], "experts": ["x", "expert_weights"],
               "patch_embed": ["images"], "rope_table": [], "rope_2d_table": [], "add": ["x", "y"],
               "add_norm": ["x", "y"], "embed": []}
WEIGHTS = {"linear": ["weight"], "rms_norm": ["weight"], "add_norm": ["weight"], "embed": ["table"],
           "route": ["gate"], "patch_embed": ["weight"],
           "feed_forward": ["w1", "w2", "w3"], "experts": ["w1", "w2", "w3"], "adapter": ["weights"]}
POSITIONS = {"embed": ["ids"], "rope_table": ["positions"], "rope_2d_table": ["positions"], "experts": ["expert_ids"]}


def rounds(function):
    return "precision" in inspect.signature(function).parameters


def changed(value, change):
    """An argument with a change made to its array, or to each of its arrays."""
    if isinstance(value, dict):
        return {key: changed(item, change) for key, item in value.items()}
    return [change(item) for item in value] if isinstance(value, list) else change(value)


def of_another_dtype():
    for name in OPERATIONS:
        cases = [(key, dtype) for key in ACTIVATIONS.get(name, ["x"])
                 for dtype in (np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.complex64, object)]
        # Keys and values may also be those of a cache in bfloat16.
        cases = [case for case in cases if name != "attention" or case[1] != ml_dtypes.bfloat16 or case[0] == "q"]
        cases += [(key, dtype) for key in WEIGHTS.get(name, []) for dtype in (np.float64, np.int8, bool, object)]
        cases += [(key, dtype) for key in POSITIONS.get(name, []) for dtype in (np.float32, bool, object)]
        yield from ((name, {key: changed(right(name)[key], lambda x, dtype=dtype: x.astype(dtype))})
                    for key, dtype in cases)


def of_another_rank():
    """One axis more, one less, none; but softmax, SiLU and their like take any, and linear a view of HF's rows."""
    for name in SEAM:
        for key, value in right(name).items():
            changes = [lambda x: x[None], lambda x: x[0], lambda x: x[()].ravel()[0], lambda x: x.tolist()]
            if isinstance(value, (np.ndarray, list, dict)) and key not in ("lengths", "spans"):
                yield from ((name, {key: changed(value, change)}) for n, change in enumerate(changes)
                            if not (n == 0 and (name, key) == ("linear", "weight")))


X = np.zeros
F32 = np.float32
OTHERS = [
    ("linear", {"x": draw(3, 5)}), ("linear", {"weight": draw(4)}), ("rms_norm", {"weight": draw(3)}),
    ("rms_norm", {"weight": draw(1)}), ("rms_norm", {"eps": -1e-5}), ("rms_norm", {"eps": float("nan")}),
    ("add", {"y": draw(3, 5)}), ("add", {"y": draw(1, 4)}), ("add_norm", {"y": draw(2, 4)}),
    ("add_norm", {"weight": draw(3)}), ("add_norm", {"eps": -1.0}), ("embed", {"ids": np.array([0, 5])}),
    ("embed", {"ids": np.array([-1])}),
    ("softmax", {"x": X((3, 0), F32)}), ("softmax", {"x": X((), F32)}), ("softmax", {"out": X((2, 3, 4), F32)}),
    ("softmax", {"out": X((3, 4))}),
    ("rope", {"x": draw(3, 2, 7), "cos": draw(3, 3), "sin": draw(3, 3)}), ("rope", {"cos": draw(3, 8)}),
    ("rope", {"sin": draw(2, 4)}), ("rope", {"x": draw(2, 2, 8)}), ("rope", {"x": draw(3, 2, 10)}),
    ("rope_table", {"head_dim": 7}), ("rope_table", {"head_dim": 0}), ("rope_table", {"theta": 0.0}),
    ("rope_table", {"theta": float("nan")}), ("rope_2d_table", {"head_dim": 6}), ("rope_2d_table", {"head_dim": 0}),
    ("rope_2d_table", {"theta": -1.0}), ("rope_2d_table", {"positions": np.zeros((2, 3), int)}),
    ("attention", {"q": draw(3, 3, 8)}), ("attention", {"q": draw(3, 1, 8)}), ("attention", {"q": draw(3, 0, 8)}),
    ("attention", {"q": draw(3, 4, 6)}), ("attention", {"values": draw(5, 2, 6)}),
    ("attention", {"values": draw(5, 1, 8)}),
    ("attention", {"values": draw(4, 2, 8)}), ("attention", {"keys": draw(5, 0, 8), "values": draw(5, 0, 8)}),
    ("attention", {"lengths": [2, 2]}), ("attention", {"lengths": [3, 0]}), ("attention", {"lengths": [2.0, 1.0]}),
    ("attention", {"lengths": [3]}), ("attention", {"spans": [(0, 3), (3, 6)]}),
    ("attention", {"spans": [(0, 1), (3, 5)]}),
    ("attention", {"spans": [(-1, 3), (3, 5)]}), ("attention", {"spans": [(0.0, 3.0), (3, 5)]}),
    ("attention", {"lengths": [], "spans": []}),
    ("attention", {"q": draw(2, 4, 8), "lengths": [1, 1], "spans": [(0, 3), (3, 6)]}),
    ("route", {"gate": draw(5, 3)}), ("route", {"num_experts_per_tok": 0}), ("route", {"num_experts_per_tok": 6}),
    ("route", {"num_experts_per_tok": 1.5}), ("route", {"num_experts_per_tok": "2"}),
    ("experts", {"expert_ids": np.array([[0, -1], [1, 0], [2, 1]])}),
    ("experts", {"expert_ids": np.array([[0, 3], [1, 0], [2, 1]])}),
    ("experts", {"expert_ids": np.array([[0, 0], [1, 0], [2, 1]])}),
    ("experts", {"expert_ids": np.array([[0, 1], [1, 0]])}),
    ("experts", {"expert_weights": draw(3, 1)}), ("experts", {"expert_weights": draw(2, 2)}),
    ("experts", {"x": draw(2, 4)}), ("experts", {"x": draw(3, 5)}), ("experts", {"w1": [draw(6, 4)] * 2}),
    ("experts", {"w2": [draw(6, 4)] * 3}), ("experts", {"w3": [draw(5, 4)] * 3}),
    ("feed_forward", {"x": draw(3, 5)}), ("feed_forward", {"w2": draw(6, 4)}), ("feed_forward", {"w3": draw(1, 4)}),
    ("patch_embed", {"images": []}), ("patch_embed", {"images": [draw(1, 4, 6)]}),
    ("patch_embed", {"images": [draw(3, 4, 5)]}),
    ("patch_embed", {"images": [draw(3, 0, 4)]}), ("patch_embed", {"weight": draw(5, 3, 2, 1)}),
    ("adapter", {"x": draw(3, 5)}), ("adapter", {"x": draw(0, 4)}),
    ("adapter", {"weights": right("adapter")["weights"] | {"vision_language_adapter.w_in.bias": draw(1)}}),
    ("adapter", {"weights": right("adapter")["weights"] | {"vision_language_adapter.w_out.weight": draw(5, 6)}}),
    *[(name, {"precision": precision}) for name, function in OPERATIONS.items() if rounds(function)
      for precision in ("fp16", "float16", "", None, np.float32)]]
CASES = [*of_another_dtype(), *of_another_rank(), *OTHERS]


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_right_is_taken(name):
    for precision in [{}, {"precision": "bfloat16"}][: 1 + rounds(OPERATIONS[name])]:
        result = OPERATIONS[name](**{**right(name), **precision})
        floats = [x for x in (result if isinstance(result, tuple) else (result,)) if x.dtype != np.int64]
        assert floats and all(x.dtype == np.float32 for x in floats)


def refusal(function, *args, **arguments) -> str:
    """The one sentence of the ValueError that a call must end in."""
    with pytest.raises(ValueError) as caught:
        function(*args, **arguments)
    words = str(caught.value)
    assert "\n" not in words and "got" in words and len(words) < 300, words
    return words


@pytest.mark.parametrize("name, bad", CASES, ids=[f"{name} {' '.join(bad)}" for name, bad in CASES])
def test_what_has_no_meaning_is_refused_in_a_sentence(name, bad):
    words = refusal(OPERATIONS[name], **{**right(name), **bad})
    assert name in words or re.match("The precision|(?:patches|feed_forward|add|rms_norm) expects", words)


@needs_compiler
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_refuse_the_same_in_the_same_words(name):
    assert sum(case == name for case, _ in CASES) > 15
    for case, bad in CASES:
        if case == name:
            arguments = {**right(name), **bad}
            words, of_the_book = (refusal(function, **arguments)
                                  for function in (getattr(kernels.ops, name), OPERATIONS[name]))
            # Kernels take matrices of int8, which the book has not, and ask for their scales.
            scales = "of int8" in of_the_book and "a scale for each row of int8 matrices" in words
            assert words == of_the_book or name == "experts" and scales, bad


@needs_compiler
@pytest.mark.parametrize("bad", [{"y": draw(3, 5)}, {"y": draw(3, 4).astype(np.float64)}, {"x": draw(4)},
                                 {"weight": draw(3)}, {"precision": "fp16"}])
def test_the_sum_and_the_norm_refuse_too(bad):
    launcher = kernels.ops.launcher_of(draw(1))
    refusal(add_rms_norm, launcher, **{"x": draw(3, 4), "y": draw(3, 4), "weight": draw(4), "eps": 1e-5, **bad})


@pytest.mark.parametrize("k", [draw(2, 1, 4), draw(3, 2, 4), draw(2, 2, 1), draw(2, 2),
                               draw(2, 2, 4).astype(np.float64), [[1.0]]])
def test_a_cache_takes_no_other_rows(k):
    """Rows of one head would have been repeated for all of them, and float64 rounded."""
    cache, right = KVCache(1, 2, 4, [5]), draw(2, 2, 4)
    refusal(cache.append, 0, k, right, [2])
    refusal(cache.append, 0, right, k, [2])
    assert cache.append(0, right, right, [2]) == [(0, 2)]
