"""What the reference said is kept and found again, and what belongs to something else is not."""

import numpy as np
import pytest

from tiny.tools.releases import MIXTRAL_8X7B, stand_ins
from tiny.tools.verify.server import numbers
from tiny.tools.verify.server.faults import logprobs
from tiny.tools.verify.server.reference import cost, keep, passes, texts
from tiny.tools.verify.server.rounding import rounded

IDS = [[1, 5, 7], [1, 9]]


def run(faults, texts):
    """A reference that is quick."""
    for name, what in faults.items():
        yield name, [said(what, ids) for ids in texts]


def said(what, ids):
    """Log-probabilities of a vocabulary of 200, all different, another order for each fault."""
    rng = np.random.default_rng([len(ids), what or 0])
    return np.log(rng.permutation(200 * len(ids)).reshape(len(ids), 200) + 1.0) - 20


def test_what_is_kept_are_the_likeliest_of_both(tmp_path):
    reference = keep.Reference(run, IDS, tmp_path, "key")
    found = reference.of("a fault", 3)
    for one, plain, ids in zip(found, reference.plain, IDS):
        right = said(3, ids).astype(np.float32)
        kept = ~np.isnan(one)
        assert (one[kept] == right[kept]).all() and keep.LIKELIEST <= kept.sum(1).min() <= kept.sum(1).max() <= 128
        for likeliest in (right, said(None, ids)):
            best = np.argsort(-likeliest, axis=1)[:, : keep.LIKELIEST]
            assert np.take_along_axis(kept, best, axis=1).all()
        assert (~np.isnan(plain)).sum(1).tolist() == [keep.LIKELIEST] * len(ids)


def test_a_second_run_computes_nothing_and_says_the_same(tmp_path):
    first = keep.Reference(run, IDS, tmp_path, "key").of("a fault", 3)
    again = keep.Reference(lambda *_: (), IDS, tmp_path, "key")
    second = again.of("a fault", None)
    assert again.computed == 0 and again.kept == 2
    assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(first, second))


@pytest.mark.parametrize(("key", "ids", "name"), [("other", IDS, "a fault"), ("key", IDS[::-1], "a fault"),
                                                  ("key", [[1, 5, 8], [1, 9]], "a fault"), ("key", IDS, "another")])
def test_another_model_text_or_fault_is_computed(key, ids, name, tmp_path):
    keep.Reference(run, IDS, tmp_path, "key").of("a fault", 3)
    reference = keep.Reference(run, ids, tmp_path, key)
    before = reference.computed
    reference.of(name, 3)
    assert reference.computed == before + 1


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:-30]),
    lambda path: np.savez(path, ids0=np.zeros((3, 2), np.int32)),
    lambda path: np.savez(path, **dict(np.load(path)) | {"ids0": np.full((3, 64), 200, np.int32)}),
    lambda path: np.savez(path, **dict(np.load(path)) | {"ids1": np.full((3, 64), 1, np.int32)}),
    lambda path: np.savez(path, **dict(np.load(path)) | {"values0": np.zeros((3, 64))}),
    lambda path: np.savez(path, **dict(np.load(path)) | {"size0": np.array([1, 2])}),
    lambda path: (path.unlink(), path.mkdir())])
def test_a_damaged_file_counts_as_none(damage, tmp_path):
    right = keep.Reference(run, IDS, tmp_path, "key").plain
    (path,) = tmp_path.iterdir()
    damage(path)
    if path.is_dir():
        assert keep.read(path, [3, 2]) is None
        return
    again = keep.Reference(run, IDS, tmp_path, "key")
    assert again.computed == 1 and all(np.array_equal(*pair, equal_nan=True) for pair in zip(right, again.plain))


