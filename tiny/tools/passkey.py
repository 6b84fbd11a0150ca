"""The command `passkey`: does a model find five digits in a long text, wherever they stand?

The text is filler, with one sentence that says the key. The task is that of Landmark Attention (arXiv:2305.16300,
section 4.2); with it Mixtral's paper (arXiv:2401.04088, section 3.2) shows that the model uses all of its context.
Every prompt has exactly as many tokens as asked for. Answers are greedy.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import tiny
from tiny.config import TinyError
from tiny.tools import session
from tiny.tools.plots import check_figure_name, write_figure
from tiny.tools.terminal import check_numbers, note

TASK = ("There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you "
        "about the important information there.")
FILLER = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
KEY = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"
LONGEST = 32768  # tokens of the longest prompt if nothing is asked for: Mixtral's context
LEAST, MOST = 10_000, 99_999  # of a key
# What a guess is worth that knows nothing of the key: all digits right, and the share of digits right at their places.
CHANCE = 1 / (MOST - LEAST + 1)
CHANCE_OF_DIGITS = (1 / 9 + 4 / 10) / 5  # the first of five digits is not 0
EXTRA = 3  # tokens that an answer may have beside its digits


def compose(sentences: int, depth: float, key: str) -> tuple[str, str]:
    """The text in two parts, of which the second begins with the longer stretch of filler, where it can be cut.

    depth: how many per cent of the filler stand before the key
    """
    before = round(sentences * depth / 100)
    filler = [FILLER[n % len(FILLER)] for n in range(sentences)]
    first, second, needle = " ".join(filler[:before]), " ".join(filler[before:]), KEY.format(key=key)
    if before > sentences - before:
        parts = [TASK], [first, needle, second, QUESTION]
    else:
        parts = [TASK, first, needle], [second, QUESTION]
    start, rest = ("\n".join(filter(None, part)) for part in parts)
    return start + "\n", rest


def make_prompt(tokenizer: Any, tokens: int, depth: float, key: str) -> list[int]:
    """The ids of a prompt of exactly so many tokens, BOS included. What is too much is cut where filler begins.

    Raises:  TinyError if there is no room for task, key and question
    """
    def encoded(sentences: int) -> list[int]:
        return [tokenizer.bos_id, *tokenizer.encode("".join(compose(sentences, depth, key)))]

    least, hundred = len(encoded(0)), len(encoded(200)) - len(encoded(100))
    if tokens < least:
        raise TinyError(f"--tokens is {tokens:,}; task, key and question alone take {least:,} tokens.",
                        f"Give --tokens numbers from {least:,} on.")
    # (1) the least number of sentences that is enough, from an estimate
    sentences = 100 * (tokens - least) // hundred
    while sentences and len(encoded(sentences)) >= tokens:
        sentences -= 1
    while len(ids := encoded(sentences)) < tokens:
        sentences += 1
    # (2) cut
    start = 1 + len(tokenizer.encode(compose(sentences, depth, key)[0]))
    return ids[:start] + ids[start + len(ids) - tokens :]


def judge(key: str, text: str) -> tuple[bool, float]:
    """Whether the first number of an answer is the key, and the share of its digits that are right at their places."""
    number = re.search(r"\d+", text)
    digits = number[0] if number else ""
    return digits == key, sum(a == b for a, b in zip(key, digits)) / len(key)


def ask(model, tokens: int, depth: float, key: str) -> dict:
    """What one prompt and its answer show."""
    start, ids = time.perf_counter(), make_prompt(model.tokenizer, tokens, depth, key)
    text = "".join(token.text for token in tiny.generate(model, ids, max_tokens=answer_room(model)))
    found, digits = judge(key, text)
    return {"tokens": len(ids), "depth": depth, "key": key, "answer": text, "found": found, "digits": digits,
            "seconds": round(time.perf_counter() - start, 3)}


def answer_room(model) -> int:
    """How many tokens an answer may have."""
    return len(model.tokenizer.encode(str(MOST))) + EXTRA


def choose_lengths(model, asked: Sequence[int] | None) -> list[int]:
    """The lengths of the prompts: those that were asked for, or half, three quarters and all of the context.

    Raises:  TinyError if there is no room for an answer
    """
    most = model.config.max_seq_len - answer_room(model)
    if asked is None:
        most = min(most, LONGEST)
        return [most // 2, 3 * most // 4, most]
    if max(asked) > most:
        raise TinyError(f"A prompt of {max(asked):,} tokens leaves no room for an answer in a context of "
                        f"{model.config.max_seq_len:,}.", f"Give --tokens numbers up to {most:,}.")
    return sorted(set(asked))


def share(rows: Sequence[dict], name: str, **where: float) -> float:
    """The mean of a number over the rows that are meant."""
    return float(np.mean([row[name] for row in rows if all(row[key] == value for key, value in where.items())]))


def draw(rows: Sequence[dict], title: str):
    """The share of keys that were found, depth downwards, length across; beside it what a guess would find."""
    from matplotlib.figure import Figure

    lengths, depths = (sorted({row[name] for row in rows}) for name in ("tokens", "depth"))
    found = np.array([[share(rows, "found", tokens=n, depth=depth) for n in lengths] for depth in depths])
    figure = Figure(figsize=(2.6 + 0.8 * len(lengths), 1.7 + 0.4 * len(depths)), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(found, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(found):
        panel.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=9,
                   color="black" if value > 0.55 else "white")
    panel.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths])
    panel.set_yticks(range(len(depths)), [f"{depth:g} %" for depth in depths])
    panel.set(xlabel="tokens of the prompt", ylabel="filler before the key")
    panel.set_title(f"{title}: keys found, per cent\n(a guess finds {100 * CHANCE:.3f} per cent)", fontsize=10)
    figure.colorbar(image, fraction=0.06)
    return figure


def print_table(rows: Sequence[dict]) -> None:
    """Keys found, depth by length, and the digits that are right at their places, beside what a guess has right."""
    lengths, depths = (sorted({row[name] for row in rows}) for name in ("tokens", "depth"))
    trials = len(rows) // len(lengths) // len(depths)
    print(f"keys found of {trials}, by tokens of the prompt and filler before the key")
    print("  " + " " * 10 + "".join(f"{n:>10,}" for n in lengths))
    for depth in depths:
        counts = [round(trials * share(rows, "found", tokens=n, depth=depth)) for n in lengths]
        print(f"  {depth:>8g} %" + "".join(f"{count:>10}" for count in counts))
    count, digits = sum(row["found"] for row in rows), share(rows, "digits")
    print(f"{count} of {len(rows)} keys, {100 * count / len(rows):.1f} per cent; a guess finds {100 * CHANCE:.3f}")
    print(f"{100 * digits:.1f} per cent of the digits at their places; random digits {100 * CHANCE_OF_DIGITS:.1f}")
    if not count:
        numbers = sum(bool(re.search(r"\d", row["answer"])) for row in rows)
        print(f"No key was found, and {numbers} of {len(rows)} answers hold a digit at all. The first, to "
              f"{rows[0]['key']}: {rows[0]['answer']!r}")


def main(args: argparse.Namespace) -> None:
    """The command `passkey`: a table or JSON, and a figure if a file for it is named."""
    check_numbers(args, {"tokens": (1, 2**24), "depths": (0, 100), "trials": (1, 10_000), "seed": (0, 2**63)})
    if args.figure:
        check_figure_name(args.figure)
    model = session.open_model(args)
    lengths, depths = choose_lengths(model, args.tokens), sorted(set(args.depths))
    for n in lengths:
        make_prompt(model.tokenizer, n, 0, str(LEAST))  # too short ones are refused before anything is computed
    session.load_weights(model, lengths[-1] + answer_room(model))
    rng, rows = np.random.default_rng(args.seed), []
    for n in lengths:
        for depth in depths:
            keys = rng.integers(LEAST, MOST + 1, args.trials)
            rows += [ask(model, n, depth, str(key)) for key in keys]
        note(f"{n:,} tokens: {share(rows, 'found', tokens=n):.0%} of the keys found")
    if args.figure:
        write_figure(args.figure, draw(rows, str(args.model)), dpi=150)
    if args.json:
        print(json.dumps({"model": str(args.model), "precision": model.precision, "cache": model.cache,
                          "seed": args.seed, "trials": args.trials, "found": share(rows, "found"),
                          "digits": share(rows, "digits"), "chance": CHANCE, "chance_of_digits": CHANCE_OF_DIGITS,
                          "peak_memory_bytes": session.peak_memory(), "rows": rows}))
    else:
        print_table(rows)
