"""The first phase of `verify check`: run this code and compare, without judging.

Inputs come first, because most differences are there. Then every operation on the other's own inputs, which shows the
layer and the operation that differ; then the whole run, array by array; then experts and predictions.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import tiny
from tiny.config import Config
from tiny.system.hub import model_name
from tiny.tools.verify import compare as comparison
from tiny.tools.verify import file
from tiny.tools.verify.causes import cause
from tiny.tools.verify.compare import ANGLE, EXACT, LEAD, PIXELS, RUNS, STEPS, Comparison, compare
from tiny.tools.verify.dump import fingerprint
from tiny.tools.verify.file import Dump
from tiny.tools.verify.guesses import explain, rotation_only, shared_expert
from tiny.tools.verify.inputs import check_inputs
from tiny.tools.verify.names import has_every_row, kind, layer_of, order
from tiny.tools.verify.report import Evidence, Greedy, Inputs, Place, place
from tiny.tools.verify.steps import Stage, Step, stages, steps

SHOWN = 8  # rows that a report names


def gather_model(name: str, path: Path, weights: str = "auto", load: Callable = tiny.load) -> Evidence:
    """Run this code on a checkpoint and compare everything with the file at `path`."""
    folder, precision = tiny.model_folder(name), file.read_precision(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model = load(folder, precision=precision, weights=weights)
    theirs = file.read(path, model.config)
    file.check_ids(path, theirs, model.config)
    own = {"model": model_name(folder), "implementation": "tiny", "fingerprint": fingerprint(model.checkpoint.tensors)}
    vision = model.config.vision
    found = Evidence(theirs, own, comparison.tolerances_of(theirs.record), check_inputs(model, theirs),
                     layers={"": model.config.n_layers, "vision_": vision.num_hidden_layers if vision else 0},
                     misshapen=misshapen(theirs, model.config), warnings=[str(one.message) for one in caught])
    if not found.inputs.fits:
        return found
    with np.errstate(all="ignore"):  # A file may hold infinities.
        gather_steps(found, model)
        trace: dict[str, np.ndarray] = {}
        model(theirs.ids, images=theirs.numbered("pixels"), trace=trace)
        gather_runs(found, {key: x if has_every_row(key) else x[theirs.positions] for key, x in trace.items()})
        logits = found.runs.get("logits")
        if logits and not logits.used <= 1 and not found.places:  # An operation that differs says more.
            found.cause = cause(model, theirs)
        if "greedy_tokens" in theirs.inputs:
            found.greedy = follow_greedy(model, theirs)
    return found


def misshapen(theirs: Dump, config: Config) -> list[str]:
    """What is wrong with the arrays of a file that have another shape or type than the model's, in words."""
    return [f"{name} is {theirs.headers[name]}, this model has {theirs.shape_in(name, config) or 'no such array'}"
            for name in sorted(theirs.names - theirs.arrays.keys(), key=order)]


def gather_files(ours: Dump, theirs: Dump) -> Evidence:
    """Compare two files with each other: which arrays differ, without a model to say why."""
    wider = max((comparison.tolerances_of(dump.record) for dump in (ours, theirs)), key=list(RUNS).index)
    inputs = compare_file_inputs(ours, theirs, LEAD[wider])
    arrays = {key: x for key, x in ours.arrays.items()
              if inputs.fits and key in theirs.arrays and x.shape == theirs.arrays[key].shape}
    found = Evidence(theirs, ours.record, wider, inputs, two_files=True, layers=layers_in(ours, theirs))
    found.misshapen = [f"{name} is {ours.headers[name]} in one file and {theirs.headers[name]} in the other"
                       for name in sorted(ours.names & theirs.names, key=order)
                       if inputs.fits and name not in arrays]
    found.one_sided = sorted(ours.headers.keys() ^ theirs.headers.keys())
    with np.errstate(all="ignore"):
        gather_runs(found, arrays)
    found.first_unequal = next((name for name in sorted(arrays, key=order)
                                if not np.array_equal(arrays[name], theirs.arrays[name], equal_nan=True)), None)
    return found


def layers_in(*dumps: Dump) -> dict[str, int]:
    """How many layers the encoder and the decoder have, as far as two files tell."""
    layers = {"": 1, "vision_": 0}
    for name in set().union(*(dump.names for dump in dumps)):
        label, layer = "vision_" if name.startswith("vision_") else "", layer_of(name)
        layers[label] = max(layers[label], 0 if layer is None else layer + 1)
    return layers


