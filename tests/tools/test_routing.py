"""The command `routing`: the measures against their definition in loops, against chance, and by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from compare import assert_close
from oracles import GOLDEN
from small import random_tensors, sizes, write_mistral

import tiny
from tiny.__main__ import main
from tiny.tools import routing

MODEL = GOLDEN / "mixtral-a" / "mistral"
TEXT = "In the beginning there was a small model.\nIt read, and it wrote, and it read again. " * 3


def by_loops(parts, E):
    """The definitions, word for word: counts of both choices over K T; of pairs, same first, and any in common."""
    layers, K = len(parts[0]), parts[0].shape[2]
    shares, first, common = [], [], []
    for layer in range(layers):
        counts, same, met, pairs, tokens = [0] * E, 0, 0, 0, 0
        for part in parts:
            rows = part[layer].tolist()
            tokens += len(rows)
            for row in rows:
                for choice in row:
                    counts[choice] += 1
            for row, following in zip(rows, rows[1:]):
                pairs += 1
                same += row[0] == following[0]
                met += bool(set(row) & set(following))
        shares.append([count / (K * tokens) for count in counts])
        first.append(same / pairs)
        common.append(met / pairs)
    return shares, first, common


def random_choices(rng, layers, T, E, K):
    """Every token's K experts drawn without replacement, all orders equally likely."""
    return np.argsort(rng.random((layers, T, E)), axis=2)[..., :K]


@pytest.mark.parametrize("E, K", [(8, 2), (8, 1), (4, 3), (5, 5)])
@pytest.mark.parametrize("lengths", [[2], [3, 2], [40, 1, 17]])
def test_against_the_loops(E, K, lengths):
    rng = np.random.default_rng(E * K + len(lengths))
    parts = [random_choices(rng, 3, T, E, K) for T in lengths]
    found, (shares, first, common) = routing.measure_routing(parts, E), by_loops(parts, E)
    assert found.tokens == sum(lengths) and found.pairs == sum(lengths) - len(lengths)
    assert_close(found.shares, np.array(shares), atol=1e-15, name="shares")
    assert_close(found.repeats_first, np.array(first), atol=1e-15, name="first")
    assert_close(found.repeats_any, np.array(common), atol=1e-15, name="any")
    assert_close(found.shares.sum(axis=1), np.ones(3), atol=1e-15, name="sum")


def test_counted_by_hand():
    """Five tokens. Pairs: (0 1)(1 0) meet; (1 0)(1 2) same first; (1 2)(3 2) meet; (3 2)(0 1) nothing."""
    found = routing.measure_routing([np.array([[[0, 1], [1, 0], [1, 2], [3, 2], [0, 1]]])], 4)
    assert (found.tokens, found.pairs) == (5, 4)
    assert_close(found.shares, np.array([[0.3, 0.4, 0.2, 0.1]]), atol=1e-15)
    assert_close(found.repeats_first, np.array([0.25]), atol=0)
    assert_close(found.repeats_any, np.array([0.75]), atol=0)


def test_tokens_of_different_parts_are_no_pair():
    part = np.array([[[2, 0], [2, 0]]])
    assert routing.measure_routing([part, part], 3).pairs == 2


@pytest.mark.parametrize("E, K, first, common", [(8, 2, 1 / 8, 13 / 28), (8, 1, 1 / 8, 1 / 8), (4, 3, 1 / 4, 1.0),
                                                 (2, 2, 1 / 2, 1.0), (64, 6, 1 / 64, None)])
def test_chance_is_what_random_choices_give(E, K, first, common):
    """The paper's 12.5 and 46.4 per cent for 2 of 8; and of 200,000 random tokens, within four standard errors."""
    expected = routing.chance(E, K)
    assert_close(expected[0], first, atol=1e-15)
    if common is not None:
        assert_close(expected[1], common, atol=1e-15)
    found = routing.measure_routing([random_choices(np.random.default_rng(E + K), 1, 200_000, E, K)], E)
    for part, chance in ((found.repeats_first[0], expected[0]), (found.repeats_any[0], expected[1])):
        assert_close(part, chance, atol=4 * math.sqrt(chance * (1 - chance) / 200_000), name=f"{K} of {E}")
    assert_close(found.shares[0], np.full(E, 1 / E), atol=5 * math.sqrt(1 / E / 200_000), name="shares")


def test_the_numbers_of_the_paper():
    assert [f"{100 * part:.1f}" for part in routing.chance(8, 2)] == ["12.5", "46.4"]


def test_choices_are_those_of_the_model_without_bos():
    """A text longer than the context is read in parts, each behind its own BOS."""
    model = tiny.load(MODEL)
    model.config = replace(model.config, max_seq_len=32)
    ids, room = model.tokenizer.encode(TEXT), 31
    short = ids[:20]
    trace = {}
    model([model.tokenizer.bos_id, *short], trace=trace)
    (part,) = routing.chosen_experts(model, short)
    assert part.shape == (model.config.n_layers, 20, 2)
    for layer in range(model.config.n_layers):
        assert (part[layer] == trace[f"experts{layer:02}"][1:]).all()
    parts = routing.chosen_experts(model, ids[: 2 * room + 5])
    assert [part.shape[1] for part in parts] == [room, room, 5]
    assert (parts[1] == routing.chosen_experts(model, ids[room : 2 * room])[0]).all()


def test_passes_of_a_long_part_are_one_text(monkeypatch):
    model = tiny.load(MODEL)
    ids = model.tokenizer.encode(TEXT)
    (whole,) = routing.chosen_experts(model, ids)
    monkeypatch.setattr(routing, "PREFILL", 16)
    (pieces,) = routing.chosen_experts(model, ids)
    assert (whole == pieces).all()


# ---- the command

