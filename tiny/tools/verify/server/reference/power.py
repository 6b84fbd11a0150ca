"""How well the rule works: faults planted in our own model, rounded as servers round, and the names it gives them.

A healthy model that is accused, or a fault that gets another's name, counts against the rule; a fault that is missed
costs power. What comes out is plain JSON.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Ids
from tiny.mixtral import Mixtral
from tiny.tools.verify.server.decide import Evidence, Verdict, deviation, judge, seen_of, weigh
from tiny.tools.verify.server.faults import Fault, hypotheses, logprobs
from tiny.tools.verify.server.rounding import rounded

PLANTED = ("bfloat16", "q8_0", "q4_0")  # how the models are rounded in which faults are planted
HEALTHY = (*PLANTED, "float16", "gguf of q8_0", "gguf of q4_0", "bfloat16 of q8_0")
Judge = Callable[[float, Mapping[str, Evidence], Mapping[str, float]], Verdict]


class Case(NamedTuple):
    """One text, and what the reference says of it: without a fault, with each, and rounded.

    Shapes:  ids (T,), the others (T, V)
    """

    ids: np.ndarray
    plain: np.ndarray
    changed: dict[str, np.ndarray]
    rounding: dict[str, float]


def roundings(model: Mixtral, kinds: Sequence[str] = HEALTHY) -> dict[str, Mixtral]:
    """The model as servers of several kinds compute it; "gguf of q4_0" rounds weights and what is multiplied with them.
    """
    found: dict[str, Mixtral] = {}
    for kind in kinds:
        way, _, packed = kind.rpartition(" of ")
        found[kind] = kept(rounded(model, packed))
        if way:
            found[kind] = rounded(found[kind], way)
    return found


def kept(model: Mixtral) -> Mixtral:
    """The same model with all of its weights in memory, each rounded once and not in every pass."""
    weights = {name: np.ascontiguousarray(model.weights[name], np.float32) for name in model.weights}
    weights = {name: x.reshape(-1, x.shape[-1]) if x.ndim > 2 and "patch_conv" not in name else x
               for name, x in weights.items()}
    return type(model)(model.config, weights, None, model.ops, model.precision)


def cases(model: Mixtral, texts: Sequence[Ids], faults: Sequence[Fault], servers: Mapping[str, Mixtral]) -> Iterator[
        Case]:
    """The reference on each text, one after the other."""
    for text in texts:
        ids = np.asarray(text)
        plain = logprobs(model, None, ids)
        own = {kind: float(np.nanmean(deviation(seen_of(ids, logprobs(server, None, ids)), plain)))
               for kind, server in servers.items() if kind in PLANTED}
        yield Case(ids, plain, {fault.name: logprobs(model, fault, ids) for fault in faults}, own)


class Run(NamedTuple):
    """One text and one server: how it was rounded, the fault that was planted or None, and what was weighed."""

    kind: str
    fault: str | None
    mean: float
    evidence: dict[str, Evidence]
    rounding: dict[str, float]


def run(kind: str, server: Mixtral, fault: Fault | None, case: Case) -> Run:
    """What is weighed if a server with a fault has one text."""
    seen = seen_of(case.ids, logprobs(server, fault, case.ids))
    evidence = {name: weigh([seen], [case.plain], [changed]) for name, changed in case.changed.items()}
    mean = float(np.nanmean(deviation(seen, case.plain)))
    return Run(kind, fault.name if fault else None, mean, evidence, case.rounding)


def runs(model: Mixtral, texts: Sequence[Ids], planted_in: int, kinds: Sequence[str] = HEALTHY,
         only: Sequence[str] = ()) -> Iterator[Run]:
    """Plant every fault in the first texts, and nothing in any of them. A fault below bfloat16 rounding is not planted.

    texts: each at least 100 ids, BOS first; planted_in: in how many of them faults are planted
    kinds: roundings, of PLANTED and HEALTHY; only: the kinds of faults, if not all
    """
    faults = [fault for fault in hypotheses(model.config, min(map(len, texts))) if not only or fault.kind in only]
    servers = roundings(model, kinds)
    for number, case in enumerate(cases(model, texts, faults, servers)):
        yield from (run(kind, server, None, case) for kind, server in servers.items())
        own = seen_of(case.ids, case.plain)
        loud = [fault for fault in faults
                if weigh([own], [case.plain], [case.changed[fault.name]]).change > case.rounding["bfloat16"]]
        for kind in PLANTED if number < planted_in else ():
            yield from (run(kind, servers[kind], fault, case) for fault in loud if kind in servers)


def confusion(found: Iterable[Run], rule: Judge = judge) -> dict[str, Any]:
    """What each run is called, counted.

    -> {"healthy": {rounding: {name or state: count}}, "planted": {rounding: {fault: {name or state: count}}},
        "silent": faults that were not planted}
    """
    healthy: dict[str, dict[str, int]] = {}
    planted: dict[str, dict[str, dict[str, int]]] = {}
    asked: set[str] = set()
    for one in found:
        asked |= one.evidence.keys()
        said = rule(one.mean, one.evidence, one.rounding)
        count(planted.setdefault(one.kind, {}).setdefault(one.fault, {}) if one.fault else
              healthy.setdefault(one.kind, {}), said)
    return {"healthy": healthy, "planted": planted,
            "silent": sorted(asked.difference(*planted.values()))}


def count(table: dict[str, int], said: Verdict) -> None:
    """Count a verdict under the fault that it names, or its state."""
    word = said.fault or said.state
    table[word] = table.get(word, 0) + 1


def totals(table: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Of a table of `confusion`, by rounding: runs with a fault, those named, those called by another's name, healthy
    runs, and those called faulty.
    """
    found = {}
    for kind, healthy in table["healthy"].items():
        planted = table["planted"].get(kind, {})
        named = sum(words.get(fault, 0) for fault, words in planted.items())
        states = ("healthy", "faulty", "cannot tell")
        found[kind] = {"planted": sum(sum(words.values()) for words in planted.values()), "named": named,
                       "misnamed": sum(n for fault, words in planted.items() for word, n in words.items()
                                       if word not in (fault, *states)),
                       "healthy": sum(healthy.values()),
                       "accused": sum(n for word, n in healthy.items() if word not in ("healthy", "cannot tell"))}
    return found
