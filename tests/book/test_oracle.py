"""Two tiny checkpoints in the released formats, and what the two reference implementations compute with them."""

from functools import lru_cache

import numpy as np
import pytest
from compare import assert_close
from oracles import Oracle
from tolerances import ORACLE

import tiny
from tiny.rope import rope_table

LAYOUTS, MODES = ("mistral", "hf"), ("mapped", "resident")
GREEDY = 16


@lru_cache(maxsize=8)
def load(name, layout, mode="mapped", precision="float32"):
    return tiny.load(Oracle(name).folder / layout, weights=mode, precision=precision)


@pytest.fixture(params=[(layout, mode) for layout in LAYOUTS for mode in MODES], ids="-".join)
def model(request, oracle):
    return load(oracle.name, *request.param)


def kind(name):
    return name[:-2] if name[-2:].isdigit() else name


def check_trace(model, ids, stored, name, positions):
    """Compare every array of a case that the trace has too; return the names that were compared."""
    trace = {}
    logits = model(ids, trace=trace)
    assert_close(logits, trace["logits"], 0.0, name="returned logits")
    compared = set()
    for key in sorted(set(stored) & set(trace)):
        actual = trace[key][positions] if key == "logits" else trace[key]
        assert_close(actual, stored[key], ORACLE[kind(key)], name=f"{name} {key}")
        compared.add(kind(key))
    return compared


def test_every_array_of_mistrals_own_code(oracle, model):
    for case, info in oracle.cases.items():
        stored = oracle.arrays(case)
        compared = check_trace(model, info["ids"], stored, case, stored["logits_positions"])
        assert compared == {"embed", "k", "v", "attn", "router_logits", "experts", "expert_weights", "layer", "norm",
                            "logits"}


def test_every_array_of_transformers(oracle, model):
    for case, info in oracle.cases.items():
        stored = {key.split("/", 1)[1]: x for key, x in oracle.hf.items() if key.startswith(case + "/")}
        compared = check_trace(model, info["ids"], stored, case, stored["logits_positions"])
        assert compared == {"router_logits", "experts", "expert_weights", "norm", "logits"}


def test_the_references_are_not_degenerate(oracle):
    """A model that ignored its input, or one that was never compared, would show here."""
    for case in oracle.cases:
        stored = oracle.arrays(case)
        assert 1.5 < stored["logits"].std() < 3
        assert all(np.isfinite(x).all() and x.std() > 0.02 for x in stored.values() if x.dtype == np.float32)
        if len(stored["embed"]) > 1:
            assert stored["logits"].std(axis=0).min() > 0.3
            for name in ("layer00", "attn01", "norm", "router_logits01"):
                assert stored[name].std(axis=0).min() > 0.1, name
            used = np.unique(np.concatenate([x.ravel() for name, x in stored.items() if name.startswith("experts")]))
            assert len(used) == oracle.info["params"]["moe"]["num_experts"]
        assert len(set(stored["greedy_tokens"].tolist())) > GREEDY / 2
        # Far more than the tolerance lies between the first and the second token of every greedy choice.
        top = np.sort(stored["greedy_logits"], axis=1)
        assert (top[:, -1] - top[:, -2]).min() > 100 * ORACLE["logits"]
        assert_close(stored["greedy_logits"].argmax(axis=1), stored["greedy_tokens"], 0.0)


def test_greedy_tokens(oracle, model):
    for case, info in oracle.cases.items():
        tokens = list(tiny.generate(model, info["ids"], max_tokens=GREEDY, stop_at_eos=False))
        assert [token.id for token in tokens] == info["greedy_tokens"] == oracle.arrays(case)["greedy_tokens"].tolist()
        assert "".join(token.text for token in tokens) == model.tokenizer.decode(info["greedy_tokens"])
        if f"{case}/greedy_tokens" in oracle.hf:
            assert oracle.hf[f"{case}/greedy_tokens"].tolist() == info["greedy_tokens"]


def test_cached_decode(oracle, model):
    for case, info in oracle.cases.items():
        stored, ids = oracle.arrays(case), info["ids"]
        cache = model.new_cache(len(ids) + GREEDY)
        rows = [model(ids, cache=cache, last_only=True)]
        rows += [model([token], cache=cache) for token in info["greedy_tokens"][:-1]]
        rows = np.concatenate(rows)
        assert_close(rows, stored["greedy_logits"], ORACLE["logits"], name=f"{case} greedy_logits")
        assert rows.argmax(axis=1).tolist() == info["greedy_tokens"]