def test_the_fingerprint_is_that_of_the_files(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(1 << 20))
    first = keep.fingerprint([path])
    assert keep.fingerprint([path]) == first
    data = bytearray(1 << 20)
    data[-1] = 1
    path.write_bytes(data)
    assert keep.fingerprint([path]) != first
    path.write_bytes(bytes((1 << 20) + 1))
    assert keep.fingerprint([path]) != first


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep.folder_of(None) is None
    with pytest.raises(OSError):
        keep.folder_of(str(tmp_path / "file" / "x"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert keep.folder_of(None) == tmp_path / "tiny/verify-server" and keep.folder_of(None).is_dir()


class Large:
    """Mixtral 8x7B as far as a cost is told."""

    config = MIXTRAL_8X7B

    class weights:
        mode, tensors = "mapped", stand_ins(MIXTRAL_8X7B)


def test_the_cost_of_a_large_model_is_said_before(capsys, monkeypatch):
    monkeypatch.setattr(cost, "speed", lambda rows, width: 1e11)
    ids, asked = [[1] * 408] * 2, numbers.asked(MIXTRAL_8X7B, 408, None, False)
    cost.announce(Large, [408] * 2, passes.count({"": None} | asked, ids), 1 + len(asked))
    said = capsys.readouterr().err
    assert "passes of the reference" in said and "minutes" in said and "GB of memory" in said and "--quick" in said
    needed = cost.cost(Large, [408, 408], 21, 30)
    # 12.9 billion parameters work on a token, with a product and a sum each; the router and attention add 1 %.
    assert 0.98 < needed.operations / (30 * 816 * 2 * 12.9e9) < 1.02 and needed.tokens == 24480 and needed.passes == 21
    assert 5e8 < needed.memory < 4e9 and 93e9 < needed.stored < 94e9 and "93.4 GB of weights" in said


def test_a_small_model_costs_nothing_to_speak_of(capsys, model):
    cost.announce(model, [408] * 2, 21, 30)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0.4 seconds"), (59, "59 seconds"), (150, "2.5 minutes"),
                                                (9000, "2.5 hours"), (90000, "25 hours")])
def test_durations(seconds, words):
    assert cost.duration(seconds) == words


def test_the_speed_is_measured():
    assert 1e8 < cost.speed(64, 128) < 1e13


@pytest.mark.parametrize(("tokens", "context", "quick", "found"), [
    (800, 512, False, [408, 408]), (800, 32768, False, [408, 408]), (400, 512, False, [408]), (800, 512, True, [408]),
    (2400, 512, False, [488] * 5), (20000, 32768, False, [10008] * 2)])
def test_lengths_of_texts(tokens, context, quick, found):
    assert texts.lengths(tokens, context, quick) == found


@pytest.mark.parametrize("name", [None, "README.md"])
def test_texts_have_the_same_tokens_however_they_are_sent(name, model):
    tokenizer = model.tokenizer
    found = texts.choose_texts(tokenizer, [200, 200, 200], name)
    assert [200 - texts.SLACK <= len(ids) <= 200 for ids in found] == [True] * 3
    assert all(ids[0] == tokenizer.bos_id and tokenizer.encode(tokenizer.decode(ids[1:])) == ids[1:] for ids in found)
    assert len({tuple(ids) for ids in found}) == 3


@pytest.mark.thorough
def test_shared_passes_say_what_each_fault_says_alone(model):
    """Every fault of the list, on two texts of unequal length; what is packed is added up in another order."""
    ids = [one[:n] for one, n in zip(texts.choose_texts(model.tokenizer, [50, 50], None), (50, 31))]
    asked = {"": None} | numbers.asked(model.config, 50, None, False)
    calls = []

    class Counted(type(model)):
        def __call__(self, *what, **more):
            calls.append(len(what[0]))
            return super().__call__(*what, **more)

    counted = Counted(model.config, model.weights, model.tokenizer, model.ops)
    found = dict(passes.run(counted, asked, ids))
    assert list(found)[0] == "" and found.keys() == asked.keys()
    assert len(calls) == passes.count(asked, ids) < len(asked) - 8
    for name, fault in asked.items():
        for one, text in zip(found[name], ids):
            alone = logprobs(rounded(model, fault), None, text) if isinstance(fault, str) else logprobs(
                model, fault, text)
            assert (np.isnan(one) == np.isnan(alone)).all()
            tight = not isinstance(fault, str)  # rounding may fall to the other side
            assert np.nanmax(abs(np.exp(one) - np.exp(alone)), initial=0) < (1e-4 if tight else 0.2), name


def test_passes_have_a_limit_of_tokens(model, monkeypatch):
    monkeypatch.setattr(passes, "TOKENS", 50)
    asked = passes.sharing({"": None} | numbers.asked(model.config, 20, None, False))
    found = dict(passes.run(model, asked, [[1] * 20]))
    assert found.keys() == asked.keys() and passes.count(asked, [[1] * 20]) == -(-len(asked) // 2)
