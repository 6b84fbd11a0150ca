"""tiny/files/streamed: the same numbers as mapped weights, each tensor read once, in little memory."""

import json
import threading
import time
import warnings
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from small import file_bytes, image_tokens, random_images, random_tensors, sizes, vision_sizes, write_hf, write_mistral

import tiny
from tests.mutants.streamed import MUTANTS
from tests.system.test_direct import broken_reads, disk_error, no_thread_stays
from tiny.config import TinyError
from tiny.files import streamed
from tiny.files.streamed import Streamed, needed_by_all
from tiny.files.weights import EMBEDDINGS
from tiny.generate import ExpertTrace, prefill
from tiny.system import direct
from tiny.system.direct import PAGE, Refused, find_spans

MIXTRAL = sizes(dim=56, hidden_dim=72)  # an expert's matrix has 8,064 bytes, so it lies in two or three pages
DEEP = sizes(dim=56, hidden_dim=72, n_layers=4)
DENSE = sizes(None, dim=56, hidden_dim=72)
PIXTRAL = sizes(None, n_layers=1, vision=vision_sizes())
SEES = [1, *image_tokens(3, 2), 5, *image_tokens(1, 1)], random_images((3, 2), (1, 1))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch, tmp_path):
    """Pieces of a page, so that small tensors too come in several. Without direct reads there is nothing to test."""
    (tmp_path / "probe").write_bytes(b"x")
    try:
        direct.DirectReader([str(tmp_path / "probe")])
    except Refused as error:
        pytest.skip(f"Where the tests write, {error}.")
    monkeypatch.setattr(direct, "PIECE", PAGE)


def stacked(folder, config, tensors):
    """HF's layout as transformers 5 writes it: the experts of a layer in two tensors."""
    from small import hf_config, hf_tensors

    stored, whole = hf_tensors(config, tensors), {}
    for layer in range(config.n_layers):
        name = f"model.layers.{layer}.block_sparse_moe.experts."
        w1, w2, w3 = (np.stack([stored.pop(f"{name}{e}.{matrix}.weight") for e in range(config.moe.num_experts)])
                      for matrix in ("w1", "w2", "w3"))
        whole |= {f"{name}gate_up_proj": np.concatenate([w1, w3], 1), f"{name}down_proj": w2}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    (folder / "model.safetensors").write_bytes(file_bytes(stored | whole))
    return folder


WRITERS = {"mistral": write_mistral, "hf": write_hf, "stacked": stacked,
           "shards": lambda *arguments: write_hf(*arguments, shards=4)}


def open_streamed(folder, times=2.0, **options):
    """A model with streamed weights in `times` the least memory."""
    model = tiny.load(folder, weights="streamed", **options)
    assert model.weights.mode == "streamed"
    model.weights.allow(int(times * model.weights.least))
    return model


def check_same(folder, times, ids=(1, 5, 9, 3, 3, 7, 20), images=(), **options):
    """The oracle: mapped weights. Logits of a prompt and of tokens after it, equal to the bit, in little memory."""
    mapped, model = tiny.load(folder, weights="mapped", **options), open_streamed(folder, times, **options)
    caches = [m.new_cache(len(ids) + 8) for m in (mapped, model)]
    expected, logits = (m(list(ids), images, cache) for m, cache in zip((mapped, model), caches))
    assert_close(logits, expected, 0.0, name="prompt")
    for token in range(8):
        expected, logits = (m([token], cache=cache) for m, cache in zip((mapped, model), caches))
        assert_close(logits, expected, 0.0, name=f"token {token}")
        assert model.weights.shelf.taken() <= model.weights.shelf.limit
    no_thread_stays()
    return model


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("times", [2.0, 1e9])
def test_the_same_logits_as_mapped(tmp_path, layout, times):
    check_same(WRITERS[layout](tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL)), times)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_other_dtypes(tmp_path, dtype):
    check_same(write_hf(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL, dtype=dtype)), 2.5, precision="bfloat16")


@pytest.mark.parametrize("times", [2.0, 3.0, 7.0])
def test_a_dense_model_and_one_that_sees(tmp_path, times):
    check_same(write_mistral(tmp_path / "d", DENSE, random_tensors(DENSE)), times)
    for write in (write_mistral, write_hf):
        model = check_same(write(tmp_path / write.__name__, PIXTRAL, random_tensors(PIXTRAL)), times, *SEES)
        assert model.weights.shelf.kept or times < 3