@pytest.mark.parametrize("chunk", [1, 3, 5, 7])
def test_chunked_prefill(oracle, model, chunk):
    case = oracle.info["chunked_prefill"]["case"]
    stored, ids = oracle.arrays(case), oracle.cases[case]["ids"]
    cache, rows, traces = model.new_cache(len(ids) + 1), [], []
    for start in range(0, len(ids), chunk):
        traces.append({})
        rows.append(model(ids[start : start + chunk], cache=cache, trace=traces[-1]))
    logits = np.concatenate(rows)
    assert_close(logits[stored["logits_positions"]], stored["logits"], ORACLE["logits"], name=f"chunks of {chunk}")
    for name in (name for name in stored if name in traces[0] and name != "logits"):
        whole = np.concatenate([trace[name] for trace in traces])
        assert_close(whole, stored[name], ORACLE[kind(name)], name=f"{name}, chunks of {chunk}")
    assert_close(cache.keys[0, : len(ids)], stored["k00"], ORACLE["k"], name="k00 of the cache")
    assert int(logits[-1].argmax()) == oracle.cases[case]["greedy_tokens"][0]


def test_batch_of_unequal_prompts(oracle, model):
    batch = oracle.info["batch"]
    prompts = [oracle.cases[case]["ids"] for case in batch["cases"]]
    assert len(set(map(len, prompts))) == 4
    texts = tiny.generate_batch(model, prompts, max_tokens=GREEDY, stop_at_eos=False)
    assert [[token.id for token in text] for text in texts] == batch["tokens"]
    for case, text, expected in zip(batch["cases"], texts, batch["logprobs"]):
        found = [token.logprob for token in text]
        assert_close(found, expected[-GREEDY:], ORACLE["logprobs"], name=f"{case} logprobs")
    # All prompts in one packed pass.
    logits = model(np.concatenate(prompts), lengths=[len(ids) for ids in prompts], last_only=True)
    first = [oracle.arrays(case)["greedy_logits"][0] for case in batch["cases"]]
    assert_close(logits, first, ORACLE["logits"], name="packed logits")


def test_rope_tables(oracle):
    config = load(oracle.name, "mistral").config
    tables = rope_table(np.arange(64), config.head_dim, config.rope_theta)
    for name, table in zip(("cos", "sin"), tables):
        assert_close(table, oracle.mistral[f"rope/{name}"], ORACLE["rope"], name=name)
        # HF keeps each angle twice, once for each half of a head.
        twice = np.concatenate([table, table], axis=1)
        assert_close(twice, oracle.hf[f"rope/{name}"], ORACLE["rope"], name=f"hf {name}")


def test_the_trace_holds_the_documented_arrays(oracle, model):
    c, ids = model.config, [1, 5, 7, 9, 11]
    T, K, E = 5, c.moe.num_experts_per_tok, c.moe.num_experts
    shapes = {"embed": (T, c.dim), "norm": (T, c.dim), "logits": (T, c.vocab_size)}
    for n in range(c.n_layers):
        shapes |= {f"q{n:02}": (T, c.n_heads, c.head_dim), f"k{n:02}": (T, c.n_kv_heads, c.head_dim),
                   f"v{n:02}": (T, c.n_kv_heads, c.head_dim), f"attn{n:02}": (T, c.dim), f"layer{n:02}": (T, c.dim),
                   f"router_logits{n:02}": (T, E), f"experts{n:02}": (T, K), f"expert_weights{n:02}": (T, K)}
    trace = {}
    model(ids, trace=trace)
    assert {name: x.shape for name, x in trace.items()} == shapes
    for name, x in trace.items():
        wanted = np.integer if kind(name) == "experts" else np.float32
        assert type(x) is np.ndarray and np.issubdtype(x.dtype, wanted), name
    kept = {name: x.copy() for name, x in trace.items()}
    model([2, 3, 4, 5, 6], trace={})
    for name, x in kept.items():
        assert_close(trace[name], x, 0.0, name=f"{name} after another call")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_has_the_bits_of_transformers(layout):
    """Six of the eight cases are equal in every bit. In the other two a router is tied in bfloat16, which torch settles
    in no promised way, or torch adds in another order than BLAS does; no rounding point is missing."""
    equal = []
    for name in ("mixtral-a", "mixtral-b"):
        oracle, model = Oracle(name), load(name, layout, precision="bfloat16")
        stored = np.load(oracle.folder / "golden_bf16.npz")
        for case, info in oracle.cases.items():
            logits = model(info["ids"])[stored[f"{case}/hf_logits_positions"]]
            equal.append(logits.tobytes() == stored[f"{case}/hf_logits"].astype(np.float32).tobytes())
    assert sum(equal) >= 6, f"{sum(equal)} of 8 cases have transformers' bits: {equal}"
