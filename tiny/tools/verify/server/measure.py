"""Texts are sent, the reference is run with every fault, and the two are compared."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tiny.tools.terminal import note
from tiny.tools.verify.server import numbers
from tiny.tools.verify.server.collect import Collector
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.decide import Seen
from tiny.tools.verify.server.gap import write
from tiny.tools.verify.server.names import Names
from tiny.tools.verify.server.numbers import Numbers
from tiny.tools.verify.server.probe import Way
from tiny.tools.verify.server.reference import cost, keep, passes, texts
from tiny.tools.verify.server.report import STATES, Line


def measure(args: argparse.Namespace, model: Any, server: Server, way: Way, known: str | None,
            sizes: list[int]) -> tuple[Numbers, list[Line]]:
    """Ask for the log-probabilities of texts, and weigh every fault."""
    chosen = texts.choose_texts(model.tokenizer, sizes, args.texts)
    collector = Collector(server, way, Names(model.tokenizer, model.config.vocab_size))
    folder = keep.folder_of(args.keep)
    key = f"{keep.fingerprint(files_of(model))} {model.precision}"
    if way.form.kind == "text":
        written = write(server, way, model, chosen, texts.LEAST + texts.SPARE)
        reference = keep.Reference(partial(passes.run, model), [one.ids for one in written], folder, key)
        found = numbers.compare_texts(written, reference, known)
    else:
        seens = of_chats(collector, model, chosen) if way.form.kind == "chat" else list(map(collector.collect, chosen))
        ids = [seen.ids.tolist() for seen in seens]
        asked = numbers.asked(model.config, max(map(len, ids)), known, args.deep)
        cost.announce(model, list(map(len, ids)), passes.count({"": None} | dict(asked), ids), 1 + len(asked))
        reference = keep.Reference(partial(passes.run, model), ids, folder, key, asked)
        found = numbers.compare(model, seens, reference, asked, known, not args.quick)
    note(f"reference: {reference.computed} computed, {reference.kept} kept from before in {folder or 'no folder'}")
    return found, [Line("numbers", STATES[found.verdict.state], found.verdict.words,
                        repair_of(found, way)), *collector.lines()]


def files_of(model: Any) -> list[Path]:
    """The files that say what a model is."""
    return [model.checkpoint.config_file, *model.checkpoint.files]


def of_chats(collector: Collector, model: Any, chosen: list[list[int]]) -> list[Seen]:
    """What a server that serves chats only says of the tokens of its answers, until they are enough."""
    found: list[Seen] = []
    room = min(texts.LEAST // 2, model.config.max_seq_len // 2)
    for ids in chosen:
        for start in range(1, len(ids), room // 4):
            if sum(np.isfinite(seen.logprobs[:, 0]).sum() for seen in found) < texts.LEAST + texts.SPARE:
                seen = collector.collect_chat(model.tokenizer.decode(ids[start : start + room]), room // 2)
                found += [seen] if seen is not None else []
    return found


def repair_of(found: Numbers, way: Way) -> str:
    """What mends the fault that was named, for the engine that the server seems to be, or for all."""
    if found.fault is None:
        return ""
    known = found.fault.repair
    return known.get(way.engine) or known.get("any") or "; ".join(f"{engine}: {how}" for engine, how in known.items())


def limit(found: Numbers | None) -> float:
    """How far a healthy answer to a chat may be from the reference, in nats: as far as the texts were, and more."""
    return texts.UNKNOWN if found is None else max(found.verdict.bound, 2 * found.verdict.deviation)
