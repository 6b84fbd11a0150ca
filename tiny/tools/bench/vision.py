"""The command `bench --vision`: one picture of 1024 x 1024 pixels through a vision encoder of the real width.

4,096 patches, 4 layers of random weights in a bfloat16 file. As in `bench`, every measurement runs in a fresh process,
in turns; with a peer, transformers' encoder reads the same weights in float32 with both of its attentions, the results
are compared, and the faster one counts.
"""

import cProfile
import json
import platform
import statistics
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import Config, TinyError, VisionConfig
from tiny.system.whole import write_whole
from tiny.tools.bench.rounds import rounds, show, spent
from tiny.tools.machine import blas_kernel, machine

RECORD = Path(__file__).parents[3] / "tutorial/pages/records/bench_vision.json"
FOLDER = Path("runs") / "bench" / "vision"
VISION = VisionConfig(hidden_size=1024, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4,
                      intermediate_size=4096, num_hidden_layers=4, num_attention_heads=16, image_token_id=10,
                      max_image_size=1024)
# The decoder is not run; it is as small as a file that both programs read can have it.
CONFIG = Config(dim=64, n_layers=1, head_dim=32, hidden_dim=64, n_heads=2, n_kv_heads=1, norm_eps=1e-5, vocab_size=64,
                rope_theta=1e6, max_seq_len=8192, moe=None, vision=VISION)
