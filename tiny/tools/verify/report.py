"""What `verify check` finds: the evidence that was gathered, the report that judges it, and the report as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tiny.tools.verify.compare import Comparison, LayerOfExperts, Predictions
from tiny.tools.verify.file import Dump
from tiny.tools.verify.names import kind, layer_of, operation

FORMAT = "tiny-verify-check 1"


@dataclass
class Inputs:
    """How pixels, grids and ids compare, in words; what differs, in sentences; whether a model can run on theirs."""

    findings: list[str]
    fits: bool
    pixels: str = "none"
    grids: str = "none"
    ids: str = "none"


@dataclass
class Place:
    """A place where two models differ: the array, the layer and the operation that makes it, and how far apart."""

    array: str
    layer: int | None
    encoder: bool
    operation: str
    error: float
    rows: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    equal_rows: list[int] = field(default_factory=list)  # if all rows differ but a few
    count: int = 0  # of rows that differ


@dataclass
class Greedy:
    """Their greedy tokens, followed by our model.

    tokens: how many were compared, of `given`; equal: how many of them, before the first that differs, are our best;
    gap: the lead that theirs had there; lead: how far below our best one of theirs is, or how far its lead is off ours,
    at the worst token, `at`
    """

    tokens: int
    equal: int
    gap: float | None
    given: int
    lead: float = 0.0
    at: int = 0


@dataclass
class Evidence:
    """All that was gathered, before anything is judged.

    places: operations over their tolerance; alone: each operation on the other's own inputs; runs: the two whole runs;
    layers: how many the decoder ("") and the encoder ("vision_") have; misshapen: arrays of another shape, in words;
    one_sided: arrays that only one of two files has; warnings: what loading the model warned of; cause: what explains
    the whole run if no operation does, in words
    """

    theirs: Dump
    ours: dict[str, Any]
    tolerances: str
    inputs: Inputs
    places: list[Place] = field(default_factory=list)
    alone: dict[str, Comparison] = field(default_factory=dict)
    runs: dict[str, Comparison] = field(default_factory=dict)
    experts: list[LayerOfExperts] = field(default_factory=list)
    predictions: Predictions | None = None
    greedy: Greedy | None = None
    first_unequal: str | None = None
    two_files: bool = False
    layers: dict[str, int] = field(default_factory=dict)
    misshapen: list[str] = field(default_factory=list)
    one_sided: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cause: str = ""


@dataclass
class ArrayRow:
    """One array: its errors in the whole run (alone, if only that was compared), and the shares of the tolerances."""

    name: str
    max: float | None = None
    mean: float | None = None
    relative_l2: float | None = None
    cosine: float | None = None
    worst: float | None = None
    percent: float | None = None
    after_tie: bool = False
    step_error: float | None = None
    step_percent: float | None = None

    @property
    def compared(self) -> bool:
        """Whether it was compared at all."""
        return self.percent is not None or self.step_percent is not None


@dataclass
class Gaps:
    """What keeps a comparison in which nothing differs from proving the same model."""

    missing: list[str]
    not_judged: list[str]
    unknown: list[str]
    one_sided: list[str]
    other_checkpoint: bool

    def sentences(self) -> list[str]:
        """Each of them in words, those that there are."""
        listed = (("missing: ", self.missing), ("in the file, but not judged: ", self.not_judged),
                  ("names that are in no table of the format: ", self.unknown),
                  ("in one file only: ", self.one_sided))
        found = [what + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
                 for what, names in listed if names]
        return found + ["the fingerprints of the weights differ: another checkpoint"] * self.other_checkpoint


@dataclass
class Report:
    """What `verify check` says, after judging.

    verdict: "same", "same in part" (asked for with --partial), "differs", or "unproven": too little was compared
    status: 0 for the first two, else 1
    """

    verdict: str
    status: int
    tolerances: str
    inputs: Inputs
    places: list[Place]
    arrays: list[ArrayRow]
    experts: list[LayerOfExperts]
    tie: str | None
    theirs: dict[str, Any]
    ours: dict[str, Any]
    tokens: int
    images: int
    rows: int
    two_files: bool
    gaps: Gaps
    misshapen: list[str]
    warnings: list[str]
    distribution: Predictions | None = None
    greedy: Greedy | None = None
    first_unequal: str | None = None


def place(array: str, mixture: bool, error: float, reasons: list[str] | None = None, has_mix: bool = True) -> Place:
    """The place where an array is made; mixture and has_mix as in `operation`."""
    encoder = layer_of(array) is not None and kind(array).startswith("vision_")
    return Place(array, layer_of(array), encoder, operation(array, mixture, has_mix), error, reasons=reasons or [])


def as_json(report: Report) -> dict:
    """The report as plain JSON: no key for what was not compared, null for what is no number (JSON has no infinity)."""
    values = {"format": FORMAT} | {key: x for key, x in asdict(report).items() if x is not None or key == "tie"}
    values["arrays"] = [{key: x for key, x in row.items() if x is not None} for row in values["arrays"]]
    if report.two_files:
        values["first_unequal"] = report.first_unequal
    values |= {"unknown": report.gaps.unknown}
    return finite(values)


def finite(value):
    """The same value with null for NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(x) for key, x in value.items()}
    if isinstance(value, list):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
