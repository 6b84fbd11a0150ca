"""With PyTorch's orders of addition the model has PyTorch's bits: all of them, in every case."""

import inspect

import numpy as np
import pytest
from compare import assert_close
from torch_cases import NAMES, images_of, kernel_cases, kernels, model_of, oracle_cases, oracles, same_bits

import tiny
from tiny.tools.verify import torch_cpu, torch_sums

GREEDY = 16
KINDS = sorted({name.split("/")[0] for name in kernels()})


def test_the_same_names_and_signatures_as_the_book():
    assert torch_cpu.__all__ == tiny.ops.__all__
    for name in torch_cpu.__all__:
        ours, books = (inspect.signature(getattr(ops, name)) for ops in (torch_cpu, tiny.ops))
        assert str(ours) == str(books), name


@pytest.mark.parametrize("layout", ["mistral", "hf"])
def test_every_logit_of_transformers(layout):
    cases = list(oracle_cases(torch_cpu, layout))
    wrong = [name for name, actual, expected in cases if not same_bits(actual, expected)]
    assert len(cases) == 12 and not wrong, f"{layout}: other bits in {wrong}"


@pytest.mark.parametrize("layout", ["mistral", "hf"])
@pytest.mark.parametrize("name", NAMES)
def test_every_greedy_token_of_transformers(name, layout):
    model = model_of(name, layout, torch_cpu)
    oracle, stored = next(pair for pair in oracles() if pair[0].name == name)
    for case, info in oracle.cases.items():
        tokens = tiny.generate(model, info["ids"], images_of(oracle, case), max_tokens=GREEDY, stop_at_eos=False)
        assert [token.id for token in tokens] == stored[f"{case}/hf_greedy_tokens"].tolist(), case


def test_through_the_front_door():
    """The command of the docstring, with weights that stay in the file."""
    oracle, stored = oracles()[0]
    model = tiny.load(oracle.folder / "hf", precision="bfloat16", ops=torch_cpu, weights="mapped")
    logits = model(oracle.cases["text"]["ids"])[stored["text/hf_logits_positions"]]
    assert same_bits(logits, stored["text/hf_logits"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_of_pytorch(kind):
    cases = [case for case in kernel_cases(torch_cpu) if case[0].startswith(f"{kind}/")]
    wrong = [name for name, actual, expected in cases if not same_bits(actual, expected)]
    assert cases and not wrong, f"other bits in {wrong}"


def test_the_stored_numbers_show_low_bits():
    """What is left of the sums is far below one unit of bfloat16 in their terms, and mostly not zero."""
    left = [np.abs(arrays["out"]).ravel() for name, arrays in kernels().items()
            if name.startswith(("linear", "patch_embed"))]
    assert max(x.max() for x in left) < 1e-4 and np.mean(np.concatenate(left) > 0) > 0.25


def test_all_sizes_are_there():
    """Small and large products, blocks, one row and more; batches of each of the three kinds."""
    sizes = [tuple(map(int, name.split("/")[1].split("x"))) for name in kernels() if name.startswith("linear/")]
    own = [M * K * N <= torch_sums.OWN for M, K, N in sizes]
    assert {(small, M == 1) for small, (M, _, _) in zip(own, sizes)} == {(a, b) for a in (0, 1) for b in (0, 1)}
    assert {(M == 1, K > 1024) for M, K, _ in sizes if K > 512} == {(a, b) for a in (0, 1) for b in (0, 1)}
    batches = set()
    for name, arrays in kernels().items():
        if name.startswith("attention/"):
            S, H, d = arrays["q"].shape
            batches.add("oneDNN" if S * S * H * d > torch_sums.OWN else "plain" if S * S * d < torch_sums.PLAIN
                        else "own")
    assert batches == {"oneDNN", "plain", "own"}


def test_sequences_of_a_pack_are_calls_of_their_own():
    """Nine queries of two sequences; the second has three earlier keys, and its queries are the last of its tokens."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.integers(-8, 9, (12, n, 6)).astype(np.float32) / 4 for n in (4, 2, 2))
    last = [*range(5), *range(8, 12)]
    both = torch_cpu.attention(q[last], k, v, [5, 4], [(0, 5), (5, 12)], precision="bfloat16")
    for own, rows in ((slice(0, 5), slice(0, 5)), (slice(5, 12), slice(5, 9))):
        n = len(q[own])
        alone = torch_cpu.attention(q[own], k[own], v[own], [n], [(0, n)], precision="bfloat16")
        assert_close(both[rows], alone[-len(both[rows]):], 0.0)
        books = tiny.ops.attention(q[own], k[own], v[own], [n], [(0, n)], precision="bfloat16")
        assert_close(alone, books, 0.0, rtol=2**-7, name="the book's, to one unit of bfloat16")


def test_pairs():
    assert torch_sums.pairs(0, 5) == [1, 0, 3, 2, 4]
    assert torch_sums.pairs(4, 8) == [5, 4, 7, 6]


def test_float32_is_refused():
    x = np.ones((2, 4), np.float32)
    for call in (lambda: torch_cpu.linear(x, x), lambda: torch_cpu.rms_norm(x, x[0], 1e-5),
                 lambda: torch_cpu.attention(x[:, None], x[:, None], x[:, None], [2], [(0, 2)]),
                 lambda: torch_cpu.route(x, x, 1), lambda: torch_cpu.feed_forward(x, x, x.T, x),
                 lambda: torch_cpu.patch_embed([np.ones((3, 2, 2), np.float32)], np.ones((4, 3, 2, 2), np.float32))):
        with pytest.raises(ValueError, match="for precision='bfloat16'; got 'float32'. Use tiny.ops"):
            call()
