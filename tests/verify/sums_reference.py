"""What PyTorch's kernels make of numbers that cancel almost completely; a separate program.

    python -I sums_reference.py OUT.npz

Every term of a sum comes twice, with both signs, in random order: what is left is the rounding errors alone, and shows
in which order the terms were added. OUT has, for each case, its inputs and `out`, as `OPERATION/CASE/NAME`; bfloat16
numbers as their 16 bits. One thread. ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 has to be set on processors with AMX, whose
tiles add in another order.
"""

import sys

import numpy as np
import torch
from torch.nn.functional import conv2d, gelu, linear, silu

# M, K, N of linear maps: PyTorch's own kernel; oneDNN; oneDNN in blocks.
SIZES = [(1, 10, 7), (2, 37, 9), (1, 64, 40), (3, 77, 16), (2, 200, 9), (1, 509, 8), (4, 32, 32), (3, 37, 37),
         (1, 73, 57), (2, 500, 8), (8, 90, 40), (1, 600, 9), (3, 1023, 4), (3, 1300, 4), (1, 1300, 8), (5, 2100, 3)]
# Lengths of the sequences, heads, numbers of a head.
HEADS = [([1], 4, 10), ([7], 2, 6), ([33], 2, 10), ([12], 4, 12), ([4], 8, 10), ([9, 20, 4], 4, 12), ([1, 2], 2, 8),
         ([5, 5], 4, 12), ([6, 2, 1], 2, 32), ([3], 4, 32), ([6], 4, 8), ([7], 4, 6), ([11], 2, 12), ([13], 1, 14)]
PATCHES = [(24, 16, 2, 1), (40, 16, 1, 3), (16, 14, 2, 2)]  # outputs, sides of a patch, rows and columns
FREQUENCIES = [(10, 1e6), (10, 1e4), (12, 1e9), (16, 1e6), (64, 1e4), (128, 1e9)]


def numbers(rng, *shape, scale=1.0):
    return torch.from_numpy(rng.standard_normal(shape, np.float32) * np.float32(scale)).bfloat16()


