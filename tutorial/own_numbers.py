"""The numbers of a reader's own model beside those that transformers computed with the same weights, array by array."""

import json

import numpy as np
from PIL import Image

import tiny
from tiny.tools.prompt_images import user_turn

# How far logits may be from those of transformers, and how far those of the book's functions are at most. Measured on
# 2026-11-29, on OpenBLAS for seven processors; the largest logit is 20. The book's: 1.1e-5 to 1.8e-5 of tiny-mixtral,
# also through the cache, at most 1.2e-5 of tiny-pixtral. Right answers mixed at random, which round otherwise: 2.1e-5.
LOGITS, BOOK = 5e-5, 2e-5
# Of any other array, as a part of its largest number, or of 1 if that is larger. Measured likewise: at most 1.2e-6.
PART = 5e-6
DRAWN = 8  # tokens that are drawn with a top-p so small that only the best one is left
BYTES = "Grüße\n\U0001f438!"  # a text that has tokens of single bytes


def inputs_of(model, dump: dict[str, np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    """The ids and pixels of a stored run, as this code makes them from its prompt and pictures."""
    record = json.loads(str(dump["record"]))
    if not record["chat"]:
        return [model.tokenizer.bos_id, *model.tokenizer.encode(record["prompt"])], []
    pictures = [Image.fromarray(dump[f"image{n}"]) for n in range(len(record["images"]))]
    return model.tokenizer.encode_chat([user_turn(record["prompt"], pictures)])


def first_difference(model, dump: dict[str, np.ndarray]) -> tuple[str, float]:
    """The first array that differs from a stored run, and by how much; or an empty name, and how far the logits are.

    A text is read once more through the cache, and its logits are compared again; then its tokenizer and its draws.
    """
    ids, pixels = inputs_of(model, dump)
    own: dict[str, np.ndarray] = {}
    shown = {"ids": np.array(ids), **{f"pixels{n}": array for n, array in enumerate(pixels)}}
    for name, array in shown.items():
        if distance(array, dump[name]) > allowed(name, dump[name]):
            return name, distance(array, dump[name])
    with np.errstate(all="ignore"):
        own["logits"] = model(ids, images=pixels, trace=own)
    for name, array in dump.items():
        if name in own and distance(own[name], array) > allowed(name, array):
            return name, distance(own[name], array)
    far = distance(own["logits"], dump["logits"])
    if not pixels:
        with np.errstate(all="ignore"):
            far = max(far, distance(in_chunks(model, ids), dump["logits"]))
    return "" if far <= LOGITS else "logits through the cache", far


def in_chunks(model, ids: list[int]) -> np.ndarray:
    """The logits of a text of which half is read in one call, and the rest token by token. Shapes:  -> (T, V).

    Another text lies before it in the same cache, and is read the other way round.
    """
    cache, half = model.new_cache([len(ids)] * 2), len(ids) // 2
    sizes, other = [half, *[1] * (len(ids) - half)], ids[::-1]
    found, read, before = [], 0, 0
    for length, beside in zip(sizes, sizes[::-1]):
        both = [*other[before : before + beside], *ids[read : read + length]]
        found.append(model(both, cache=cache, lengths=[beside, length])[beside:])
        read, before = read + length, before + beside
    return np.concatenate(found)


def odd_words(model, ids: list[int], best: list[int]) -> str:
    """What a text model does with words that no logits show: which of it is wrong, or nothing.

    A text that is read token by token is what the library makes of all its tokens, and a draw with a tiny top-p is the
    best token.
    """
    stream, pieces = model.tokenizer.stream(), model.tokenizer.encode(BYTES)
    if "".join(map(stream.push, pieces)) + stream.finish() != model.tokenizer.decode(pieces):
        return f"the text {BYTES!r}, read token by token, is another one"
    room = min(DRAWN, len(best))
    drawn = [token.id for token in tiny.generate(model, ids, max_tokens=room, temperature=1.0, top_p=1e-6, seed=1)]
    if drawn != best[:room]:
        return f"a draw with top-p 0.000001 takes another token than the best one: {drawn}, not {best[:room]}"
    return ""


def allowed(name: str, theirs: np.ndarray) -> float:
    """How far an array may be from that of transformers."""
    return LOGITS if name == "logits" else PART * max(1.0, float(np.abs(theirs).max()))


def distance(mine: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two arrays: infinite for another shape, or a NaN on one side."""
    if mine.shape != theirs.shape:
        return float("inf")
    far = np.abs(np.asarray(mine, np.float64) - theirs)
    return float("inf") if np.isnan(far).any() else float(far.max(initial=0.0))


def within(far: float) -> str:
    """The bound that a difference keeps: that of the book's functions, or that of any right ones."""
    return f"{BOOK if far <= BOOK else LOGITS:.0e}".replace("e-0", "e-")
