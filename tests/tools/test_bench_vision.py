"""The benchmark of the vision encoder: what it counts, what it times, and that it compares like with like."""

import json
from argparse import Namespace

import numpy as np
import pytest
from small import random_tensors, sizes, vision_sizes, write_mistral

import tiny
from tiny.tools import releases
from tiny.tools.bench import vision as vision_bench
from tiny.tools.bench.rounds import middle
from tutorial.pages import records, reference


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A checkpoint of a small encoder, which the benchmark takes for the real one."""
    vision = vision_sizes()
    write_mistral(tmp_path, sizes(vision=vision), random_tensors(sizes(vision=vision)))
    monkeypatch.setattr(vision_bench, "VISION", vision)
    monkeypatch.setattr(vision_bench, "PATCHES", 64)
    return tmp_path


def test_products_are_counted(small):
    """2 layers, 64 patches of 48 numbers, width 40, hidden 36: each matrix once a patch, and two products of pairs."""
    layer = 4 * 40 * 40 + 3 * 40 * 36
    assert vision_bench.products() == 2 * (64 * (40 * 48 + 2 * layer) + 2 * 2 * 64 * 64 * 40)
    assert vision_bench.exponentials() == 2 * 5 * 64 * 64 / 1e9


def test_the_encoder_is_that_of_pixtral():
    vision = vision_bench.VISION
    assert vision_bench.PATCHES == 4096
    assert {**vars(vision), "num_hidden_layers": 24} == vars(releases.PIXTRAL_12B.vision)


@pytest.mark.parametrize("mode, itemsize", [("mapped", 2), ("resident", 4)])
def test_measurement(small, mode, itemsize, capsys):
    args = Namespace(child=mode, model=str(small), repeats=2)
    assert vision_bench.main(args) == 0
    result = json.loads(capsys.readouterr().out)
    numbers = sum(tensor.size for name, tensor in random_tensors(sizes(vision=vision_sizes())).items()
                  if name.startswith("vision_encoder."))
    assert result["weights"] == itemsize * numbers and result["memory"] > result["weights"]
    assert set(result["parts"]) == {"linear", "scores and values", "softmax", "silu", "rms_norm", "rope", "the rest"}
    assert all(value >= 0 for value in result["parts"].values())
    images, model = vision_bench.pictures(1), tiny.load(small)
    trace = {}
    model([7] * 8 + [8] + ([7] * 8 + [8]) * 6 + [7] * 8 + [9], images=images, trace=trace)
    assert result["sample"] == trace["vision_layer01"][::256, ::64].tolist()


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(small, number):
    tensors = random_tensors(sizes(vision=vision_sizes()))
    name = next(name for name in tensors if name.startswith("vision_encoder.") and "attention_norm" in name)
    tensors[name] = tensors[name] * number
    write_mistral(small, sizes(vision=vision_sizes()), tensors)
    with pytest.raises(tiny.TinyError, match="The features are not finite"), np.errstate(all="ignore"):
        vision_bench.main(Namespace(child="mapped", model=str(small), repeats=1))


def test_programs_that_compute_something_else_are_found():
    features = np.random.default_rng(0).standard_normal((16, 16))
    result = {"resident": {"sample": features.tolist()}, "sdpa": {"sample": (features + 1e-5).tolist()}}
    assert 0.9e-5 < vision_bench.difference(result)["largest"] < 1.1e-5
    for wrong in (features[::-1], features * np.nan):
        result["sdpa"]["sample"] = wrong.tolist()
        with pytest.raises(tiny.TinyError, match="features differ"):
            vision_bench.difference(result)


def test_the_faster_peer_counts():
    ours = {"seconds": 4.0, "processor": 5.0, "memory": 9e8, "weights": 3e8, "parts": {"linear": 3.0},
            "other_cores": 0.5}
    result = {"resident": ours, "mapped": ours, "two": ours, "limits": {"square": 100.0, "exp": 2.0},
              "sdpa": {"seconds": 9.0, "processor": 9.0, "memory": 2e9, "other_cores": 0.7},
              "eager": {"seconds": 8.0, "processor": 7.5, "memory": 3e9, "other_cores": 0.1},
              "difference": {"largest": 1e-6}}
    rows = {row["what"]: row["value"] for row in vision_bench.table_rows(result, 1)}
    assert rows["ratio of time"] == 2.0 and rows["ratio of processor time"] == 1.5 and rows["other load"] == 0.7
    assert rows["memory over the weights"] == 600 and rows["memory over the weights, transformers"] == 2700
    assert rows["limit: all products"] == float(f"{vision_bench.products() / 1e11:.4g}")
    assert rows["limit: share of products"] == float(f"{vision_bench.products() / 1e11 / 0.05:.4g}")
    assert "ratio of processor time" not in {row["what"] for row in vision_bench.table_rows(result, 2)}


def test_medians_of_rounds():
    runs = [{"seconds": n, "parts": {"linear": 10 * n}, "versions": {"torch": "2"}, "sample": [[n]]} for n in (3, 1, 2)]
    assert middle(runs) == {"seconds": 2, "parts": {"linear": 20}, "versions": {"torch": "2"}, "sample": [[3]]}


def test_both_benchmarks_are_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    for name, what in (("bench.json", "prefill"), ("bench_vision.json", "one picture")):
        rows = [{"what": what, "value": 1.5, "unit": "s", "note": ""}]
        records.keep(name, {"date": "2026-01-02", "machine": "M", "threads": {"1": {"rows": rows}}})
    block = reference.PAGES["speed.md"]["bench"]()
    assert block.index("| prefill | 1.5 s |") < block.index("4,096 patches") < block.index("| one picture | 1.5 s |")
