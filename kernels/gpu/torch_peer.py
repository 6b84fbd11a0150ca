"""What torch reaches on the same GPU, for comparison: cuBLAS, its fused attention, and each operation at our shapes.

Torch is imported by the functions, so that this file can be read without it.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from kernels import cases

SHAPES = [(8192, 8192, 8192), (512, 14336, 4096), (4096, 28672, 4096), (1, 28672, 4096)]  # (rows, out, in)
LAUNCHES, REPLAYS, TOTAL_MS = 20, 50, 400.0


def time_runs(torch: Any, runs: list[Callable]) -> dict:
    """Microseconds of one run, in a graph that goes through all runs in turn; see `kernels.gpu.steps.time_runs`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            for run in runs:
                run()
    torch.cuda.current_stream().wait_stream(stream)
    first = max(1e-3, elapsed(torch, runs[0]))
    launches = max(1, min(LAUNCHES, int(TOTAL_MS / 2 / first)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            runs[i % len(runs)]()
    graph.replay()
    replays = max(2, min(REPLAYS, int(TOTAL_MS / (first * launches))))
    medians = [statistics.median(elapsed(torch, graph.replay) for _ in range(replays)) * 1000 / launches
               for _ in range(2)]
    us = statistics.mean(medians)
    return {"us": us, "spread": abs(medians[0] - medians[1]) / us}


def elapsed(torch: Any, run: Callable) -> float:
    """Milliseconds on the device between two events around what run() queues."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def normal(torch: Any, *shape: int) -> Any:
    """Normal bfloat16 numbers on the GPU."""
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def products() -> Iterator[dict]:
    """cuBLAS in bfloat16, through torch: the ceiling of arithmetic, and products of Mixtral's shapes."""
    import torch
    for rows, outs, ins in SHAPES:
        sets = [(normal(torch, rows, ins), normal(torch, outs, ins)) for _ in range(3)]
        found = time_runs(torch, [lambda x=x, w=w: torch.nn.functional.linear(x, w) for x, w in sets])
        yield {"rows": rows, "out": outs, "in": ins, **found, "TFLOP_per_s": 2e-6 * rows * outs * ins / found["us"],
               "weights_TB_per_s": 2e-6 * outs * ins / found["us"], "torch": torch.__version__}


def sdpa() -> Iterator[dict]:
    """torch's attention by backend, at Mixtral's heads and 8,192 tokens."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (normal(torch, 1, 32, 8192, 128) for _ in "qkv")
    attend = torch.nn.functional.scaled_dot_product_attention
    for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
        try:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                found = time_runs(torch, [lambda: attend(q, k, v, is_causal=True)])
        except (RuntimeError, AttributeError) as error:
            yield {"backend": backend, "refused": str(error).splitlines()[0]}
            continue
        yield {"backend": backend, **found, "TFLOP_per_s": 4e-6 * 32 * 128 * (8192 * 8193 // 2) / found["us"]}


def times() -> Iterator[dict]:
    """torch's own form of each operation at the shapes at which ours are timed, three sets of inputs in turn."""
    import torch
    for operation in cases.operations():
        if operation.name in PEERS:
            for label, sizes in operation.published.items():
                runs = [PEERS[operation.name](torch, **sizes) for _ in range(3)]
                yield {"operation": operation.name, "shape": label, **time_runs(torch, runs)}
                del runs
                torch.cuda.empty_cache()


def rms_norm(torch: Any, T: int, D: int) -> Callable:
    """torch's RMSNorm."""
    x, w = normal(torch, T, D), normal(torch, D)
    return lambda: torch.nn.functional.rms_norm(x, (D,), w, 1e-5)


def rope(torch: Any, T: int, n: int, d: int) -> Callable:
    """A rotation by complex numbers, as mistral-inference has it."""
    x, angles = normal(torch, T, n, d), torch.rand(T, 1, d // 2, device="cuda")
    turns = torch.polar(torch.ones_like(angles), angles)
    as_complex, as_real = torch.view_as_complex, torch.view_as_real
    return lambda: as_real(as_complex(x.float().reshape(T, n, -1, 2)) * turns).flatten(2).to(x.dtype)


def linear(torch: Any, T: int, D: int, N: int) -> Callable:
    """cuBLAS."""
    x, w = normal(torch, T, D), normal(torch, N, D)
    return lambda: torch.nn.functional.linear(x, w)


def route(torch: Any, T: int, D: int, E: int, K: int) -> Callable:
    """Logits, the K largest, and their softmax."""
    x, gate = normal(torch, T, D), normal(torch, E, D)
    return lambda: torch.nn.functional.linear(x, gate).float().topk(K).values.softmax(-1)


def attention(torch: Any, lengths: tuple, spans: tuple, H: int, G: int, d: int, causal: bool) -> Callable:
    """torch's attention for one sequence. A single query sees all keys, so it needs no mask."""
    (T,), ((_, S),) = lengths, spans
    q, k, v = normal(torch, 1, H, T, d), normal(torch, 1, G, S, d), normal(torch, 1, G, S, d)
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, is_causal=causal and T > 1, enable_gqa=H != G)


def experts(torch: Any, T: int, D: int, F: int, E: int, K: int) -> Callable:
    """The loop over the experts that the tokens chose, which are known here: torch would wait for the device."""
    linear, silu, used = torch.nn.functional.linear, torch.nn.functional.silu, min(E, T * K)
    x = normal(torch, T * K // used, D)  # the tokens of each
    w1, w2, w3 = ([normal(torch, *shape) for _ in range(used)] for shape in ((F, D), (D, F), (F, D)))
    return lambda: [linear(silu(linear(x, w1[e])) * linear(x, w3[e]), w2[e]) * 0.5 for e in range(used)]


PEERS: dict[str, Callable[..., Callable]] = {
    "rms_norm": rms_norm, "rope": rope, "linear": linear, "route": route, "attention": attention,
    "attention_decode": attention, "experts": experts}