PATCHES = (VISION.image_size // VISION.patch_size) ** 2
CLOSE = 1e-3  # The two programs may differ by this much in features of size 1; a wrong one differs by 1.


def pictures(count: int) -> list[np.ndarray]:
    """The pixels that everyone measures with: normal random numbers."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal((3, VISION.image_size, VISION.image_size), np.float32) for _ in range(count)]


def measure_encoder(folder: str, mode: str, count: int, repeats: int) -> dict:
    """Run in a fresh process: seconds and processor seconds of a pass, peak memory, where the time goes, a sample."""
    import tiny
    from tiny.decoder import ForwardPass
    from tiny.tools.session import peak_memory
    from tiny.vision import vision_encoder

    model: Any = tiny.load(folder, weights=mode)
    images = pictures(count)
    run = ForwardPass([], np.empty(0, np.float32), np.empty(0, np.float32), None, None, model.ops, "float32")
    weights = [name for name in model.weights if name.startswith("vision_encoder.")]
    if mode == "resident":
        for name in weights:
            model.weights[name]
    seconds, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        features = vision_encoder(images, model.weights, VISION, run)
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    memory = peak_memory()
    profile = cProfile.Profile(time.thread_time)
    if repeats > 1:
        profile.runcall(vision_encoder, images, model.weights, VISION, run)
    if not np.isfinite(features).all():
        raise TinyError("The features are not finite.", f"Fetch {folder} again, or remove it: it is made anew.")
    return {"seconds": statistics.median(seconds), "processor": statistics.median(processor), "memory": memory,
            "weights": sum(model.weights.tensors[name].nbytes for name in weights),
            "parts": parts(profile) if repeats > 1 else {}, "sample": features[::256, ::64].tolist()}


def parts(profile: cProfile.Profile) -> dict[str, float]:
    """Processor seconds by what was computed, of a pass under the profiler."""
    total = spent(profile)
    found = {"linear": total["linear"], "scores and values": total["attention"] - total["softmax"],
             **{name: total[name] for name in ("softmax", "silu", "rms_norm", "rope")}}
    return found | {"the rest": total["vision_encoder"] - sum(found.values())}


def products() -> int:
    """Multiplications and additions of all products for one picture."""
    D, F, N = VISION.hidden_size, VISION.intermediate_size, PATCHES
    patch = VISION.num_channels * VISION.patch_size**2 * D
    return 2 * N * (patch + VISION.num_hidden_layers * (4 * D * D + 3 * D * F + 2 * N * D))


def limits(repeats: int) -> dict:
    """What NumPy reaches here by itself: GFLOP/s of a large product, and 10^9 exponentials a second in the cache.

    The processor time of the main thread counts, so that the limits hold when others use the machine too.
    """
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 2048, 2048), np.float32)
    scores = rng.standard_normal((64, PATCHES), np.float32)
    out = np.empty_like(scores)

    def best(run) -> float:
        times = []
        for _ in range(repeats + 2):
            start = time.thread_time()
            run()
            times.append(time.thread_time() - start)
        return min(times)

    return {"square": 2 * 2048**3 / best(lambda: left @ right.T) / 1e9,
            "exp": 20 * scores.size / best(lambda: [np.exp(scores, out=out) for _ in range(20)]) / 1e9}


def table_rows(result: dict[str, dict], threads: int) -> list[dict]:
    """The rows that are shown: what, value, unit, note."""
    ours, mapped, two, limit = result["resident"], result["mapped"], result["two"], result["limits"]
    over = {name: (result[name]["memory"] - result[name]["weights"]) / 1e6 for name in ("mapped", "two")}
    least, spent = products() / limit["square"] / 1e9, ours["processor" if threads == 1 else "seconds"]
    rows = [("one picture", ours["seconds"], "s", "weights resident in float32"),
            ("one picture, mapped", mapped["seconds"], "s", "weights stay bfloat16 in the file"),
            *((f"- {name}", value, "s", "processor time of the main thread, resident")
              for name, value in ours["parts"].items()),
            ("memory over the weights", over["mapped"], "MB", "mapped: peak of the process less the encoder's file"),
            ("memory over the weights, two pictures", over["two"], "MB", "the same for 8,192 patches"),
            ("two pictures, mapped", two["seconds"], "s", "a first pass"),
            ("limit: products", limit["square"], "GFLOP/s", "NumPy's BLAS, 2048 x 2048 x 2048"),
            ("limit: all products", least, "s", f"{products() / 1e9:.0f} GFLOP at that rate"),
            ("limit: all exponentials", exponentials() / limit["exp"], "s", "of the softmax, by np.exp in the cache"),
            ("limit: share of products", 100 * least / spent, "%",
             f"of our {'processor ' * (threads == 1)}time, at that rate")]
    if peers := {name: result[name] for name in ("sdpa", "eager") if name in result}:
        best = min(peers, key=lambda name: peers[name]["seconds"])
        rows += [(f"transformers, {name}", peer["seconds"], "s", "PixtralVisionModel, float32")
                 for name, peer in peers.items()]
        rows += [("memory over the weights, transformers", (peers[best]["memory"] - ours["weights"]) / 1e6, "MB",
                  f"{best}; torch itself included"),
                 ("ratio of time", peers[best]["seconds"] / ours["seconds"], "x", f"{best} over ours"),
                 ("largest difference", result["difference"]["largest"], "", "of the features, of size 1")]
        if threads == 1:
            rows.append(("ratio of processor time", peers[best]["processor"] / ours["processor"], "x",
                         f"{best} over ours; holds when others use the machine too"))
    others = max(run["other_cores"] for run in result.values() if "other_cores" in run)
    rows.append(("other load", others, "cores", "the most that other processes used meanwhile"))
    return [{"what": what, "value": float(f"{value:.4g}"), "unit": unit, "note": text}
            for what, value, unit, text in rows]


def exponentials() -> float:
    """10^9 exponentials of the softmax for one picture."""
    return VISION.num_hidden_layers * VISION.num_attention_heads * PATCHES**2 / 1e9


def folders(layouts: tuple[str, ...]) -> dict[str, Path]:
    """The checkpoint in each layout, written at first use."""
    from tiny.tools.synthetic import RandomTensors, save_checkpoint

    for layout in layouts:
        if not list((FOLDER / layout).glob("*.json")):
            save_checkpoint(FOLDER / layout, layout, CONFIG, RandomTensors(CONFIG, 0))
    return {layout: FOLDER / layout for layout in layouts}


def difference(result: dict[str, dict]) -> dict:
    """How far apart the features of the measured programs are. Raises TinyError if they compute different things."""
    ours, peer = (np.array(result[name]["sample"]) for name in ("resident", "sdpa"))
    largest = float(np.abs(ours - peer).max())
    if not largest <= CLOSE * float(np.abs(ours).max()):
        raise TinyError(f"The features differ by {largest:.3g}.", f"Remove {FOLDER} and measure again.")
    return {"largest": largest}


def child(args: Namespace) -> dict:
    """What a fresh process measures."""
    if args.child == "limits":
        return limits(args.repeats)
    count, repeats = (2, 1) if args.child == "two" else (1, args.repeats)
    return measure_encoder(args.model, "resident" if args.child == "resident" else "mapped", count, repeats)


def main(args: Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.child:
        print(json.dumps(child(args)))
        return 0
    paths = folders(("mistral", "hf") if args.peer else ("mistral",))
    ours = [sys.executable, "-m", "tiny", "bench", "--vision", "--model", str(paths["mistral"]),
            f"--repeats={args.repeats}", "--child"]
    commands = {name: [*ours, name] for name in ("resident", "mapped", "two", "limits")}
    if args.peer:
        script = str(Path(__file__).parent / "peer_vision.py")
        commands |= {name: [args.peer, "-I", script, str(paths["hf"]), f"--attention={name}",
                            f"--repeats={args.repeats}", f"--size={VISION.image_size}"] for name in ("sdpa", "eager")}
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(),
                              "kernel": blas_kernel(), "threads": {},
                              "versions": {"python": platform.python_version(), "numpy": np.__version__}}
    for threads in args.threads:
        result = rounds(commands, threads, args.rounds)
        for name in ("sdpa", "eager"):
            record["versions"] |= result.get(name, {}).pop("versions", {})
        if args.peer:
            result["difference"] = difference(result)
        rows = table_rows(result, threads)
        for run in result.values():
            run.pop("sample", None)
        record["threads"][str(threads)] = {"rows": rows, "raw": result}
        show(record, threads)
    if args.save:
        RECORD.parent.mkdir(exist_ok=True)
        write_whole(RECORD, json.dumps(record, indent=1) + "\n")
    return 0
