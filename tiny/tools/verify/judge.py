"""The second phase of `verify check`: what the evidence means, and where two implementations differ first."""

from tiny.tools.verify.names import order
from tiny.tools.verify.report import ArrayRow, Evidence, Place, Report, place

LED = 0.01  # In float32 a greedy token that led by more than this is the same in every right implementation.


def judge(found: Evidence) -> Report:
    """Turn the evidence into a report with a status."""
    tie = next((f"experts{layer.layer:02}" for layer in found.experts if any(one.tie for one in layer.differ)), None)
    arrays = [array_row(name, found, tie) for name in sorted(found.theirs.arrays, key=order)]
    places = found.places or first_of_runs(found, arrays)
    if not places and not found.inputs.findings:
        places = small_differences(found, arrays) or greedy_place(found)
    return Report(int(bool(places or found.inputs.findings)), found.tolerances, found.inputs, places, arrays,
                  found.experts, tie, found.theirs.record, found.ours, len(found.theirs.ids),
                  len(found.theirs.numbered("pixels")), found.theirs.unknown, found.two_files, found.predictions,
                  found.greedy, found.first_unequal)


def array_row(name: str, found: Evidence, tie: str | None) -> ArrayRow:
    """The row of one array. Its errors are those of the whole run; if only the operation was compared, of that."""
    row, alone, run = ArrayRow(name), found.alone.get(name), found.runs.get(name)
    errors = run or alone
    if errors:
        row.max, row.mean, row.relative_l2 = errors.max, errors.mean, errors.relative_l2
        row.cosine, row.worst = errors.cosine, errors.worst
    if alone:
        row.step_error, row.step_percent = alone.worst, 100 * alone.used
    if run:
        row.percent, row.after_tie = 100 * run.used, tie is not None and order(name) > order(tie)
    return row


def over_tolerance(row: ArrayRow) -> bool:
    """Whether the whole runs differ in an array by more than rounding can explain."""
    return row.percent is not None and not row.percent <= 100 and not row.after_tie


def has_experts(found: Evidence) -> bool:
    """Whether the feed-forward of the model is experts, as far as the file tells."""
    return any(name.startswith("router_logits") for name in found.theirs.arrays)


def first_of_runs(found: Evidence, arrays: list[ArrayRow]) -> list[Place]:
    """The first array that differs between whole runs, of those whose operation could not be compared alone."""
    errors = {row.name: row.worst for row in arrays if over_tolerance(row) and row.name not in found.alone}
    if not found.alone:
        errors |= {f"experts{layer.layer:02}": one.gap for layer in found.experts
                   for one in reversed(layer.differ) if one.beyond_rounding}
    return [place(name, has_experts(found), errors[name] or 0.0) for name in sorted(errors, key=order)[:1]]


def small_differences(found: Evidence, arrays: list[ArrayRow]) -> list[Place]:
    """Where whole runs differ by more than rounding can explain although no operation does."""
    reason = "no operation differs on the other's own inputs; small differences add up"
    return [place(row.name, has_experts(found), row.worst or 0.0, reasons=[reason])
            for row in arrays if over_tolerance(row)][:1]


def greedy_place(found: Evidence) -> list[Place]:
    """A greedy token that differs although all arrays of the prompt agree."""
    if found.greedy is None or found.tolerances != "float32" or (found.greedy.gap or 0) <= LED:
        return []
    reason = "the prompt agrees, token by token does not: look at the cache and at positions"
    return [Place("greedy_tokens", None, False, "decoding with a cache", found.greedy.gap or 0.0,
                  [found.greedy.equal], [reason])]
