"""Where a whole run differs and no operation says why: do its predictions agree with a known fault of servers?

A file may hold nothing but logits, or its ids may not be those that were read. `guesses.py` changes one operation and
looks at its answer; here whole runs are compared, as `verify server` does it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tiny.tools.verify.compare import log_softmax
from tiny.tools.verify.file import Dump
from tiny.tools.verify.server import pictures
from tiny.tools.verify.server.decide import name_of, seen_of, weigh
from tiny.tools.verify.server.faults import Fault, hypotheses
from tiny.tools.verify.server.reference.passes import run

ROWS = 24  # Fewer predictions agree with something by chance.
LEFT = 0.2  # of the deviation: a file has the numbers themselves, so that the cause explains nearly all of it
CHANGE = {"float32": 1e-4, "bfloat16": 2e-2}  # nats; a fault that predicts less is lost in the precision of the file


def cause(model: Any, theirs: Dump) -> str:
    """A sentence that names the fault, or nothing. The file must hold logits of this model's shape."""
    rows, ids, images = theirs.positions, np.asarray(theirs.ids), theirs.numbered("pixels")
    said = log_softmax(theirs.arrays["logits"].astype(np.float64))
    if len(rows) < ROWS or not np.isfinite(said).all():
        return ""
    known = {fault.name: fault for fault in hypotheses(model.config, len(ids))}
    known |= {fault.name: fault for fault in (pictures.hypotheses(model.config, images) if images else ())}
    whole = np.full((len(ids), said.shape[1]), np.nan)
    whole[rows] = said
    seen, plain, evidence = seen_of(ids, whole), None, {}
    for name, changed in runs(model, known, ids, images):
        plain = changed if plain is None else plain  # the first one is without a fault
        evidence[name] = weigh([seen], [plain], [changed])
    best = name_of(evidence, CHANGE[theirs.record["precision"]])
    if best is None or evidence[best].left > LEFT:
        return ""
    share = f"{1 - evidence[best].left:.0%}".replace("%", " %")
    return f"the predictions are those of {best}, which explains {share} of the difference"


def runs(model: Any, known: dict[str, Fault], ids: np.ndarray, images: list) -> Iterator[tuple[str, np.ndarray]]:
    """The reference without a fault, and with each. Shapes:  ids (T,) -> (T, V) log-probabilities, by name."""
    if images:
        for name, fault in ({"": None} | known).items():
            yield name, pictures.logprobs(model, fault, ids, images)
    else:
        yield from ((name, found[0]) for block in ({"": None}, known)
                    for name, found in run(model, block, [ids.tolist()]))
