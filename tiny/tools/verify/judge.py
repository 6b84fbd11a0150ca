"""The second phase of `verify check`: what the evidence means. Where do the two differ first, and was enough compared?

Nothing is called the same unless logits and at least one array of every layer were compared and agree.
"""

from collections.abc import Iterator
from dataclasses import replace

from tiny.tools.verify.compare import LEAD
from tiny.tools.verify.names import kind, layer_of, order
from tiny.tools.verify.report import ArrayRow, Evidence, Gaps, Place, Report, place


def judge(found: Evidence, partial: bool = False) -> Report:
    """Turn the evidence into a report with a verdict. partial: what is not in the file does not cost the verdict."""
    tie = next((f"experts{layer.layer:02}" for layer in found.experts if any(one.tie for one in layer.differ)), None)
    arrays = [array_row(name, found, tie) for name in sorted(found.theirs.arrays, key=order)]
    places = found.places or first_of_runs(found, arrays)
    if not places and not found.inputs.findings:
        places = small_differences(found, arrays) or greedy_place(found)
    if places and found.cause:
        places = [replace(places[0], reasons=[found.cause]), *places[1:]]
    gaps = Gaps(list(missing(found)), not_judged(found, arrays), found.theirs.unknown, found.one_sided,
                other_checkpoint(found))
    verdict = "same"
    if places or found.inputs.findings or found.misshapen:
        verdict = "differs"
    elif not any(row.compared for row in arrays) or (gaps.sentences() and not partial):
        verdict = "unproven"
    elif gaps.sentences():
        verdict = "same in part"
    return Report(verdict, int(verdict in ("differs", "unproven")), found.tolerances, found.inputs, places, arrays,
                  found.experts, tie, found.theirs.record, found.ours, len(found.theirs.ids),
                  len(found.theirs.numbered("pixels")), len(found.theirs.positions), found.two_files, gaps,
                  found.misshapen, found.warnings, found.predictions, found.greedy, found.first_unequal)


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
    errors |= {name: one.gap for layer in found.experts for one in reversed(layer.differ)
               if one.beyond_rounding and (name := f"experts{layer.layer:02}") not in found.alone}
    return [place(name, has_experts(found), errors[name] or 0.0) for name in sorted(errors, key=order)[:1]]


def small_differences(found: Evidence, arrays: list[ArrayRow]) -> list[Place]:
    """Where whole runs differ by more than rounding can explain although no operation does."""
    reason = "no operation differs on the other's own inputs; small differences add up"
    return [place(row.name, has_experts(found), row.worst or 0.0, reasons=[reason])
            for row in arrays if over_tolerance(row)][:1]


def greedy_place(found: Evidence) -> list[Place]:
    """A greedy token that differs although all arrays of the prompt agree."""
    if found.greedy is None or found.greedy.lead <= LEAD[found.tolerances]:
        return []
    reason = "the prompt agrees, token by token does not: look at the cache and at positions"
    return [Place("greedy_tokens", None, False, "decoding with a cache", found.greedy.lead, [found.greedy.at],
                  [reason])]


def missing(found: Evidence) -> Iterator[str]:
    """What a whole comparison needs and the file has not: logits, something of every layer, the same in every layer."""
    names, inputs = found.theirs.names, found.theirs.inputs
    if "logits" not in names:
        yield "logits"
    for label in ("vision_", "") if found.theirs.numbered("pixels") else ("",):
        inside = {name for name in names if layer_of(name) is not None and name.startswith("vision_") == bool(label)}
        kinds = {kind(name) for name in inside}
        for layer in range(found.layers.get(label, 0)):
            lacking = [name for what in kinds if (name := f"{what}{layer:02}") not in names]
            if len(lacking) == len(kinds):
                yield f"layer {layer}" + " of the encoder" * bool(label)
            else:
                yield from sorted(lacking, key=order)
    if any(layer_of(name) is not None for name in found.alone):
        seeing = ["patch_conv", "vision_ln_pre", "projector"] if found.theirs.numbered("pixels") else []
        yield from (name for name in [*seeing, "embed", "norm"] if name not in names)
    if found.theirs.record.get("layers") and found.two_files:
        yield "the layers that the record says were left out"
    yield from (name for name in promised(found.theirs.record) if name not in inputs)
    if "greedy_tokens" in inputs and "greedy_gaps" not in inputs:
        yield "greedy_gaps"


def promised(record: dict) -> list[str]:
    """The inputs that a record says were given: each of its images, as a picture and as pixels, and the grids."""
    images = record.get("images")
    count = len(images) if isinstance(images, list) else 0
    return [f"{what}{n}" for n in range(count) for what in ("image", "pixels")] + ["grids"] * bool(count)


def not_judged(found: Evidence, arrays: list[ArrayRow]) -> list[str]:
    """Arrays of the file that were not compared, or whose whole run was not judged after a tie."""
    compared = {f"experts{layer.layer:02}" for layer in found.experts} | found.alone.keys() | found.runs.keys()
    names = [row.name for row in arrays if row.name not in compared and found.inputs.fits]
    names += [row.name for row in arrays if row.after_tie and not (row.percent or 0) <= 100
              and row.name not in found.alone]
    names += [name for name in ("greedy_tokens",) if found.greedy and found.greedy.tokens < found.greedy.given]
    return names


def other_checkpoint(found: Evidence) -> bool:
    """Whether both sides state a fingerprint of their weights, and another one."""
    theirs, ours = found.theirs.record.get("fingerprint"), found.ours.get("fingerprint")
    return bool(theirs and ours and theirs != ours)