def compare_file_inputs(ours: Dump, theirs: Dump, lead: float) -> Inputs:
    """Compare ids, positions, pictures, pixels and greedy tokens of two files; another order of images comes first."""
    findings: list[str] = []
    for key in sorted(ours.inputs.keys() & theirs.inputs.keys()):
        a, b = ours.inputs[key], theirs.inputs[key]
        close = PIXELS if key.startswith("pixels") else lead if key == "greedy_gaps" else 0.0
        if a.shape != b.shape or not bool((np.abs(a.astype(np.float64) - b) <= close).all()):
            findings.append(f"{key}: the files differ")
    pixels = ours.numbered("pixels"), theirs.numbered("pixels")
    swapped = len(pixels[0]) == len(pixels[1]) > 1 and all(
        any(a.shape == b.shape and np.abs(a - b).max() <= PIXELS for b in pixels[1]) for a in pixels[0])
    if swapped and findings:
        findings.insert(0, "the images are the same in another order")
    same_rows = len(ours.ids) == len(theirs.ids) and np.array_equal(ours.positions, theirs.positions)
    return Inputs(findings, same_rows and not any("pixels" in finding for finding in findings))


def gather_steps(found: Evidence, model) -> None:
    """Compare every operation on their inputs, and try to explain those that are over their tolerance."""
    theirs, mixture = found.theirs, model.config.moe is not None
    halves = {stage.label: stage for stage in stages(model, theirs)}
    for step in steps(model, theirs):
        stage = halves["vision_" if step.name.startswith("vision_") and "vision_" in halves else ""]
        limits = EXACT.get(kind(step.name), STEPS[found.tolerances])
        if kind(step.name) in ("q", "k"):
            limits = limits._replace(row=limits.row + ANGLE * stage.held)
        one = found.alone[step.name] = compare(step.name, step.ours, step.theirs, limits, step.scale)
        if not one.used <= 1:
            reasons = explain(step, stage, theirs, model.config, limits) or patterns(step, stage, theirs, one)
            where = place(step.name, mixture, one.worst, reasons, step.name.replace("attn", "mix") in theirs.arrays)
            name_rows(where, ~(one.rows <= 1))
            found.places.append(where)


def name_rows(place: Place, differ: np.ndarray) -> None:
    """Name the first rows that differ, and those that are equal if they are the few.

    Shapes:  differ (R,) bool, R = rows
    """
    place.rows, place.count = np.flatnonzero(differ).tolist()[:SHOWN], int(differ.sum())
    equal = np.flatnonzero(~differ).tolist()
    if len(equal) <= SHOWN < place.count:
        place.equal_rows = equal


def patterns(step: Step, stage: Stage, theirs: Dump, one: Comparison) -> list[str]:
    """What the rows that differ have in common, if anything."""
    chosen = theirs.arrays.get("experts" + step.name[-2:]) if kind(step.name) == "layer" else None
    sentence = shared_expert(one.rows > 1, chosen) or rotation_only(step.name, one.rows, stage)
    return [sentence] if sentence else []


def gather_runs(found: Evidence, ours: Mapping[str, np.ndarray]) -> None:
    """Compare the arrays of two whole runs, the experts and the predictions."""
    theirs, limits = found.theirs.arrays, RUNS[found.tolerances]
    for name in sorted(theirs.keys() & ours.keys(), key=order):
        if kind(name) == "experts":
            logits = name.replace("experts", "router_logits")
            if logits in ours and logits in theirs:
                found.experts.append(comparison.compare_experts(
                    int(name[7:]), ours[name], theirs[name], ours[logits], theirs[logits], limits))
        else:
            positions = np.arange(len(ours[name])) if has_every_row(name) else found.theirs.positions
            turned = limits._replace(row=limits.row + ANGLE * 5 * positions)
            found.runs[name] = compare(name, ours[name], theirs[name], turned)
    if "logits" in found.runs:
        found.predictions = comparison.predictions(ours["logits"], theirs["logits"])


def follow_greedy(model, theirs: Dump) -> Greedy:
    """Feed their greedy tokens to this model one by one: how far is each from our best token?"""
    tokens, gaps = theirs.inputs["greedy_tokens"].tolist(), theirs.inputs.get("greedy_gaps")
    room = min(len(tokens), model.config.max_seq_len - len(theirs.ids))
    found = Greedy(room, room, None, len(tokens))
    if room < 1:
        return found
    cache = model.new_cache(len(theirs.ids) + room)
    logits = model(theirs.ids, images=theirs.numbered("pixels"), cache=cache, last_only=True)[-1]
    for n, token in enumerate(tokens[:room]):
        second, best = np.sort(logits)[-2:]
        error = float(np.max([best - logits[token], 0.0 if gaps is None else abs(best - second - gaps[n])]))
        if np.argmax(logits) != token and found.equal == room:
            found.equal, found.gap = n, None if gaps is None else float(gaps[n])
        if not error <= found.lead and not np.isnan(found.lead):
            found.lead, found.at = error, n
        if n + 1 < room:
            logits = model([token], cache=cache)[-1]
    return found
