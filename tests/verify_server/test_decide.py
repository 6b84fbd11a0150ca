"""The rule on numbers that are made up, so that what is in them is known; and wrong rules, which must be refused."""

import numpy as np
import pytest
from compare import assert_close

from tiny.tools.verify.server import decide
from tiny.tools.verify.server.decide import Evidence, Seen, deviation, judge, name_of, seen_of, weigh

T, V = 400, 50
ROUNDING = {"bfloat16": 0.01, "q8_0": 0.02, "q4_0": 0.15}


def normal(x):
    """Log-probabilities of logits. Shapes:  (T, V) -> (T, V)."""
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def plain():
    return normal(3 * np.random.default_rng(0).standard_normal((T, V)))


@pytest.fixture(scope="module")
def changed(plain):
    """What a fault would say: everything changes a little."""
    return normal(plain + 0.3 * np.random.default_rng(1).standard_normal((T, V)))


def said(logprobs, noise=0.0, flips=(), seed=2):
    """What a server says of its numbers, rounded, and far off at some positions."""
    rng = np.random.default_rng(seed)
    logits = logprobs + noise * rng.standard_normal(logprobs.shape)
    for t in flips:
        logits[t, rng.integers(V)] += 9
    return seen_of(np.arange(T) % V, normal(logits))


def test_the_deviation_is_a_mean_over_what_the_server_named(plain):
    seen = said(normal(plain + 0.3))
    assert_close(deviation(seen, plain), np.zeros(T), 1e-12)
    seen = said(plain, 0.2)
    t = 7
    tokens = dict(zip(seen.top[t].tolist(), seen.logprobs[t].tolist())) | {int(seen.ids[t + 1]): seen.following[t]}
    p = np.exp(list(tokens.values()))
    apart = [min(2.0, abs(value - plain[t, token])) for token, value in tokens.items()]
    assert_close(deviation(seen, plain)[t : t + 1], np.array([(p * apart).sum() / p.sum()]), 1e-9)


def test_what_was_not_said_counts_nowhere(plain, changed):
    seen = said(changed, 0.05)
    gone = np.arange(T) % 3 == 0
    top, logprobs = np.where(gone[:, None], -1, seen.top), np.where(gone[:, None], np.nan, seen.logprobs)
    less = Seen(seen.ids, top, logprobs, np.where(gone, np.nan, seen.following))
    assert np.isnan(deviation(less, plain)[gone]).all()
    assert_close(deviation(less, plain)[~gone], deviation(seen, plain)[~gone], 1e-12)
    silent = np.where(gone[:, None], np.nan, plain)  # a reference that says nothing there does the same
    assert weigh([seen], [silent], [changed]) == weigh([less], [plain], [changed])
    assert weigh([seen], [plain], [silent * np.nan]).beta == 0


def test_minus_infinity_is_a_number(plain):
    never = plain.copy()
    never[:, 40:] = -np.inf
    seen = said(plain)
    assert 0 < weigh([seen], [plain], [never]).left < np.inf and np.isfinite(deviation(seen, never)).all()
    assert np.nanmax(deviation(seen, never)) <= 2


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_a_fault_is_named_through_rounding(plain, changed, noise):
    flips = range(0, T, 40) if noise else ()
    one = weigh([said(changed, noise, flips)], [plain], [changed])
    assert abs(one.beta - 1) < max(4 * one.error, 0.15) and one.left < 0.9
    assert name_of({"h": one}, 0.01) == "h"


@pytest.mark.parametrize("seed", range(20))
def test_rounding_is_not_a_fault(plain, changed, seed):
    one = weigh([said(plain, 0.3, range(seed, T, 40), 100 + seed)], [plain], [changed])
    assert name_of({"h": one}, 0.01) is None and abs(one.beta) < 0.3


def test_of_several_the_one_that_leaves_least(plain, changed):
    half = normal((plain + changed) / 2)
    weighed = {name: weigh([said(changed, 0.02)], [plain], [x]) for name, x in (("half", half), ("all", changed))}
    assert weighed["half"].beta > 1.5 and weighed["half"].left < 0.9 and name_of(weighed, 0.01) == "all"