def reads_of(model, monkeypatch):
    """What is read from now on: names and spans."""
    reads, read = [], model.weights.reader.read

    def reading(name, span, *arguments):
        reads.append((name, span))
        return read(name, span, *arguments)
    monkeypatch.setattr(model.weights.reader, "read", reading)
    return reads


def check_reads(folder, monkeypatch, times=2.0):
    """A prompt reads each expert once. A token reads what it uses and is not there, once; bytes are counted right."""
    model = open_streamed(folder, times)
    weights, cache = model.weights, model.new_cache(60)
    reads = reads_of(model, monkeypatch)
    model(np.arange(40), cache=cache)
    experts = {name for name in weights if ".experts." in name}
    assert sorted(name for name, _ in reads if name in experts) == sorted(experts)
    no_thread_stays()
    reads.clear()
    used, before = Counter(), weights.reader.bytes_read
    for token in range(10):
        held, first, trace = set(weights.shelf.tenants), len(reads), ExpertTrace()
        model([token], cache=cache, trace=trace)
        chosen = {f"layers.{layer}.feed_forward.experts.{e}.{matrix}.weight" for layer, ids in enumerate(trace.layers)
                  for e in ids[0] for matrix in ("w1", "w2", "w3")}
        sent_for = [name for name, _ in reads[first:] if name in experts]
        assert len(sent_for) == len(set(sent_for)) and chosen - held <= set(sent_for) <= chosen
        used.update(chosen.union(filter(needed_by_all, weights)) - weights.shelf.kept)
    no_thread_stays()
    ahead = Counter(name for name, _ in reads if not name.startswith(EMBEDDINGS)) - used
    assert set(ahead.values()) <= {1} and len(ahead) <= streamed.AHEAD, "for the next token"
    size = (folder / "model.safetensors").stat().st_size
    pages = [min(size, direct.whole_pages(span.start + span.size)) - span.start // PAGE * PAGE for _, span in reads]
    assert weights.reader.bytes_read - before == sum(pages)


def test_what_is_read(tmp_path, monkeypatch):
    folder = write_hf(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    for times in (1.0, 2.0, 5.0):
        check_reads(folder, monkeypatch, times)


def test_a_long_prompt_reads_each_expert_once_a_pass(tmp_path, monkeypatch):
    """2,048 tokens are a pass, so 2,060 are two; the second one chooses fewer experts or as many."""
    config = sizes(max_seq_len=4096)
    model = open_streamed(write_mistral(tmp_path / "m", config, random_tensors(config)))
    reads, cache = reads_of(model, monkeypatch), model.new_cache(2070)
    prefill(model, [np.arange(2060) % 40], (), cache)
    counts = Counter(name for name, _ in reads if ".experts." in name)
    assert cache.lengths == [2060] and len(counts) == 2 * 4 * 3 and set(counts.values()) <= {1, 2}


def test_with_memory_for_all_nothing_is_read_twice(tmp_path, monkeypatch):
    model = open_streamed(write_hf(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL), shards=3), 1e9)
    model(np.arange(40))
    reads = reads_of(model, monkeypatch)
    model(np.arange(40))
    assert reads and all(name.startswith(EMBEDDINGS) for name, _ in reads)


def check_who_stays(folder):
    """Each layer keeps as many experts as the others, and of its own those that were used last."""
    model = open_streamed(folder, 6.0)
    weights, rng, last, found = model.weights, np.random.default_rng(0), {}, 0
    for _ in range(20):
        for layer in range(2):
            for e in sorted(rng.choice(4, 2, replace=False)):
                names = [f"layers.{layer}.feed_forward.experts.{e}.{matrix}.weight" for matrix in ("w1", "w2", "w3")]
                found += sum(name in weights.shelf.tenants for name in names)
                for name in names:
                    weights[name]
                    last.pop(name, None)
                    last[name] = True
    order = list(last)
    held = [[name for name in order if name.startswith(f"layers.{layer}.") and name in weights.shelf.tenants]
            for layer in range(2)]
    assert all(6 <= len(names) <= 9 for names in held) and abs(len(held[0]) - len(held[1])) <= 3
    for layer, names in enumerate(held):
        assert names == [name for name in order if name.startswith(f"layers.{layer}.")][-len(names):]
    assert 0.5 < found / (20 * 2 * 2 * 3) < 0.9


def check_little_memory_helps(folder, monkeypatch):
    """A shelf for three experts, where a token uses eight, still has about the share that fits: three of sixteen."""
    model = open_streamed(folder)
    weights = model.weights
    needed = sum(size for name, size in weights.shelf.sizes.items() if needed_by_all(name))
    weights.allow(needed + 5 * weights.network)  # two of these are there for what computes and what arrives
    cache = model.new_cache(70)
    model(np.arange(40), cache=cache)
    reads = reads_of(model, monkeypatch)
    for token in range(30):
        model([token], cache=cache)
    share = sum(".experts." in name for name, _ in reads) / (30 * 4 * 2 * 3)
    assert 0.5 < share < 0.87, share


def check_arrays_in_use(folder):
    """What somebody holds stays as it is, whatever is read meanwhile."""
    model = open_streamed(folder, 2.0)
    names = [f"layers.{layer}.feed_forward.experts.2.{matrix}.weight" for layer in (0, 1) for matrix in ("w1", "w2")]
    arrays = [model.weights[name] for name in names]
    parts, copies = [x[3:5].T for x in arrays], [np.array(x) for x in arrays]
    assert model.weights[names[0]] is arrays[0] and not arrays[0].flags.writeable
    del arrays[1]
    for seed in range(4):
        model(np.random.default_rng(seed).integers(0, 40, 20))
    for x, copy in zip([*arrays, *parts], [copies[0], *copies[2:], *(copy[3:5].T for copy in copies)]):
        assert_close(x, copy, 0.0, name="held")


def test_who_stays(tmp_path, monkeypatch):
    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    check_who_stays(folder)
    check_little_memory_helps(write_mistral(tmp_path / "deep", DEEP, random_tensors(DEEP)), monkeypatch)
    check_arrays_in_use(folder)


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_planted_mistakes_are_found(tmp_path, monkeypatch, plant):
    folder = write_hf(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    deep = write_mistral(tmp_path / "deep", DEEP, random_tensors(DEEP))
    plant(monkeypatch)
    monkeypatch.setattr(streamed, "check_direct", lambda *arguments: None)
    found = []
    for check in (lambda: check_arrays_in_use(folder), lambda: check_same(folder, 2.0),
                  lambda: check_who_stays(folder), lambda: check_little_memory_helps(deep, monkeypatch),
                  lambda: check_reads(folder, monkeypatch)):
        try:
            check()
        except (AssertionError, TinyError, TypeError, ValueError) as error:
            found.append(error)
            break
    assert found, "nothing showed this mistake"


def test_two_threads_in_one_model(tmp_path):
    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    expected = [tiny.load(folder, weights="mapped")(np.arange(n, n + 20)) for n in range(6)]
    model, found = open_streamed(folder, 2.0), {}

    def work(n):
        for _ in range(5):
            found[n] = model(np.arange(n, n + 20))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, logits in found.items():
        assert_close(logits, expected[n], 0.0, name=f"thread {n}")
    assert len(found) == 6


def test_ctrl_c_while_it_reads(tmp_path, monkeypatch):
    import _thread
    import os

    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    expected, model, real = tiny.load(folder, weights="mapped")([1, 2, 3]), open_streamed(folder), os.preadv

    def slow(*arguments):
        time.sleep(0.02)
        return real(*arguments)
    monkeypatch.setattr(os, "preadv", slow)
    threading.Timer(0.2, _thread.interrupt_main).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(1000):
            model([1, 2, 3])
    assert time.monotonic() - start < 1.2
    no_thread_stays()
    monkeypatch.setattr(os, "preadv", real)
    assert_close(model([1, 2, 3]), expected, 0.0, name="afterwards")


@pytest.mark.parametrize("change", [disk_error, lambda count: 0])
def test_a_disk_error_names_the_tensor(tmp_path, monkeypatch, change):
    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    expected, model = tiny.load(folder, weights="mapped")([1, 2, 3]), open_streamed(folder)
    broken_reads(monkeypatch, change)
    for _ in range(2):
        with pytest.raises(TinyError, match="tensor [a-z_]+[^ ]* ?.* cannot be read") as caught:
            model([1, 2, 3])
        assert "consolidated.safetensors" in caught.value.cause and caught.value.remedy
    monkeypatch.undo()
    assert_close(model([1, 2, 3]), expected, 0.0, name="afterwards")
    no_thread_stays()


def test_a_file_that_is_cut_while_a_model_runs(tmp_path):
    import os

    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    model, path = open_streamed(folder), folder / "consolidated.safetensors"
    model([1, 2, 3])
    os.truncate(path, path.stat().st_size // 4)
    with pytest.raises(TinyError, match="cannot be read whole: the file has"):
        model([4, 5, 6])


def test_without_direct_reads_weights_are_mapped(tmp_path, monkeypatch):
    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))

    def refuse(self, paths):
        raise Refused("direct reads are refused here (Invalid argument)")
    monkeypatch.setattr(direct.DirectReader, "__init__", refuse)
    monkeypatch.setattr("tiny.system.free_memory.free_memory", lambda: 0)
    for mode in ("auto", "streamed"):
        with pytest.warns(UserWarning, match="mapped, not streamed: direct reads are refused here .Invalid argument"):
            model = tiny.load(folder, weights=mode)
        assert model.weights.mode == "mapped" and model.ops is tiny.ops
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.load(folder, weights="mapped")


def test_too_little_memory(tmp_path):
    weights = open_streamed(write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))).weights
    with pytest.raises(TinyError, match=f"need {weights.least:,} bytes of memory at least, and may take"):
        weights.allow(weights.least - 1)
    weights.allow(weights.least)
    assert weights.least == 3 * direct.pages_for(2 * 56 * 72) and not weights.shelf.kept


