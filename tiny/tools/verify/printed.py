"""The third phase of `verify check`: the text that it prints. Inputs, the verdict, a table, experts and predictions."""

from collections.abc import Iterator

from tiny.tools.terminal import one_line
from tiny.tools.verify.compare import ChoiceOfExperts
from tiny.tools.verify.names import layer_of
from tiny.tools.verify.report import ArrayRow, Place, Report

HEAD = ("array", "max error", "mean", "rel. L2", "cosine", "% of tol.", "alone", "% of tol.")
LEGEND = ("The first five numbers are of the whole run, from the ids on; of arrays without a first percentage, alone.",
          "alone: relative error of the worst row of this operation on the other's own inputs. Where it is above 100 %",
          "of its tolerance, the two implementations differ.")


def lines(report: Report, every: bool = False) -> Iterator[str]:
    """The report as text."""
    yield f"theirs   {described(report.theirs)}"
    yield f"ours     {described(report.ours)}"
    if report.theirs.get("fingerprint") and report.ours.get("fingerprint"):
        yield "weights  " + ("other fingerprints: the files do not hold the same numbers in the same types"
                             if report.gaps.other_checkpoint else "the same fingerprint")
    for name in ("pixels", "grids", "ids"):
        if getattr(report.inputs, name) != "none":
            yield f"{name:<8} {getattr(report.inputs, name)}"
    yield ""
    yield from verdict(report)
    if any(row.compared for row in report.arrays):
        yield ""
        yield from array_lines(report, every)
        yield from expert_lines(report)
        yield from prediction_lines(report)


def described(record: dict) -> str:
    """One side in a line."""
    parts = [record.get("model"), record.get("implementation"), record.get("precision")]
    parts += [f"{key} {record[key]}" for key in ("attention", "experts") if record.get(key)]
    return ", ".join(one_line(part, 80) for part in parts if part)


def verdict(report: Report) -> Iterator[str]:
    """The first lines that a reader needs: the same, or where and why not."""
    for finding in report.inputs.findings:
        yield f"DIFFERS  inputs: {finding}"
    if not report.inputs.fits:
        yield "         nothing else was compared: give both the same inputs first"
        return
    yield from (f"DIFFERS  shapes: {sentence}" for sentence in report.misshapen[:8])
    if len(report.misshapen) > 8:
        yield f"         and {len(report.misshapen) - 8} more arrays"
    yield from place_lines(report)
    yield from conclusion(report)
    yield from notes(report)


def conclusion(report: Report) -> Iterator[str]:
    """Whether what was compared proves the same model, and if not, what keeps it from that."""
    compared = sum(row.compared for row in report.arrays)
    within = f"{compared} arrays are within their tolerances"
    if report.verdict == "same":
        yield f"SAME     all {within}"
    elif report.verdict == "same in part":
        yield f"SAME     in part, as asked for with --partial: {within}, but"
    elif report.verdict == "unproven":
        yield f"UNPROVEN {within}, but that is too little" if compared else "UNPROVEN no array was compared"
    yield from (f"         {one_line(sentence)}" for sentence in report.gaps.sentences())
    if report.verdict == "unproven" and compared:
        yield "         give the whole file, or ask with --partial about what there is"


def notes(report: Report) -> Iterator[str]:
    """What a reader should know besides."""
    yield from (f"note     {one_line(sentence)}" for sentence in report.warnings)
    if report.rows < report.tokens:
        yield f"note     the file keeps the rows of {report.rows} of {report.tokens} tokens"
    if len(report.places) > max(5, sum(row.step_percent is not None for row in report.arrays) / 2):
        yield "note     most operations differ: this is another checkpoint, or another version of it"
    if report.two_files and any(row.compared for row in report.arrays):
        yield ("note     two files: whole runs are compared, not single operations; "
               + (f"the first array that is not the same to the bit is {report.first_unequal}"
                  if report.first_unequal else "all arrays compared are the same to the bit"))
    if report.tie:
        yield (f"note     from {report.tie} on, tokens whose experts were nearly tied may take other experts; after "
               "that only operations alone are judged, not the whole run")


def place_lines(report: Report) -> Iterator[str]:
    """The places where the two differ: the first with its reasons, then a few more."""
    for n, place in enumerate(report.places[:5]):
        where = f"{place.operation}; array {place.array}, relative error {place.error:.1e}"
        yield f"DIFFERS  first in {where}" if n == 0 else f"         also {where}"
        if n == 0 and place.rows:
            yield f"         {row_words(place)}"
        if n == 0:
            yield from (f"         {reason}" for reason in place.reasons)
    if len(report.places) > 5:
        yield f"         and {len(report.places) - 5} more"


