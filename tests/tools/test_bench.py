"""The benchmark of language models: what it measures, what it takes for a limit, and what its table says."""

import sys
from types import ModuleType

import numpy as np
import pytest
from compare import assert_close
from small import random_tensors, sizes, write_mistral

import tiny
from tiny.tools import bench
from tiny.tools.bench import limits, text

RATES = {"prefill", "short", "decode 1", "decode 2", "decode 8"}
CONFIG = sizes(moe=(4, 2), max_seq_len=512)


@pytest.fixture
def small(tmp_path):
    write_mistral(tmp_path, CONFIG, random_tensors(CONFIG))
    return str(tmp_path)


@pytest.mark.parametrize("mode", ["mapped", "resident"])
def test_measurement(small, mode):
    found = text.measure_text(small, mode, prefill=20, decode=2, repeats=1)
    parts = found.pop("parts")
    assert_close(sum(parts.values()), 100, 0.0, 1e-12, "shares of the prompt")
    assert 0 < parts["products with weights"] < 100 and parts["silu"] > 0 and parts["scores and values"] > 0
    assert set(found) == RATES | {"first_token", "first_token_memory", "memory"}
    assert all(value > 0 for value in found.values()) and found["memory"] >= found["first_token_memory"]


def test_sequences_together_run_together(small, monkeypatch):
    """A step of eight sequences is one pass over eight tokens, each with a cache of its own."""
    passes, forward = [], tiny.mixtral.Mixtral.__call__

    def counted(self, ids, *rest, **options):
        passes.append((len(ids), options.get("lengths")))
        return forward(self, ids, *rest, **options)
    monkeypatch.setattr(tiny.mixtral.Mixtral, "__call__", counted)
    text.measure_text(small, "mapped", prefill=20, decode=2, repeats=1)
    assert passes.count((8, [1] * 8)) == passes.count((2, [1] * 2)) == passes.count((1, [1])) == 2 * 2
    assert (8 * 16, [16] * 8) in passes and passes.count((20, None)) == 3  # one under the profiler


def test_limits_count_what_is_read_and_multiplied(small, monkeypatch):
    """On a machine of one multiplication a nanosecond the limits are sums of sizes."""
    def alone(products, repeats, pool):
        products = list(products)
        asked.append(sorted(T for shape, T in products if shape == (CONFIG.dim, CONFIG.hidden_dim)))
        return sum(1e-9 * shape[0] * shape[1] * T for shape, T in products)
    asked: list = []
    monkeypatch.setattr(limits, "alone", alone)
    monkeypatch.setattr(limits, "fastest", lambda shape, T, repeats, pool: 1e-9 * shape[0] * shape[1] * T)
    monkeypatch.setattr(limits, "POOL", 4)
    found = limits.measure_limits(small, 20, 1)
    D, F, n = CONFIG.dim, CONFIG.hidden_dim, CONFIG.n_layers  # 160 rows of wq, wk, wv and wo
    scores = 2 * CONFIG.n_heads * CONFIG.head_dim * 20  # and values, of a token against all 20
    counted = {"decode 1": n * (160 * D + 2 * 3 * D * F) + 40 * D,
               "decode 8": (n * (160 * D + 4 * (1 - 0.5**8) * 3 * D * F) + 40 * D) / 8,
               **dict.fromkeys(("prefill", "alike"), n * (160 * D + 2 * 3 * D * F + scores) + 40 * D / 20)}
    for name, products in counted.items():
        assert_close(1e9 / found[name], products, 0.0, 1e-12, name)
    assert_close(1e9 * found["short"], n * (160 * D + 4 * (1 - 0.5**16) * 3 * D * F) + 40 * D, 0.0, 1e-12)
    assert_close([found[name] for name in ("stored", "square", "expert", "row")], [0.5, 2, 2, 4], 0.0, 1e-12)
    as_routed, alike = asked
    trace: dict = {}
    tiny.load(small)(limits.ids_for(CONFIG.vocab_size, 20), trace=trace)
    ids = [trace[f"experts{layer:02}"] for layer in range(n)]
    assert as_routed == sorted((layer == e).sum() for layer in ids for e in range(4) if (layer == e).any())
    assert alike == [10] * 4 * n != as_routed


def test_products_of_attention_are_those_of_its_blocks():
    """Of 100 tokens: 64 queries of two heads against 64 keys, 36 against all; then the values. For each KV head."""
    config = sizes(n_heads=4, n_kv_heads=2, head_dim=8)
    expected = [((64, 8), 128), ((8, 64), 128), ((100, 8), 72), ((8, 100), 72)] * 2
    assert limits.attention_products(100, config) == expected