def call(capsys, *argv):
    status = main(["routing", *map(str, argv)])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def texts(tmp_path):
    for name, text in (("prose.txt", TEXT), ("code.py", "def f(x):\n    return x + 1\n" * 5)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [tmp_path / "prose.txt", tmp_path / "code.py"]


def test_the_table(capsys, texts):
    status, out, err = call(capsys, "--model", MODEL, *texts)
    assert status == 0, err
    model = tiny.load(MODEL)
    for file, name in zip(texts, ("prose", "code")):
        ids = model.tokenizer.encode(file.read_text(encoding="utf-8"))
        shares, first, common = by_loops(routing.chosen_experts(model, ids), 8)
        block = out[out.index(f"{name}: {len(ids)} tokens, {len(ids) - 1} pairs"):].splitlines()
        for layer in range(model.config.n_layers):
            cells = block[2 + layer].replace("|", " ").split()
            numbers = [*shares[layer], first[layer], common[layer]]
            assert cells == ["layer", str(layer), *(f"{100 * x:.1f}" for x in numbers)]
        assert block[2 + model.config.n_layers].replace("|", " ").split() == ["chance", *["12.5"] * 9, "46.4"]


def test_json_has_everything(capsys, texts):
    status, out, _ = call(capsys, "--model", MODEL, "--json", *texts)
    found = json.loads(out)
    assert status == 0 and list(found["texts"]) == ["prose", "code"] and found["num_experts_per_tok"] == 2
    assert found["chance"] == {"share": 1 / 8, "repeats_first": 1 / 8, "repeats_any": 1 - 15 / 28}
    model = tiny.load(MODEL)
    ids = model.tokenizer.encode(TEXT)
    shares, first, common = by_loops(routing.chosen_experts(model, ids), 8)
    prose = found["texts"]["prose"]
    assert (prose["tokens"], prose["pairs"]) == (len(ids), len(ids) - 1)
    for name, expected in (("shares", shares), ("repeats_first", first), ("repeats_any", common)):
        assert_close(np.array(prose[name]), np.array(expected), atol=1e-15, name=name)


def test_figures_are_saved_where_asked(capsys, texts, tmp_path):
    folder = tmp_path / "made" / "figures"
    status, _, err = call(capsys, "--model", MODEL, "--out", folder, *texts)
    assert status == 0 and sorted(path.name for path in folder.iterdir()) == ["repeats.png", "shares.png", "tokens.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and str(path) in err for path in folder.iterdir())


def test_files_of_one_name_keep_their_paths(tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "same.txt")
        files[-1].write_text("words", encoding="utf-8")
    assert list(routing.read_texts([str(f) for f in files])) == [str(f) for f in files]


@pytest.mark.parametrize("content, words", [
    (None, "does not exist"), (b"", "is empty"), (b" \n\t\n", "is empty"), (b"PNG\x00\x00", "zero bytes"),
    (b"caf\xe9", "byte 3 is 0xe9"), ("folder", "is a folder, not a file")])
def test_files_that_are_no_texts(capsys, tmp_path, content, words):
    path = tmp_path / "file.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    status, out, err = call(capsys, "--model", MODEL, path)
    assert status == 2 and out == "" and words in err and "file.txt" in err and "remedy: " in err


def test_a_single_token_has_no_pairs(capsys, tmp_path):
    path = tmp_path / "short.txt"
    model = tiny.load(MODEL)
    path.write_text(next(word for word in ("a", "the", "e", "t") if len(model.tokenizer.encode(word)) == 1))
    status, _, err = call(capsys, "--model", MODEL, path)
    assert status == 2 and "single token" in err


def test_a_dense_model_has_no_experts(capsys, texts, tmp_path):
    config = sizes(moe=None, vocab_size=509)
    folder = write_mistral(tmp_path / "dense", config, random_tensors(config))
    (folder / "tokenizer.model").write_bytes((MODEL / "tokenizer.model").read_bytes())
    status, out, err = call(capsys, "--model", folder, texts[0])
    assert status == 2 and out == "" and "dense" in err


def test_no_file_is_an_error(capsys):
    status, _, err = call(capsys)
    assert status == 2 and "FILE" in err


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name, value", [("layers.0.feed_forward.gate.weight", np.inf),
                                         ("layers.1.feed_forward.experts.3.w2.weight", np.nan),
                                         ("layers.2.attention.wv.weight", -np.inf), ("output.weight", np.nan)])
def test_damaged_weights_give_no_table(tmp_path, capsys, name, value):
    """The measures of a text, of a benchmark and of a card are refused, as generation is."""
    from tiny.files.safetensors import read_safetensors
    from tiny.generate import run_finite
    from tiny.tools.bench import measure_text
    from tiny.tools.terminal.coloured_text import expert_shares
    from tiny.training.saving import save_safetensors

    source = tiny.model_folder("tiny-mixtral")
    for file in ("params.json", "tokenizer.model"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    tensors = dict(read_safetensors(source / "consolidated.safetensors"))
    tensors[name] = np.array(tensors[name])
    tensors[name][:] = value
    save_safetensors(tmp_path / "consolidated.safetensors", tensors)
    (tmp_path / "text.txt").write_text("Once upon a time there was a cat. " * 20, encoding="utf-8")
    assert main(["routing", "--model", str(tmp_path), str(tmp_path / "text.txt")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "hold NaN or infinity; it first appears in" in err
    model, ids = tiny.load(tmp_path), list(range(1, 61))
    for measured in (lambda: expert_shares(model, ids), lambda: run_finite(model, ids, lengths=[40, 20]),
                     lambda: measure_text(str(tmp_path), "auto", 60, 2, 1)):
        with pytest.raises(tiny.TinyError, match="it first appears in"):
            measured()