def row_words(place: Place) -> str:
    """Which rows differ; if all do but a few, which are equal."""
    first, equal = ", ".join(map(str, place.rows)), ", ".join(map(str, place.equal_rows))
    if equal:
        return f"rows {first} ...: {place.count} of {place.count + len(place.equal_rows)}; equal: {equal}"
    return f"rows {first}{' ...' if place.count > len(place.rows) else ''}"


def array_lines(report: Report, every: bool) -> Iterator[str]:
    """A line for every array, or one with the worst of each layer, and every array of a layer that differs."""
    yield columns(HEAD)
    broken = {group_of(place.array) for place in report.places}
    groups: dict[str, list[ArrayRow]] = {}
    for row in report.arrays:
        if row.compared:
            groups.setdefault(group_of(row.name), []).append(row)
    for group, rows in groups.items():
        shown = rows if every or group in broken or len(rows) == 1 else [worst_of(group, rows)]
        yield from map(array_line, shown)
    yield from LEGEND


def group_of(array: str) -> str:
    """What an array is shown with: its layer, or itself."""
    layer = layer_of(array)
    return array if layer is None else "vision " * array.startswith("vision_") + f"layer {layer:02}"


def worst_of(group: str, rows: list[ArrayRow]) -> ArrayRow:
    """One row with the worst numbers of a layer."""
    def largest(name):
        return max((getattr(row, name) for row in rows if getattr(row, name) is not None), default=None)

    numbers = {name: largest(name) for name in ("max", "mean", "relative_l2", "percent", "step_error", "step_percent")}
    cosine = min(row.cosine for row in rows if row.cosine is not None)
    return ArrayRow(f"{group} ({len(rows)})", cosine=cosine, after_tie=any(row.after_tie for row in rows), **numbers)


def columns(values) -> str:
    """One line of the table."""
    return "".join(f"{value:<24}" if n == 0 else f"{value:>11}" for n, value in enumerate(values))


def array_line(row: ArrayRow) -> str:
    """One array as a line."""
    def number(value, form):
        return "-" if value is None else format(value, form)

    return columns([row.name, number(row.max, ".1e"), number(row.mean, ".1e"), number(row.relative_l2, ".1e"),
                    number(row.cosine, ".7f"), "~" * row.after_tie + percentage(row.percent),
                    number(row.step_error, ".1e"), percentage(row.step_percent)])


def percentage(value: float | None) -> str:
    """A part of what is allowed, in per cent. How far above it is, says nothing more from a hundred times on."""
    return "-" if value is None else ">9999" if value > 9999 else f"{value:.0f}"


def expert_lines(report: Report) -> Iterator[str]:
    """Agreement of the experts, with every disagreement."""
    if not report.experts:
        return
    equal, rows = sum(layer.equal for layer in report.experts), sum(layer.rows for layer in report.experts)
    yield ""
    yield f"experts  {equal:,} of {rows:,} tokens and layers chose the same, in the same order"
    wrong = [(layer.layer, one) for layer in report.experts for one in layer.differ]
    for layer, one in wrong[:12]:
        yield (f"         layer {layer}, row {one.row}: theirs {one.theirs}, ours {one.ours}; their logits "
               f"are {one.gap:.1e} apart, ours differ from them by {one.error:.1e}: {meaning(one)}")
    if len(wrong) > 12:
        yield f"         and {len(wrong) - 12} more"


def meaning(one: ChoiceOfExperts) -> str:
    """Why one choice of experts may differ."""
    if one.tie:
        return "a tie within rounding"
    return "no tie" if one.beyond_rounding else "the logits themselves differ"


def prediction_lines(report: Report) -> Iterator[str]:
    """Agreement of the predictions and of the greedy tokens."""
    found, greedy = report.distribution, report.greedy
    if found:
        yield (f"next     top-1 equal in {found.top1} of {found.rows} rows, top-5 shared {100 * found.top5:.1f} %, "
               f"KL mean {found.kl_mean:.1e}, largest {found.kl_max:.1e} nats")
    if greedy:
        gap = "" if greedy.gap is None else f"; at the first that differs theirs led by {greedy.gap:.1e}"
        yield f"greedy   {greedy.equal} of {greedy.tokens} tokens equal{gap}"