def test_a_change_below_rounding_is_not_asked_about(plain, changed):
    small = normal(plain + 0.01 * (changed - plain))
    one = weigh([said(small)], [plain], [small])
    assert abs(one.beta - 1) < 0.01 and 0 < one.change < 0.01
    assert name_of({"h": one}, 0.01) is None and name_of({"h": one}, 0.0001) == "h"


def test_without_clipping_flips_hide_a_fault(plain, changed, monkeypatch):
    seen = said(changed, 0.1, range(0, T, 10))
    assert name_of({"h": weigh([seen], [plain], [changed])}, 0.01) == "h"
    monkeypatch.setattr(decide, "CLIP", np.inf)
    assert name_of({"h": weigh([seen], [plain], [changed])}, 0.01) is None


def test_without_a_standard_error_one_token_accuses(plain, monkeypatch):
    """A healthy server, one flip of an expert, and a fault that would change that token as well."""
    flipped = plain.copy()
    flipped[77, np.argmax(plain[77])] += 3
    one = weigh([seen_of(np.arange(T) % V, normal(flipped))], [plain], [normal(flipped * 1.0)])
    assert one.beta > 0.5 and one.left < 0.9 and name_of({"h": one}, 0.0) is None
    monkeypatch.setattr(decide, "ERRORS", 0)
    assert name_of({"h": one}, 0.0) == "h"


def test_a_threshold_on_the_maximum_accuses(plain):
    """So would a bound for the largest deviation: one flip of an expert moves a token by nats."""
    apart = deviation(said(plain, 0.01, [5]), plain)
    assert judge(float(np.nanmean(apart)), {}, ROUNDING).state == "healthy"
    assert judge(float(np.nanmax(apart)), {}, ROUNDING, "q4_0").state == "faulty"


def test_verdicts():
    named = {"a window": Evidence(1.0, 0.01, 0.08, 0.1)}
    found = judge(0.005, named, ROUNDING)
    assert (found.state, found.fault) == ("faulty", "a window")
    assert found.words == "as a window: 92 % explained, beta 1.00 ± 0.01"
    assert judge(0.019, {}, ROUNDING).state == "healthy"
    for mean, kind in ((0.03, "q8_0"), (0.2, "q4_0")):
        found = judge(mean, {}, ROUNDING)
        assert found.state == "cannot tell" and f"from {kind} rounding" in found.words and "--model" in found.words
        assert judge(mean, {}, ROUNDING, kind).state == "healthy"
        assert judge(mean, {}, ROUNDING, "bfloat16").state == "faulty"
    found = judge(0.4, {}, ROUNDING)
    assert found.state == "cannot tell" and "2 or 3 bits" in found.words and "--model" in found.words
    assert judge(0.4, {}, ROUNDING, "q4_0").state == "faulty"
    assert judge(np.nan, {}, ROUNDING).state == "cannot tell"


@pytest.mark.parametrize("spoil", [
    lambda s: s._replace(ids=s.ids[:-1]), lambda s: s._replace(top=s.top[:, :-1]), lambda s: s._replace(top=s.top[0]),
    lambda s: s._replace(logprobs=s.logprobs[:-1]), lambda s: s._replace(following=s.following[1:]),
    lambda s: s._replace(top=s.top + V), lambda s: s._replace(logprobs=-s.logprobs),
    lambda s: s._replace(ids=s.ids[:1], top=s.top[:1], logprobs=s.logprobs[:1], following=s.following[:1])])
def test_wrong_shapes_and_numbers_are_refused(plain, spoil):
    seen = spoil(said(plain))
    with pytest.raises(ValueError, match="A Seen|Both references"):
        deviation(seen, plain[: len(seen.ids)])


def test_other_texts_are_refused(plain):
    seen = said(plain)
    for references in ([plain[:-1]], [plain, plain], [plain[0]], []):
        with pytest.raises(ValueError, match="expects|Both references"):
            weigh([seen], references, references)
