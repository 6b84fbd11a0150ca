"""One model over several ranks, held against one process. The ranks are threads here; test_mpi.py has real ones."""

import inspect
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from compare import Different, assert_close
from fake_ranks import FakeRanks, Table, run_ranks, run_well
from gguf_files import write_model
from oracles import GOLDEN
from small import image_tokens, random_images, random_tensors, sizes, vision_sizes, write_mistral
from small_quantised import quantised_tensors, write_quantised

import tiny
import tiny.ops
import tiny.parallel
from tests.mutants.parallel import OF_EXPERTS, OF_PARTS
from tiny.files.packed.array import Packed
from tiny.parallel import ops as parallel_ops
from tiny.parallel.ranks import Together
from tiny.system import free_memory

A, B = (GOLDEN / name for name in ("mixtral-a", "mixtral-b"))  # 8 experts, K = 2; 4 experts, K = 3
PIXTRAL = GOLDEN / "pixtral-a/mistral"
QUANTISED = sizes((3, 2), dim=32, head_dim=8, hidden_dim=48, n_heads=4, n_kv_heads=2, vocab_size=512)
IDS = [1, 5, 9, 200, 33, 7, 8, 100, 64]
MORE = [3, 450]
# Split heads and rows, |logits of one process - ours|; measured 5.8e-6 at most (2026-11-30, Xeon with AVX-512, NumPy
# 2.4.6 with OpenBLAS 0.3.31), logits reach 11.
PARTS = 2e-5


def run_all(model, ids=IDS, images=(), more=MORE):
    """Logits of a prompt and of further tokens, and what the cache holds."""
    cache = model.new_cache(len(ids) + len(more))
    logits = [model(ids, images=images, cache=cache)] + [model([token], cache=cache) for token in more]
    return np.concatenate(logits), cache.keys, cache.values


def same_bits(got, expected, name):
    """Require the same bits; a difference says where."""
    assert_close(got.view(np.int32), expected.view(np.int32), atol=0.0, name=name)


def check_experts(folder, size, precision="float32", weights="resident"):
    """Logits and cache of every rank, to the bit."""
    one = run_all(tiny.load(folder, precision=precision, weights=weights))
    for rank in run_well(size, lambda ranks: run_all(tiny.parallel.load(folder, ranks, precision=precision,
                                                                        weights=weights))):
        for got, expected, name in zip(rank, one, ("logits", "keys", "values")):
            same_bits(got, expected, name)


def check_parts(folder, size, weights="resident", **prompt):
    """Logits of every rank within the tolerance, and alike to the bit on all ranks."""
    one = run_all(tiny.load(folder, weights=weights), **prompt)[0]
    every = run_well(size, lambda ranks: run_all(
        tiny.parallel.load(folder, ranks, "all", weights=weights), **prompt)[0])
    for logits in every:
        assert_close(logits, one, atol=PARTS, name="logits")
        same_bits(logits, every[0], "logits of rank 0")
    top = np.sort(one, axis=1)[:, -2:]
    clear = top[:, 1] - top[:, 0] > 1e-3
    assert clear.sum() > 2 and (every[0].argmax(1) == one.argmax(1))[clear].all()


# ---- the collectives