def cancelling(rng, rows: int, others: int, length: int):
    """Two matrices whose products of rows are sums of pairs that cancel; an odd length has one small term more."""
    a, b = numbers(rng, rows, length // 2), numbers(rng, others, length // 2)
    odd = length % 2
    a = torch.cat([a, a, numbers(rng, rows, odd)], dim=1)
    b = torch.cat([b, -b, numbers(rng, others, odd, scale=1e-6)], dim=1)
    order = torch.from_numpy(rng.permutation(length))
    return a[:, order].contiguous(), b[:, order].contiguous()


def linears(rng):
    for M, K, N in SIZES:
        x, weight = cancelling(rng, M, N, K)
        yield f"linear/{M}x{K}x{N}", {"x": x, "weight": weight, "out": linear(x, weight)}


def adapters(rng):
    """The biases are as small as what is left of the sums, which GELU halves and the second map adds up again."""
    for rows in (1, 6):
        x, weight = cancelling(rng, rows, 40, 48)
        bias, last = numbers(rng, 40, scale=1e-6), numbers(rng, 5, scale=1e-8)
        second = numbers(rng, 5, 40)
        out = linear(gelu(linear(x, weight, bias)), second, last)
        yield f"adapter/{rows}", {"x": x, "w_in.weight": weight, "w_in.bias": bias, "w_out.weight": second,
                                  "w_out.bias": last, "out": out}


def experts(rng):
    """One expert, gate and up in one product as in transformers; together they count as a large one, apart as small."""
    x, both = (x * 500 for x in cancelling(rng, 2, 60, 48))
    gate, up = linear(x, both).chunk(2, dim=-1)
    down = numbers(rng, 48, 30)
    yield "experts/0", {"x": x, "w1": both[:30], "w3": both[30:], "w2": down, "out": linear(silu(gate) * up, down)}


def gelus(rng):
    x = torch.arange(0xC000, 0xC0F0, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    x = torch.cat([x, numbers(rng, 500, scale=2)])
    yield "gelu/0", {"x": x, "out": gelu(x)}


def sums(rng):
    for n in (2, 5, 6, 7, 8, 40, 100, 1000, 4100):
        x = torch.from_numpy(rng.standard_normal((3, n), np.float32))
        yield f"row_sums/{n}", {"x": x, "out": x.sum(-1)}


def softmaxes(rng):
    for n in (3, 8, 15, 16, 17, 50, 300):
        x = numbers(rng, 20, n, scale=3)
        yield f"softmax/{n}", {"x": x, "out": torch.softmax(x, -1, dtype=torch.float32)}


def choices(rng):
    for n, k in ((4, 2), (4, 3), (8, 2), (8, 3), (8, 8), (16, 2), (16, 5)):
        x = torch.from_numpy(rng.integers(0, n // 2 + 1, (60, n)).astype(np.float32))
        yield f"top_k/{n}-{k}", {"x": x, "out": torch.topk(x, k).indices.to(torch.uint8)}


def attentions(rng):
    """Eager attention of one packed row, masked by sequence. One case cancels in the scores, the other in the values.

    The numbers of a head come in pairs; they are put in halves here, as a checkpoint in Hugging Face's layout has them.
    """
    for lengths, H, d in HEADS:
        S, mask = sum(lengths), torch.full((sum(lengths),) * 2, torch.finfo(torch.bfloat16).min)
        ends = np.cumsum(lengths)
        for start, stop in zip(ends - lengths, ends):
            mask[start:stop, start:stop] = 0
        halves = [*range(0, d, 2), *range(1, d, 2)]
        zero, large = torch.zeros(S, H * d).bfloat16(), [1000 * x for x in cancelling(rng, S * H, S * H, d)]
        v = torch.cat([cancelling(rng, 1, H * d, length)[1].T for length in lengths]).reshape(S, H, d)
        for name, (q, k) in {"scores": large, "values": (zero, zero)}.items():
            q, k = q.reshape(S, H, d), k.reshape(S, H, d)
            scores = torch.matmul(q[None, ..., halves].transpose(1, 2), k[None, ..., halves].permute(0, 2, 3, 1))
            scores = scores * d**-0.5 + mask.bfloat16()
            weights = torch.softmax(scores, -1, dtype=torch.float32).bfloat16()
            out = torch.matmul(weights, v[None].transpose(1, 2).contiguous())[0].transpose(0, 1)
            yield f"attention/{'+'.join(map(str, lengths))}-{H}-{d}-{name}", {
                "q": q, "k": k, "v": v, "lengths": torch.tensor(lengths), "out": out}


def convolutions(rng):
    for outputs, p, rows, columns in PATCHES:
        pixels, weight = numbers(rng, 3, rows, p, columns, p), numbers(rng, outputs, 3, p, p)
        order = torch.from_numpy(rng.permutation(p))
        pixels[..., order[: p // 2]] = pixels[..., order[p // 2 :]]
        weight[..., order[: p // 2]] = -weight[..., order[p // 2 :]]
        pixels = pixels.reshape(3, rows * p, columns * p)
        out = conv2d(pixels[None], weight, stride=p)[0].flatten(1).T
        yield f"patch_embed/{outputs}-{p}-{rows}x{columns}", {"pixels": pixels, "weight": weight, "out": out}


def frequencies(rng):
    for d, theta in FREQUENCIES:
        out = 1.0 / theta ** (torch.arange(0, d, 2, dtype=torch.int64).to(dtype=torch.float) / d)
        yield f"frequencies/{d}-{theta:.0f}", {"out": out}


def main(path: str) -> None:
    torch.set_num_threads(1)
    results = {}
    with torch.inference_mode():
        for n, kind in enumerate((linears, adapters, gelus, sums, softmaxes, choices, attentions, convolutions,
                                  frequencies, experts)):
            for case, arrays in kind(np.random.default_rng(n)):
                for name, x in arrays.items():
                    x = x.contiguous()
                    results[f"{case}/{name}"] = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    np.savez_compressed(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