def test_less_free_memory_than_one_expert_needs(tmp_path, monkeypatch):
    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    least = open_streamed(folder).weights.least
    for free, limit in ((least, least), (2 * least + 2, least + 1)):
        monkeypatch.setattr(streamed, "free_memory", lambda free=free: free)
        assert tiny.load(folder, weights="streamed").weights.shelf.limit == limit
    monkeypatch.setattr(streamed, "free_memory", lambda: least - 1)
    with pytest.raises(TinyError, match=f"need {least:,} bytes of memory at least, and may take {least - 1:,}"):
        tiny.load(folder, weights="streamed")


def test_what_is_kept_first(tmp_path):
    """What every token needs, evenly over the layers; the largest tensor too, or room for it."""
    config = sizes(dim=56, hidden_dim=72, n_layers=8, vocab_size=1000)
    weights = open_streamed(write_mistral(tmp_path / "m", config, random_tensors(config))).weights
    shelf, least, network = weights.shelf, weights.least, weights.network
    assert least == shelf.sizes["output.weight"] > network
    needed = {name: size for name, size in shelf.sizes.items() if needed_by_all(name)}
    weights.allow(sum(needed.values()) + 2 * network)
    assert shelf.kept == needed.keys()
    weights.allow(sum(needed.values()) // 2 + 2 * network + least // 2)
    layers = [name.split(".")[1] for name in shelf.kept if name.startswith("layers.")]
    assert "output.weight" in shelf.kept and min(map(layers.count, "01234567")) >= 2
    assert max(map(layers.count, "01234567")) <= min(map(layers.count, "01234567")) + 2
    weights.allow(least + network)
    assert not shelf.kept and shelf.limit == least + network


def test_an_unknown_name_and_the_embeddings(tmp_path):
    folder = write_mistral(tmp_path / "m", MIXTRAL, random_tensors(MIXTRAL))
    weights = Streamed(dict(tiny.load(folder, weights="mapped").weights.tensors))
    with pytest.raises(KeyError):
        weights["nothing"]
    table = weights[EMBEDDINGS]
    assert table is weights.tensors[EMBEDDINGS] and find_spans({"t": table})["t"] == weights.spans[EMBEDDINGS]
    rows = [0, 39, 7]
    assert_close(weights.rows(rows), table[rows], 0.0, name="rows")
    ops = streamed.streamed_ops(tiny.ops, weights)
    for ids in (np.array([3, 40]), np.array([-1, 3])):
        with pytest.raises(ValueError, match="embed expects ids from 0 to 39"):
            ops.embed(ids, table)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert_close(ops.embed(np.array([2, 0, 2]), x), x[[2, 0, 2]], 0.0)
    assert ml_dtypes.bfloat16 == table.dtype
