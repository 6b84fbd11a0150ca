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


@dataclass
class Greedy:
    """Greedy tokens: how many were compared and are equal, and by how much theirs led at the first that is not."""

    tokens: int
    equal: int
    gap: float | None


@dataclass
class Evidence:
    """All that was gathered, before anything is judged.

    alone: each operation on the other's own inputs; runs: the two whole runs; places: operations over their tolerance
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
class Report:
    """What `verify check` says, after judging."""

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
    unknown: list[str]
    two_files: bool
    distribution: Predictions | None = None
    greedy: Greedy | None = None
    first_unequal: str | None = None


def place(array: str, mixture: bool, error: float, rows: list[int] | None = None,
          reasons: list[str] | None = None) -> Place:
    """The place where an array is made; mixture: whether the feed-forward of the model is experts."""
    encoder = layer_of(array) is not None and kind(array).startswith("vision_")
    return Place(array, layer_of(array), encoder, operation(array, mixture), error, rows or [], reasons or [])


def as_json(report: Report) -> dict:
    """The report as plain JSON: no key for what was not compared, null for what is no number (JSON has no infinity)."""
    values = {"format": FORMAT} | {key: x for key, x in asdict(report).items() if x is not None}
    values["arrays"] = [{key: x for key, x in row.items() if x is not None} for row in values["arrays"]]
    if report.two_files:
        values["first_unequal"] = report.first_unequal
    return finite(values)


def finite(value):
    """The same value with null for NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(x) for key, x in value.items()}
    if isinstance(value, list):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
