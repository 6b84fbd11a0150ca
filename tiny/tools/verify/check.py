"""The command `verify check`: compare this code on a checkpoint, or a file, with what another implementation wrote.

Inputs come first, for most differences are there; then every operation on the other's own inputs, whose first failure
names the layer and the operation; then the whole run, array by array; then experts and predictions.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import tiny
from tiny.config import TinyError
from tiny.tools.verify import compare as comparison
from tiny.tools.verify import file
from tiny.tools.verify import report as reports
from tiny.tools.verify.compare import ANGLE, EXACT, RUNS, STEPS, compare
from tiny.tools.verify.dump import mark_of
from tiny.tools.verify.file import Dump, kind, order, place, whole
from tiny.tools.verify.guesses import explain, shared_expert
from tiny.tools.verify.inputs import check_inputs
from tiny.tools.verify.steps import stages, steps

MEASURES = ("max", "mean", "relative_l2", "cosine", "worst")
LED = 0.01  # In float32 a greedy token that led by more than this is the same in every right implementation.


def main(args: argparse.Namespace) -> int:
    """The command `verify check`: a table or JSON, and the exit status."""
    if args.plot and Path(args.plot).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise TinyError(f"The errors would be drawn to {args.plot}.", "Name a file .png, .pdf or .svg.")
    theirs = file.read(Path(args.theirs))
    if str(args.ours).endswith(".npz"):
        report = compare_files(file.read(Path(args.ours)), theirs)
    else:
        report = compare_model(args.ours, theirs, Path(args.theirs), args.weights)
    report["unknown"] = theirs.unknown
    if args.plot:
        reports.error_by_layer(report).savefig(args.plot, dpi=110)
    print(json.dumps(finite(report), indent=1) if args.json else "\n".join(reports.lines(report, args.all)))
    return report["status"]


def finite(value):
    """The same report with null for what is no number: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: finite(x) for key, x in value.items()}
    if isinstance(value, list):
        return [finite(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare_model(name: str, theirs: Dump, path: Path, weights: str = "auto") -> dict:
    """Run this code on a checkpoint and compare everything."""
    folder = tiny.model_folder(name)
    model = tiny.load(folder, precision=theirs.record["precision"], weights=weights)
    file.check_shapes(path, theirs, model.config)
    inputs = check_inputs(model, theirs)
    own = {"model": folder.resolve().name, "implementation": "tiny", "fingerprint": mark_of(folder)}
    column = comparison.column(theirs.record)
    places: list[dict] = []
    trace: dict[str, np.ndarray] = {}
    with np.errstate(all="ignore"):  # A file may hold infinities.
        done = check_steps(model, theirs, column, places) if inputs["fits"] else {}
    if inputs["fits"]:
        model(theirs.ids, images=theirs.numbered("pixels"), trace=trace)
    ours = {key: x if whole(key) else x[theirs.positions] for key, x in trace.items()}
    report = assemble(ours, theirs, column, inputs, places, done)
    report["ours"] = own
    if inputs["fits"] and "greedy_tokens" in theirs.inputs:
        report["greedy"] = found = greedy(model, theirs)
        if not report["status"] and column == "float32" and (found["gap"] or 0) > LED:
            reason = "the prompt agrees, token by token does not: look at the cache and at positions"
            report["places"].append({"array": "greedy_tokens", "layer": None, "encoder": False, "error": found["gap"],
                                     "operation": "decoding with a cache", "rows": [found["equal"]],
                                     "reasons": [reason]})
            report["status"] = 1
    return report


def compare_files(ours: Dump, theirs: Dump) -> dict:
    """Compare two files with each other: which arrays differ, without a model to say why."""
    findings: list[str] = []
    for key in sorted(ours.inputs.keys() & theirs.inputs.keys() - {"greedy_tokens", "greedy_gaps"}):
        a, b = ours.inputs[key], theirs.inputs[key]
        close = comparison.PIXELS if key.startswith("pixels") else 0.0
        if a.shape != b.shape or not bool((np.abs(a.astype(np.float64) - b) <= close).all()):
            findings.append(f"{key}: the files differ")
    pixels = ours.numbered("pixels"), theirs.numbered("pixels")
    swapped = len(pixels[0]) == len(pixels[1]) > 1 and all(
        any(a.shape == b.shape and np.abs(a - b).max() <= comparison.PIXELS for b in pixels[1]) for a in pixels[0])
    if swapped and findings:
        findings.insert(0, "the images are the same in another order")
    same_rows = len(ours.ids) == len(theirs.ids) and np.array_equal(ours.positions, theirs.positions)
    fits = same_rows and not any("pixels" in finding for finding in findings)
    arrays = {key: x for key, x in ours.arrays.items()
              if fits and key in theirs.arrays and x.shape == theirs.arrays[key].shape}
    worse = max((ours.record, theirs.record), key=lambda record: list(RUNS).index(comparison.column(record)))
    report = assemble(arrays, theirs, comparison.column(worse), {"findings": findings, "fits": fits}, [], {})
    report["ours"] = ours.record
    report["first_unequal"] = next((name for name in sorted(arrays, key=order)
                                    if not np.array_equal(arrays[name], theirs.arrays[name], equal_nan=True)), None)
    return report


def check_steps(model, theirs: Dump, column: str, places: list[dict]) -> dict[str, dict]:
    """Every operation on their inputs; those over tolerance are described in `places`."""
    done, halves = {}, {stage.label: stage for stage in stages(model, theirs)}
    for step in steps(model, theirs):
        stage = halves["vision_" if step.name.startswith("vision_") and "vision_" in halves else ""]
        limits = EXACT.get(kind(step.name), STEPS[column])
        if kind(step.name) in ("q", "k"):
            limits = limits._replace(row=limits.row + ANGLE * stage.rows)
        found = compare(step.name, step.ours, step.theirs, limits, step.scale)
        done[step.name] = {key: getattr(found, key) for key in MEASURES}
        done[step.name] |= {"step_error": found.worst, "step_percent": 100 * found.used}
        if not found.used <= 1:
            chosen = theirs.arrays.get("experts" + step.name[-2:]) if kind(step.name) == "layer" else None
            reasons = explain(step, stage, theirs, model.config, limits)
            reasons += [text for text in (shared_expert(step, found.rows > 1, chosen),
                                          rotation_only(step.name, found.rows, stage)) if text and not reasons]
            places.append(place(step.name, model.config.moe is not None) | {
                "error": found.worst, "rows": np.flatnonzero(~(found.rows <= 1)).tolist()[:8], "reasons": reasons})
    return done


def rotation_only(name: str, rows: np.ndarray, stage) -> str:
    """Whether queries or keys are right where nothing is turned, at position 0, and wrong elsewhere."""
    still = ~stage.places[stage.rows].reshape(len(rows), -1).any(axis=1) if len(rows) == len(stage.rows) else []
    if kind(name).removeprefix("vision_") in ("q", "k") and np.any(still) and (rows[still] <= 1).all():
        return "they are right at position 0, where nothing is turned: it is the rotation by position"
    return ""


def assemble(ours: Mapping[str, np.ndarray], theirs: Dump, column: str, inputs: dict, places: list[dict],
             done: Mapping[str, dict]) -> dict:
    """The report: every array of both, the experts, the predictions, and the verdict."""
    mixture = any(name.startswith("router_logits") for name in theirs.arrays)
    arrays, experts, tied = [], [], None
    for name in sorted(theirs.arrays, key=order):
        row = {"name": name} | done.get(name, {})
        if name in ours and kind(name) == "experts":
            logits = name.replace("experts", "router_logits")
            if logits in ours and logits in theirs.arrays:
                experts.append(comparison.choices(int(name[7:]), ours[name], theirs.arrays[name],
                                                      theirs.arrays[logits], ours[logits], RUNS[column]))
                wrong = [one for one in experts[-1]["differ"] if one["gap"] > 2 * one["error"]]
                if wrong and not places and not done:
                    places.append(place(name, mixture) | {"error": wrong[0]["gap"], "reasons": []})
                tied = name if tied is None and any(one["tie"] for one in experts[-1]["differ"]) else tied
        elif name in ours:
            drift = ANGLE * 5 * (np.arange(len(ours[name])) if whole(name) else theirs.positions)
            limits = RUNS[column]._replace(row=RUNS[column].row + drift)
            found = compare(name, ours[name], theirs.arrays[name], limits)
            row |= {key: getattr(found, key) for key in MEASURES}
            row |= {"percent": 100 * found.used, "after_tie": tied is not None}
            if found.used > 1 and tied is None and not places and "step_percent" not in row:
                places.append(place(name, mixture) | {"error": found.worst, "reasons": []})
        arrays.append(row)
    if not places and not inputs["findings"]:
        # No operation differs alone, and still the runs part: by as much as rounding cannot explain.
        over = [row for row in arrays if row.get("percent", 0) > 100 and not row["after_tie"]]
        places += [place(row["name"], mixture) | {"error": row["worst"], "reasons": [
            "no operation differs on the other's own inputs; small differences add up"]} for row in over[:1]]
    report = {"format": "tiny-verify-check 1", "status": int(bool(places or inputs["findings"])),
              "tolerances": column, "inputs": inputs, "places": places, "arrays": arrays, "experts": experts,
              "tie": tied, "theirs": theirs.record, "tokens": len(theirs.ids), "images": len(theirs.numbered("pixels"))}
    if "logits" in ours and "logits" in theirs.arrays:
        report["distribution"] = comparison.distribution(ours["logits"], theirs.arrays["logits"])
    return report


def greedy(model, theirs: Dump) -> dict:
    """The greedy tokens of both, up to the first that differs, and by how much theirs led there."""
    tokens = theirs.inputs["greedy_tokens"].tolist()
    room = min(len(tokens), model.config.max_seq_len - len(theirs.ids))
    if room < 1:
        return {"tokens": 0, "equal": 0, "gap": None}
    own = [token.id for token in tiny.generate(model, theirs.ids.tolist(), theirs.numbered("pixels"), max_tokens=room,
                                               stop_at_eos=False)]
    equal = next((n for n, (a, b) in enumerate(zip(own, tokens)) if a != b), room)
    gaps = theirs.inputs.get("greedy_gaps")
    return {"tokens": room, "equal": equal, "gap": float(gaps[equal]) if gaps is not None and equal < room else None}
