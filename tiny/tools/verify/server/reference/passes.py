"""Passes of the reference: faults that leave operations and weights as they are share one, for all texts together.

A large model spends its time on weights that come from a file. Faults that only change the ids, or the logits
afterwards, need them once for all, and one that changes operations once for all texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tiny.tools.verify.server.faults import Fault, answer, read_by, with_fault
from tiny.tools.verify.server.rounding import rounded

TOKENS = 4096  # of one pass: their logits are in memory at once, 0.5 GB for a vocabulary of 32,000


def run(model: Any, faults: Mapping[str, Fault | str | None],
        texts: Sequence[Sequence[int]]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """What the reference says with each fault, by its name. A text in place of a fault is the name of a rounding.

    Shapes:  texts (T,) each -> for each fault a (T, V) for each text, float32, NaN where a server can say nothing
    """
    for block in blocks(sharing(faults), texts):
        yield from one_pass(model, block, texts)
    for name, fault in faults.items():
        if isinstance(fault, str):
            yield from one_pass(rounded(model, fault), {name: Fault("")}, texts)
        elif fault is not None and name not in sharing(faults):
            yield from one_pass(model, {name: fault}, texts)


def sharing(faults: Mapping[str, Fault | str | None]) -> dict[str, Fault]:
    """The faults that leave operations and weights as they are."""
    found = {name: fault or Fault("") for name, fault in faults.items() if not isinstance(fault, str)}
    return {name: fault for name, fault in found.items() if fault.ops is None and fault.tensors is None}


def blocks(faults: Mapping[str, Fault], texts: Sequence[Sequence[int]]) -> Iterator[dict[str, Fault]]:
    """Faults in groups, each of as many as one pass takes."""
    most = max(1, TOKENS // sum(map(len, texts)))
    names = list(faults)
    for start in range(0, len(names), most):
        yield {name: faults[name] for name in names[start : start + most]}


def one_pass(model: Any, faults: Mapping[str, Fault],
             texts: Sequence[Sequence[int]]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Run the model once for all faults and texts. What several of them read is computed once."""
    config = model.config
    reads = {name: [read_by(fault, np.asarray(ids), config) for ids in texts] for name, fault in faults.items()}
    different = {read.tobytes(): read for pairs in reads.values() for read, _ in pairs}
    lengths = [len(read) for read in different.values()]
    # All have the same operations and weights: those of the first.
    whole = with_fault(model, next(iter(faults.values())))(np.concatenate(list(different.values())), lengths=lengths)
    logits = dict(zip(different, np.split(whole, np.cumsum(lengths)[:-1])))
    for name, fault in faults.items():
        yield name, [answer(logits[read.tobytes()], read, fault, rows) for read, rows in reads[name]]


def count(faults: Mapping[str, Fault | str | None], texts: Sequence[Sequence[int]]) -> int:
    """How many passes `run` makes."""
    plain = sharing(faults)
    return len(list(blocks(plain, texts))) + len(faults) - len(plain)
