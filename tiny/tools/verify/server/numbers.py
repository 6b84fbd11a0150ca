"""What the numbers of a server say: how far it is from the reference, what rounding explains, which fault fits."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tiny.config import TinyError
from tiny.files.packed.array import Packed
from tiny.tools.verify.server import families
from tiny.tools.verify.server.decide import Evidence, Seen, Verdict, deviation, judge, seen_of, weigh
from tiny.tools.verify.server.faults import Fault, hypotheses
from tiny.tools.verify.server.gap import FLOOR, Written, gaps, own_gaps
from tiny.tools.verify.server.reference.keep import Reference
from tiny.tools.verify.server.reference.texts import LEAST

# What a server may be served as, and which rounding of ours is no smaller than its own; there is none for 2 and 3 bits.
SERVED: dict[str, str | None] = {
    "float32": "float16", "float16": "bfloat16", "bfloat16": "bfloat16", "f32": "float16", "f16": "bfloat16",
    "bf16": "bfloat16", "q8_0": "q8_0", "gguf": "gguf"} | dict.fromkeys(
    "q6_k q5_0 q5_1 q5_k_m q5_k_s q4_0 q4_1 q4_k_m q4_k_s fp8 int8 awq gptq".split(), "q4_0") | dict.fromkeys(
    "q3_k_l q3_k_m q3_k_s q2_k".split())
# How near a rounder value may be, and how much less it may explain: of q4_0 and two texts, a window of 103 left 0.7177
# of what one of 100 left 0.7136, and one of 60 in place of 64 left 0.013 more. A power of ten may leave as much more as
# the search itself lets pass: a theta of 90,000 left 0.003 less than one of 100,000, which was planted (30 Nov 2026).
NEAR, ALIKE = 0.2, 0.003
PLAIN = ("float32", "bfloat16", "float16")  # kinds of tensors that are not rounded further
UNKNOWN = ("bfloat16", "q8_0", "q4_0")  # what a server may be of which nothing is known


class Numbers(NamedTuple):
    """What was found: the verdict, the named fault, and the evidence by the names of faults.

    Shapes:  deviations: (T,) nats for each text, NaN where nothing was said; explained: the same with the named fault
    """

    verdict: Verdict
    fault: Fault | None
    evidence: dict[str, Evidence]
    rounding: dict[str, float]
    deviations: list[np.ndarray]
    explained: list[np.ndarray] | None

    def facts(self) -> dict[str, Any]:
        """All of it for JSON, what explains most first."""
        found = sorted(self.evidence, key=lambda name: self.evidence[name].left)
        fault = self.fault and {"name": self.fault.name, "kind": self.fault.kind, "value": self.fault.value,
                                "place": self.fault.place, "repair": self.fault.repair, "reports": self.fault.reports}
        return {"verdict": self.verdict, "fault": fault, "evidence": {name: self.evidence[name] for name in found},
                "rounding": self.rounding, "deviations": self.deviations, "explained": self.explained}


def served_as(model: Any, said: str | None) -> str | None:
    """The rounding that a server's own is no larger than: what was said, or what the GGUF shows; None if unknown.

    Raises:  TinyError for a word that is not known
    """
    if said is not None and said.lower() not in SERVED:
        raise TinyError(f"--served-as {said} is unknown.", f"Use one of {', '.join(SERVED)}, or leave it out.")
    tensors = model.checkpoint.tensors.values() if model.checkpoint.layout == "gguf" else ()
    if any(isinstance(tensor, Packed) and tensor.kind not in PLAIN for tensor in tensors):
        return "gguf"
    return SERVED[said.lower()] if said is not None else "bfloat16" if tensors else None


def kinds(known: str | None) -> tuple[str, ...]:
    """The roundings that are measured."""
    return UNKNOWN if known is None else tuple(dict.fromkeys(("bfloat16", known)))


def asked(config: Any, length: int, known: str | None, deep: bool) -> dict[str, Fault | str]:
    """The faults that are asked about, by name, and the roundings.

    deep: ask about every expert, head and layer, too
    """
    faults = hypotheses(config, length) + (families.structures(config) if deep else ())
    return {fault.name: fault for fault in faults} | {kind: kind for kind in kinds(known)}


def compare(model: Any, seens: Sequence[Seen], reference: Reference, found: Mapping[str, Fault | str],
            known: str | None, scan: bool) -> Numbers:
    """Weigh every fault, and judge. found: what is asked about; scan: look for the exact value of what is named"""
    config, length = model.config, max(len(seen.ids) for seen in seens)
    deviations = [deviation(*pair) for pair in zip(seens, reference.plain)]
    said = np.concatenate(deviations)
    said = said[~np.isnan(said)]
    rounding = {kind: own_rounding(reference, kind) for kind in kinds(known)}

    def weighed(fault: Fault) -> Evidence:
        return weigh(seens, reference.plain, reference.of(fault.name, fault))

    faults = {name: fault for name, fault in found.items() if not isinstance(fault, str)}
    evidence = {name: weighed(fault) for name, fault in faults.items()}
    mean = float(said.mean()) if len(said) else np.nan
    verdict = judge(mean, evidence, rounding, known)
    if verdict.fault is not None and scan:
        exact, weight = roundest(*families.scan(faults[verdict.fault], config, length, weighed), weighed)
        faults[exact.name], evidence[exact.name] = exact, weight
        verdict = judge(mean, evidence, rounding, known)
    fault = None if verdict.fault is None else faults[verdict.fault]
    explained = None if fault is None else [deviation(*pair) for pair in zip(seens, reference.of(fault.name, fault))]
    return Numbers(enough(verdict, len(said)), fault, evidence, rounding, deviations, explained)


def roundest(fault: Fault, evidence: Evidence, weighed: Callable[[Fault], Evidence]) -> tuple[Fault, Evidence]:
    """A rounder value near the one that was found, if it explains as much: what people set is a round number."""
    value = fault.value
    if value is None:
        return fault, evidence
    tens, twos = (base ** round(math.log(value, base)) for base in (10.0, 2.0))
    one, two = (float(f"{value:.{digits}g}") for digits in (1, 2))
    for near in (tens, value if value == two else one, twos, two):
        if near == value:
            break
        fits = near == round(near) or value != round(value)  # a window of 2.5 tokens is none
        if abs(near / value - 1) < NEAR and fits:
            other = families.made(fault.kind, type(value)(near))
            found = weighed(other)
            if found.left <= evidence.left + (families.SAME if near == tens else ALIKE):
                return other, found
    return fault, evidence


def own_rounding(reference: Reference, kind: str) -> float:
    """How far the reference is from itself if it is rounded, in nats."""
    found = [deviation(seen_of(ids, other), plain)
             for ids, other, plain in zip(reference.texts, reference.of(kind, kind), reference.plain)]
    return float(np.nanmean(np.concatenate(found)))


def enough(verdict: Verdict, positions: int) -> Verdict:
    """The verdict, unless a server has none of the known faults and too little is known of it."""
    if verdict.fault is not None or positions >= LEAST:
        return verdict
    words = f"the server said something of {positions} tokens, and fewer than {LEAST} tell nothing: give more --tokens"
    return verdict._replace(state="cannot tell", words=words)


def compare_texts(written: Sequence[Written], reference: Reference, known: str | None) -> Numbers:
    """Judge what a server wrote, where it gives nothing but texts: by how much its words are not the likeliest."""
    own = gaps(written, reference.plain)
    rounding = {kind: max(FLOOR, float(own_gaps(written, reference.plain, reference.of(kind, kind)).mean()))
                for kind in kinds(known)} if len(own) else dict.fromkeys(kinds(known), FLOOR)
    verdict = judge(float(own.mean()) if len(own) else np.nan, {}, rounding, known)
    words = verdict.words.replace("nats from the reference", "nats below the likeliest token")
    return Numbers(enough(verdict._replace(words=words), len(own)), None, {}, rounding, [own], None)