def test_a_dense_model_has_one_expert(tmp_path):
    config = sizes(moe=None, max_seq_len=512)
    write_mistral(tmp_path, config, random_tensors(config))
    assert limits.routed(tiny.load(tmp_path), np.arange(3, 10)) == [[7]] * config.n_layers


def test_the_faster_order_counts():
    pool = np.ones(64 * 32 * 4, np.float32)
    assert 0 < limits.fastest((64, 32), 4, 1, pool) < 1 and 0 < limits.fastest((64, 32), 1, 1, pool) < 1


def test_the_fastest_way_of_each_product_counts(monkeypatch):
    """One product comes twice; its three ways take 9, 5 and 7 seconds, those of the other 2, 3 and 4."""
    assert len(limits.WAYS) == 3
    durations, now = iter([9, 2, 5, 3, 7, 4]), [0.0, False]

    def clock():
        now[0] += next(durations) if now[1] else 0
        now[1] = not now[1]
        return now[0]
    monkeypatch.setattr(limits, "clock", clock)
    found = limits.alone([((64, 32), 5), ((32, 64), 3), ((64, 32), 5)], 1, np.ones(64 * 32 + 1, np.float32))
    assert found == 2 * 5 + 2


LIMIT = {"square": 100, "expert": 90, "row": 10, "stored": 0.5, "prefill": 500.0, "alike": 510.0, "short": 0.2,
         "decode 1": 20.0, "decode 2": 30.0, "decode 8": 80.0, "other_cores": 0.1}
OURS = {"prefill": 450.0, "short": 0.25, "decode 1": 18.0, "decode 2": 24.0, "decode 8": 60.0, "other_cores": 0.2,
        "first_token": 0.5, "first_token_memory": 1e6, "memory": 2e6, "parts": {"silu": 3.0}}


def test_shares():
    assert text.share_of(LIMIT, "resident", "prefill", 450.0) == "90 % of the limit"
    assert text.share_of(LIMIT, "mapped", "prefill", 450.0) == "90 % of the limit"
    assert text.share_of(LIMIT, "resident", "short", 0.25) == "80 % of the limit"
    assert text.share_of(LIMIT, "mapped", "short", 0.25) == "40 % of the limit"
    assert text.share_of(LIMIT, "mapped", "decode 1", 20.0) == "50 % of the limit"


def test_the_table():
    mapped = OURS | {"prefill": 400.0, "short": 0.2, "decode 1": 15.0}
    peer = {"prefill": 225.0, "decode": 20.0, "other_cores": 0.3, "note": "what NumPy cannot use: amx_bf16"}
    rows = {row["what"]: row for row in text.table_rows(
        {"limits": LIMIT, "resident": OURS, "mapped": mapped, "llama.cpp": peer}, 512)}
    assert rows["resident: decode"]["note"] == rows["resident: prefill"]["note"] == "90 % of the limit"
    assert rows["resident: decode, 8 together"] == {"what": "resident: decode, 8 together", "value": 60, "note":
                                                    "75 % of the limit", "unit": "tokens/s"}
    assert rows["- silu"] == {"what": "- silu", "value": 3, "unit": "%", "note": "of its time"}
    assert rows["8 sequences over one"]["value"] == 3.33 and rows["2 sequences over one"]["value"] == 1.33
    assert rows["mapped over resident: decode"]["value"] == 0.83
    assert rows["16 tokens: resident over mapped"]["value"] == 1.25
    assert rows["ours over llama.cpp: prefill"]["value"] == 2 and rows["other load"]["value"] == 0.3
    assert "NumPy cannot use" in rows["llama.cpp: decode"]["note"] and "transformers: decode" not in rows


def test_peers(capsys, monkeypatch):
    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 1}))
    found = bench.peers("python3", {"hf": "H", "mistral": "M"}, ["--prefill=5"])
    assert list(found) == ["transformers", "transformers, bfloat16"] and "llama.cpp is not" in capsys.readouterr().err
    assert found["transformers"][3:] == ["H", "--prefill=5", "--dtype=float32"]
    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 0}))
    assert bench.peers("python3", {"hf": "H", "mistral": "M"}, [])["llama.cpp"][3:] == ["M"]
    assert "llama.cpp" not in bench.peers("python3", {"hf": "M", "mistral": "M"}, [])  # somebody's folder


def test_the_file_for_llama_cpp_is_the_same_model(small, tmp_path, monkeypatch):
    """Oracle: our own reader of GGUF, which llama.cpp and the package gguf have checked."""
    pytest.importorskip("gguf", reason="This needs the package gguf (the verify extra).")
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))
    from tiny.tools.bench import peer_llama

    path = tmp_path / "bench.gguf"
    peer_llama.write(tmp_path, path)
    ids = list(range(1, 30))
    assert_close(tiny.load(path)(ids), tiny.load(small)(ids), 0.0)