@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_collectives(size):
    rng = np.random.default_rng(size)
    parts = rng.standard_normal((size, 5, 7)).astype(np.float32)
    counts = rng.integers(0, 4, size).tolist()
    rows = [rng.standard_normal((count, 3)).astype(np.float32) for count in counts]

    def work(ranks):
        r = ranks.rank
        return (ranks.sum(parts[r]), ranks.columns(parts[r]), ranks.rows(rows[r], counts),
                ranks.exchange(parts[:, r, :].copy()), ranks.received, ranks.calls)

    total = parts[0].copy()
    for piece in parts[1:]:
        total += piece  # in the order of ranks
    for r, (added, wide, every, came, received, calls) in enumerate(run_well(size, work)):
        same_bits(added, total, "sum")
        same_bits(wide, np.concatenate(list(parts), axis=1), "columns")
        assert_close(every, np.concatenate(rows), atol=0.0, name="rows") if sum(counts) else None
        same_bits(came, parts[r, :, :][:size] if size <= 5 else came, "exchange")
        assert received == {"sum": 2 * (size - 1) * -(-35 // size) * 4, "columns": (size - 1) * 35 * 4,
                            "rows": (sum(counts) - counts[r]) * 3 * 4, "exchange": (size - 1) * 7 * 4}
        assert calls == dict.fromkeys(("sum", "columns", "rows", "exchange"), 1)


def test_agreeing_and_meeting():
    def work(ranks):
        said = []
        for what, error in (({"a": 1, "b": 2}, None), ({"a": 1, "b": ranks.rank // 2}, None),
                            ({}, tiny.TinyError("No disk.", "Buy one.") if ranks.rank == 1 else None),
                            ({}, OSError("gone"))):
            try:
                ranks.agree(what, "Be alike.", error)
                said.append("agreed")
            except Together as found:
                said.append(str(found))
        return said

    for said in run_well(3, work):
        assert said == ["agreed", "Rank 2 differs from rank 0 in b.\nBe alike.", "rank 1: No disk.\nBuy one.",
                        "OSError: gone\nThis is unexpected: --debug shows where it happened."]


def test_operations_have_the_signatures_of_the_book():
    ranks = FakeRanks(0, 1, Table(1, 1.0))
    for split in ("experts", "all"):
        chosen = parallel_ops.choose(ranks, split)
        for name in tiny.ops.__all__:
            assert inspect.signature(getattr(chosen, name)) == inspect.signature(getattr(tiny.ops, name)), name


# ---- whole experts: the bits of one process

# Both precisions, both layouts, 1, 2 and 4 ranks; the most telling third of these is always run.
@pytest.mark.parametrize("folder, size, precision", [
    pytest.param(folder, size, precision, marks=[] if (size, precision) in (
        [(2, "bfloat16"), (4, "float32")] if "hf" in str(folder) else [(2, "float32"), (4, "bfloat16")])
        else pytest.mark.thorough)
    for folder in ("tiny-mixtral", A / "mistral", A / "hf", B / "mistral", B / "hf")
    for size in (1, 2, 4) for precision in ("float32", "bfloat16")], ids=str)
def test_whole_experts_give_the_bits_of_one_process(folder, size, precision):
    check_experts(folder, size, precision)


def test_whole_experts_one_on_each_rank_and_mapped():
    check_experts("tiny-mixtral", 8)
    check_experts(A / "hf", 4, weights="mapped")


def test_generated_texts_are_the_same_to_the_bit():
    def tokens(model, **options):
        ids = model.tokenizer.encode("Tom had a red ball")
        found = list(tiny.generate(model, ids, max_tokens=12, **options))
        return [(token.id, token.text, token.logprob, token.experts.tolist()) for token in found]

    for options in ({}, {"temperature": 1.0, "top_p": 0.9, "seed": 3}):
        one = tokens(tiny.load("tiny-mixtral"), **options)
        for many in run_well(2, lambda ranks, options=options: tokens(
                tiny.parallel.load("tiny-mixtral", ranks), **options)):
            assert many == one and len(one) == 12


def test_a_cache_in_bfloat16_and_packed_weights(tmp_path):
    write_model(tmp_path / "small.gguf", "tiny-mixtral", "Q8_0")
    options = {"weights": "mapped", "cache": "bfloat16"}

    def run(model):
        cache = model.new_cache(len(IDS))
        logits = model(IDS, cache=cache)
        return logits, cache.keys.view(np.uint16)

    one = run(tiny.load(tmp_path / "small.gguf", **options))
    for many in run_well(2, lambda ranks: run(tiny.parallel.load(tmp_path / "small.gguf", ranks, **options))):
        same_bits(many[0], one[0], "logits")
        assert_close(many[1], one[1], atol=0.0, name="keys")


def test_streamed_weights():
    """Each rank reads its own experts past the page cache, or is told that it cannot and maps them."""
    one = run_all(tiny.load(A / "mistral", weights="mapped"))[0]

    def work(ranks):
        model = tiny.parallel.load(A / "mistral", ranks, weights="streamed")
        return run_all(model)[0], model.weights.mode

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for logits, mode in run_well(2, work):
            assert mode in ("streamed", "mapped")
            same_bits(logits, one, "logits")


@pytest.mark.parametrize("free, split, neighbours, mode", [
    (1000, "experts", 1, "resident"), (1000, "experts", 2, "mapped"), (100, "experts", 1, "mapped"),
    (100, "experts", 4, "mapped"), (79, "experts", 1, "mapped"), (59, "experts", 1, "streamed"),
    (59, "experts", 4, "streamed"), (59, "all", 1, "mapped")])
def test_auto_counts_the_ranks_of_a_machine(free, split, neighbours, mode, monkeypatch):
    """100 numbers for each rank, in 60 bytes; the whole file has 80, which its ranks map once for all of them."""
    monkeypatch.setattr(free_memory, "free_memory", lambda: free)
    own, whole = ({"x": SimpleNamespace(size=100, nbytes=size)} for size in (60, 80))
    assert tiny.parallel.mode_here(own, whole, neighbours, split, "auto") == mode


def test_two_sequences_in_one_pass():
    def run(model):
        return model([1, 50, 60, 70, 1, 51], lengths=[4, 2], last_only=True)

    one = run(tiny.load("tiny-mixtral"))
    for many in run_well(4, lambda ranks: run(tiny.parallel.load("tiny-mixtral", ranks))):
        same_bits(many, one, "logits")


# ---- heads and hidden rows

@pytest.mark.parametrize("folder, weights", [("tiny-mixtral", "resident"), ("tiny-mixtral", "mapped"),
                                             (A / "mistral", "mapped"), (A / "hf", "mapped"), (A / "hf", "resident")],
                         ids=str)
def test_split_heads_and_rows(folder, weights):
    check_parts(folder, 2, weights)


@pytest.mark.parametrize("weights", ["mapped", "resident"])
def test_split_packed_weights(tmp_path, weights):
    """Rows are cut as they are stored; of columns, whole rows are unpacked and a part is kept."""
    write_model(tmp_path / "small.gguf", "tiny-mixtral", "Q8_0")
    check_parts(tmp_path / "small.gguf", 2, weights)
    stored, _ = quantised_tensors(QUANTISED, random_tensors(QUANTISED), "gptq")
    check_parts(write_quantised(tmp_path / "hf", QUANTISED, stored, "gptq"), 2, weights)

    def held(ranks):
        return tiny.parallel.load(tmp_path / "small.gguf", ranks, "all", weights=weights).weights

    for rank in run_well(2, held):
        for name in ("layers.0.attention.wq.weight", "layers.0.feed_forward.experts.0.w2.weight", "output.weight"):
            assert isinstance(rank.tensors[name], Packed)


def test_split_pixtral_with_two_images():
    images = random_images((3, 2), (2, 2), patch_size=16, seed=1)
    ids = [1, *([10, 10, 10, 12, 10, 10, 10, 13]), *([10, 10, 12, 10, 10, 13]), 40, 41]
    check_parts(PIXTRAL, 2, ids=ids, images=images)
    images = random_images((3, 2), (2, 2), patch_size=8, seed=1)
    check_parts("tiny-pixtral", 2, ids=ids, images=images)


def test_one_rank_of_all_parts_is_one_process():
    one = run_all(tiny.load("tiny-mixtral", weights="resident"))
    (many,) = run_well(1, lambda ranks: run_all(tiny.parallel.load("tiny-mixtral", ranks, "all", weights="resident")))
    same_bits(many[0], one[0], "logits")


def test_a_trace_has_the_heads_of_all_ranks():
    def traced(model):
        trace = {}
        model(IDS, trace=trace)
        return trace

    one = traced(tiny.load("tiny-mixtral"))
    for split in ("experts", "all"):
        for many in run_well(2, lambda ranks, split=split: traced(tiny.parallel.load("tiny-mixtral", ranks, split))):
            assert many.keys() == one.keys()
            for name, expected in one.items():
                assert_close(many[name], expected, atol=0.0 if split == "experts" else PARTS, name=name)


# ---- a rank holds its part, and sends what the formula says

def test_a_rank_holds_its_part():
    def held(ranks, split):
        tensors = tiny.parallel.load("tiny-mixtral", ranks, split, weights="resident").weights.tensors
        return sum(tensor.size for tensor in tensors.values()), tensors.keys()

    whole = tiny.load("tiny-mixtral").weights.tensors
    total = sum(tensor.size for tensor in whole.values())
    experts = sum(tensor.size for name, tensor in whole.items() if ".experts." in name)
    sizes_, names = zip(*run_well(4, lambda ranks: held(ranks, "experts")))
    assert set(sizes_) == {total - experts * 3 // 4} and set().union(*names) == whole.keys()
    kept = [name for name in whole if ".experts." in name]
    assert all(sum(name in own for own in names) == 1 for name in kept), "each expert lies on one rank"
    (part, _), (other, _) = run_well(2, lambda ranks: held(ranks, "all"))
    alike = sum(tensor.size for name, tensor in whole.items() if name.endswith(("norm.weight", "gate.weight"))
                or name == "tok_embeddings.weight")
    assert part == other == (total - alike) // 2 + alike


@pytest.mark.parametrize("size, split, folder", [(1, "experts", A / "hf"), (2, "experts", A / "hf"),
                                                 (4, "experts", B / "hf"), (8, "experts", "tiny-mixtral"),
                                                 (2, "all", "tiny-mixtral"), (2, "all", A / "mistral")], ids=str)
def test_bytes_are_those_of_the_formula(size, split, folder):
    def work(ranks):
        model = tiny.parallel.load(folder, ranks, split)
        model([1, 50, 60, 70, 1, 51], lengths=[4, 2], last_only=True)
        run_all(model)
        return model.facts()

    for facts in run_well(size, work):
        assert facts["bytes_sent"] == facts["bytes_by_formula"] == sum(facts["bytes_received_by_rank"])
        assert facts["ranks"] == size and (facts["bytes_sent"] > 0) == (size > 1)
        layers = tiny.load(folder).config.n_layers
        passes = 4
        if split == "experts":
            assert facts["calls"] == {"rows": passes * layers}
            L, K, D = layers, tiny.load(folder).config.moe.num_experts_per_tok, tiny.load(folder).config.dim
            tokens = 6 + len(IDS) + len(MORE)
            assert facts["bytes_sent"] == L * (size - 1) * K * tokens * D * 4
        else:
            assert facts["calls"]["sum"] == passes * 2 * layers


def test_bytes_of_images_too():
    images = random_images((3, 2), (2, 2), patch_size=8)
    ids = [1, *([10, 10, 10, 12, 10, 10, 10, 13]), *([10, 10, 12, 10, 10, 13]), 40, 41]

    def work(ranks):
        model = tiny.parallel.load("tiny-pixtral", ranks, "all")
        model(ids, images=images)
        return model.facts()

    for facts in run_well(2, work):
        numbers = 2 * 4 * 128 * (len(ids) + 10)  # two sums in each of 4 layers, of the decoder and of the encoder
        assert facts["bytes_sent"] == facts["bytes_by_formula"] == 2 * numbers * 4


def test_images_that_are_read_in_passes(monkeypatch):
    """An image is encoded when a pass wants its first row, and its patches are counted then."""
    monkeypatch.setattr(sys.modules["tiny.generate"], "PREFILL", 6)
    images = random_images((3, 2), (2, 2), patch_size=8)
    ids = [1, *([10, 10, 10, 12, 10, 10, 10, 13]), *([10, 10, 12, 10, 10, 13]), 40, 41]

    def run(model):
        tokens = list(tiny.generate(model, ids, images=images, max_tokens=3, stop_at_eos=False))
        return [token.id for token in tokens], model.facts() if hasattr(model, "facts") else None

    one, _ = run(tiny.load("tiny-pixtral"))
    for many, facts in run_well(2, lambda ranks: run(tiny.parallel.load("tiny-pixtral", ranks, "all"))):
        assert many == one
        assert facts["bytes_sent"] == facts["bytes_by_formula"] == 2 * 2 * 4 * 128 * (len(ids) + 2 + 10) * 4


# ---- classic mistakes

@pytest.mark.parametrize("mistake", OF_EXPERTS, ids=lambda mistake: mistake.__name__)
def test_mistakes_with_whole_experts_are_refused(mistake, monkeypatch):
    mistake(monkeypatch)
    precision = "bfloat16" if mistake.__name__ == "answers_weighted_after_rounding" else "float32"
    with pytest.raises((Different, KeyError)):
        check_experts(B / "mistral", 2, precision)


@pytest.mark.parametrize("mistake", OF_PARTS, ids=lambda mistake: mistake.__name__)
def test_mistakes_with_parts_are_refused(mistake, monkeypatch):
    mistake(monkeypatch)
    with pytest.raises(Different):
        check_parts("tiny-mixtral", 2)


def test_two_experts_may_be_added_in_any_order(monkeypatch):
    """The mistake that three experts show is none for two: zero plus a plus b is the same both ways."""
    next(mistake for mistake in OF_EXPERTS if mistake.__name__ == "added_in_the_order_of_ranks")(monkeypatch)
    check_experts(A / "mistral", 4)


# ---- ranks that differ are told so

def one_line(results):
    """The error that all ranks raise, once."""
    assert all(isinstance(result, Together) for result in results), results
    (text,) = {str(result) for result in results}
    assert text.count("\n") == 1
    return text


def test_ranks_with_other_files_are_told_so(tmp_path):
    config = sizes((4, 2))
    for name, seed in (("a", 0), ("b", 1)):
        write_mistral(tmp_path / name, config, random_tensors(config, seed))

    def load(ranks, other):
        return tiny.parallel.load(tmp_path / (other if ranks.rank == 1 else "a"), ranks)

    found = one_line(run_ranks(2, lambda ranks: load(ranks, "b")))
    assert found.startswith("Rank 1 differs from rank 0 in the weights.")
    assert one_line(run_ranks(2, lambda ranks: load(ranks, "none"))).startswith("rank 1: ")
    other = sizes((4, 2), n_layers=1)
    write_mistral(tmp_path / "c", other, random_tensors(other))
    assert "the model's sizes" in one_line(run_ranks(4, lambda ranks: load(ranks, "c")))


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"split": "experts"}, {"weights": "mapped"}])
def test_ranks_with_other_options_are_told_so(options):
    def load(ranks):
        common = {"split": "all" if "split" in options else "experts", "weights": "resident"}
        return tiny.parallel.load("tiny-mixtral", ranks, **common | (options if ranks.rank else {}))

    assert one_line(run_ranks(2, load)).startswith("Rank 1 differs from rank 0 in the ")


@pytest.mark.parametrize("what", ["arithmetic", "version"])
def test_ranks_on_other_machines_are_told_so(what, monkeypatch):
    from tiny.parallel import model

    def load(ranks):
        return tiny.parallel.load("tiny-mixtral", ranks)

    values = iter([1, 2])
    if what == "arithmetic":
        monkeypatch.setattr(model, "arithmetic", lambda: next(values))
    else:
        fingerprint = model.fingerprint
        monkeypatch.setattr(tiny.parallel, "fingerprint", lambda *a: fingerprint(*a) | {
            "the version of NumPy": f"2.{next(values)}"})
    found = one_line(run_ranks(2, load))
    assert found.startswith("Rank 1 differs from rank 0 in the") and what in found or "their arithmetic" in found


def test_ranks_with_other_prompts_are_told_so():
    def work(ranks, ids, **options):
        model = tiny.parallel.load("tiny-mixtral", ranks)
        return list(tiny.generate(model, ids[ranks.rank], max_tokens=30, **options))

    for prompts in ([[1, 5], [1, 6]], [[1, 5], [1, 5, 6]]):
        found = one_line(run_ranks(2, lambda ranks, prompts=prompts: work(ranks, prompts)))
        assert found.startswith("Rank 1 differs from rank 0 in tokens.\nGive every rank the same prompt")
    # Without a seed, each rank draws for itself: they part at the first token that differs.
    found = one_line(run_ranks(2, lambda ranks: work(ranks, [[1, 5], [1, 5]], temperature=5.0)))
    assert "tokens" in found and "seed" in found


def test_ranks_with_other_images_are_told_so():
    ids = [1, *image_tokens(2, 2), 11]
    ids = [{7: 10, 8: 12, 9: 13}.get(token, token) for token in ids]

    def work(ranks):
        model = tiny.parallel.load("tiny-pixtral", ranks, "all")
        return model(ids, images=random_images((2, 2), patch_size=8, seed=ranks.rank))

    assert one_line(run_ranks(2, work)).startswith("Rank 1 differs from rank 0 in images.")


def test_a_rank_that_computes_other_bits_is_found_at_the_next_pass(monkeypatch):
    def work(ranks):
        model = tiny.parallel.load("tiny-mixtral", ranks)
        cache = model.new_cache(9)
        model([1, 5], cache=cache)
        if ranks.rank:
            model.weights.tensors["norm.weight"] = model.weights["norm.weight"] * np.float32(1 + 2e-7)
        model([6], cache=cache)
        return model([7], cache=cache)

    assert one_line(run_ranks(2, work)).startswith("Rank 1 differs from rank 0 in the logits of the last pass.")


# ---- bad input

@pytest.mark.parametrize("size, folder, options, words", [
    (3, "tiny-mixtral", {}, "3 ranks cannot share 8 experts"), (16, "tiny-mixtral", {}, "1, 2, 4 or 8"),
    (4, "tiny-mixtral", {"split": "all"}, "4 ranks cannot share 2 KV heads"),
    (2, B / "hf", {"split": "all"}, "Use 1 for the number of ranks, or --split experts"),
    (2, "tiny-pixtral", {}, "Use --split all"), (2, "tiny-mixtral", {"split": "layers"}, "'experts' or 'all'"),
    (2, "tiny-mixtral", {"weights": "some"}, "'some'"),
    (2, "tiny-mixtral", {"weights": "streamed", "split": "all"}, "cannot be streamed"),
    (2, "tiny-mixtral", {"split": "all", "precision": "bfloat16"}, "split='experts'"),
    (2, "tiny-mixtral", {"precision": "float16"}, "'float32' or 'bfloat16'")], ids=str)
def test_what_cannot_be_shared_is_refused_on_every_rank(size, folder, options, words):
    assert words in one_line(run_ranks(size, lambda ranks: tiny.parallel.load(folder, ranks, **options)))


def test_a_number_is_no_group_of_ranks():
    with pytest.raises(tiny.TinyError, match="The ranks are 2, not a group.*\n.*tiny.parallel.Ranks"):
        tiny.parallel.load("tiny-mixtral", 2)


def test_the_vision_encoder_is_shared_too(tmp_path):
    config = sizes(None, n_heads=6, n_kv_heads=2, hidden_dim=28, vision=vision_sizes())
    write_mistral(tmp_path, config, random_tensors(config))
    found = one_line(run_ranks(2, lambda ranks: tiny.parallel.load(tmp_path, ranks, "all")))
    assert "5 heads of the vision encoder" in found
