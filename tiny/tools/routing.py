"""The command `routing`: how a model shares out its experts over texts, by the measures of the Mixtral paper.

Of each text, for every layer: the share of the choices that each expert gets, and how often a token repeats a choice
of the token before it. The paper took such measures of the layers 0, 15 and 31 on parts of the Pile.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiny.config import TinyError
from tiny.generate import PREFILL, ExpertTrace, run_finite
from tiny.system.reading import check_plain
from tiny.tools import session
from tiny.tools.plots import write_figure
from tiny.tools.terminal import one_line

SHOWN = 120  # tokens of the first text that the figure of coloured tokens shows


@dataclass(frozen=True)
class Routing:
    """The measures of one text. `tokens` are those of the text itself, `pairs` its consecutive ones.

    Shapes:  shares (L, E), rows summing to 1; repeats_first, repeats_any (L,), as parts of the pairs
    Source:  arXiv:2401.04088 sec. 5, figures 7 and 10, table 5
    """

    tokens: int
    pairs: int
    shares: np.ndarray
    repeats_first: np.ndarray
    repeats_any: np.ndarray


def chance(num_experts: int, num_experts_per_tok: int) -> tuple[float, float]:
    """Repeats to expect if every token drew its experts at random: of the first choice, and of any choice.

    Two draws of K among E share nothing if the second one avoids the first: C(E - K, K) of its C(E, K) ways.
    """
    E, K = num_experts, num_experts_per_tok
    return 1 / E, 1 - math.comb(E - K, K) / math.comb(E, K)


def measure_routing(expert_ids: list[np.ndarray], num_experts: int) -> Routing:
    """The measures of a text that was read in several parts; tokens of different parts do not form a pair.

    Shapes:  expert_ids: for each part (L, t, K) int
    """
    every = np.concatenate(expert_ids, axis=1)
    layers, tokens, K = every.shape
    shares = [np.bincount(layer.ravel(), minlength=num_experts) / (tokens * K) for layer in every]
    before = np.concatenate([part[:, :-1] for part in expert_ids], axis=1)
    after = np.concatenate([part[:, 1:] for part in expert_ids], axis=1)
    # (1) the same first choice, (2) a choice in common, as whichever of the K
    first = before[..., 0] == after[..., 0]
    common = (before[..., :, None] == after[..., None, :]).any(axis=(2, 3))
    return Routing(tokens, first.shape[1], np.array(shares), first.mean(axis=1), common.mean(axis=1))


def chosen_experts(model, ids: list[int]) -> list[np.ndarray]:
    """Read a text in parts as long as the context, each behind a BOS, whose own choices are left out.

    Shapes:  -> for each part (L, t, K) int
    """
    room, parts = model.config.max_seq_len - 1, []
    for start in range(0, len(ids), room):
        part, rows = [model.tokenizer.bos_id, *ids[start : start + room]], []
        cache = model.new_cache(len(part))
        for first in range(0, len(part), PREFILL):
            trace = ExpertTrace()
            run_finite(model, part[first : first + PREFILL], cache=cache, trace=trace, last_only=True)
            rows.append(np.stack(trace.layers))
        parts.append(np.concatenate(rows, axis=1)[:, 1:])
    return parts


def read_texts(paths: list[str]) -> dict[str, str]:
    """Texts by name: a file's name without its ending where that is enough to tell the files apart.

    Raises:  TinyError for a file that is missing, empty, or not text
    """
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    return {name: read_text(Path(path)) for name, path in zip(names, paths)}


def read_text(path: Path) -> str:
    """The text of one file. Raises TinyError as `read_texts`."""
    if not path.exists():
        raise TinyError(f"{path} does not exist.", "Give text files, each of one kind of text.")
    check_plain(path, session.LONGEST_TEXT)
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TinyError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}.",
                        "Give plain text files; convert other encodings, for example with iconv.") from None
    if "\0" in text:
        raise TinyError(f"{path} holds zero bytes: it is not text.", "Give plain text files.")
    if not text.strip():
        raise TinyError(f"{path} is empty.", "Give files with some text; a thousand tokens make steady measures.")
    return text


def encode_texts(model, texts: dict[str, str]) -> dict[str, list[int]]:
    """The tokens of every text, without BOS. Raises TinyError for a single token."""
    encoded = {name: model.tokenizer.encode(text) for name, text in texts.items()}
    for name, ids in encoded.items():
        if len(ids) < 2:
            raise TinyError(f"{name} is a single token: it has no consecutive ones.", "Give a longer text.")
    return encoded


def print_tables(measures: dict[str, Routing], moe) -> None:
    """One table of shares and repeats for every text."""
    first, common = chance(moe.num_experts, moe.num_experts_per_tok)
    which = {1: "first", 2: "1st or 2nd"}.get(moe.num_experts_per_tok, "any")
    print(f"Shares of all choices ({moe.num_experts_per_tok} for each token), and repeated choices of consecutive "
          "tokens, in per cent.")
    head = "expert   " + "".join(f"{e:>6}" for e in range(moe.num_experts)) + f" |{'first':>7}{which:>12}"
    for name, m in measures.items():
        print(f"\n{one_line(name)}: {m.tokens:,} tokens, {m.pairs:,} pairs\n{head}")
        for layer, shares in enumerate(m.shares):
            print(f"layer {layer:<3}" + "".join(f"{100 * share:6.1f}" for share in shares)
                  + f" |{100 * m.repeats_first[layer]:7.1f}{100 * m.repeats_any[layer]:12.1f}")
        print("chance   " + f"{100 / moe.num_experts:6.1f}" * moe.num_experts
              + f" |{100 * first:7.1f}{100 * common:12.1f}")


def as_json(model_name: str, measures: dict[str, Routing], moe) -> str:
    """Everything that was measured, as one JSON object; parts of 1, not per cent."""
    first, common = chance(moe.num_experts, moe.num_experts_per_tok)
    texts = {name: {"tokens": m.tokens, "pairs": m.pairs, "shares": m.shares.tolist(),
                    "repeats_first": m.repeats_first.tolist(), "repeats_any": m.repeats_any.tolist()}
             for name, m in measures.items()}
    return json.dumps({"model": model_name, "num_experts": moe.num_experts,
                       "num_experts_per_tok": moe.num_experts_per_tok,
                       "chance": {"share": 1 / moe.num_experts, "repeats_first": first, "repeats_any": common},
                       "texts": texts})


def save_figures(folder: Path, model, ids: list[int], chosen: np.ndarray, measures: dict[str, Routing]) -> list[Path]:
    """Draw shares, repeats, and the beginning of one text coloured by expert; return the files.

    Shapes:  ids (T,), chosen (L, t, K), the choices of the first t of them
    """
    from tiny.tools import plots

    moe, last = model.config.moe, model.config.n_layers - 1
    shown = chosen[:, :SHOWN, 0]
    figures = {
        "shares": plots.routing_heat_map({text: m.shares for text, m in measures.items()}),
        "repeats": plots.repeated_choices({text: (m.repeats_first, m.repeats_any) for text, m in measures.items()},
                                          chance(moe.num_experts, moe.num_experts_per_tok)),
        "tokens": plots.tokens_by_expert(model.tokenizer.pieces(ids[: shown.shape[1]]),
                                         {f"layer {n}": shown[n] for n in sorted({0, (last + 1) // 2, last})})}
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{kind}.png" for kind in figures]
    for file, figure in zip(files, figures.values()):
        write_figure(file, figure, dpi=150)
    return files


def main(args: argparse.Namespace) -> None:
    """The command `routing`: a table or JSON, and figures if a folder for them is given."""
    texts = read_texts(args.files)
    model = session.open_model(args)
    if model.config.moe is None:
        raise TinyError(f"{args.model} is a dense model: it has no experts to choose from.", "Use a Mixtral.")
    encoded = encode_texts(model, texts)
    session.load_weights(model, min(model.config.max_seq_len, 1 + max(map(len, encoded.values()))))
    chosen = {name: chosen_experts(model, ids) for name, ids in encoded.items()}
    measures = {name: measure_routing(parts, model.config.moe.num_experts) for name, parts in chosen.items()}
    if args.json:
        print(as_json(str(args.model), measures, model.config.moe))
    else:
        print_tables(measures, model.config.moe)
    if args.out is not None:
        first = next(iter(encoded))
        for file in save_figures(Path(args.out), model, encoded[first], chosen[first][0], measures):
            session.note(f"figure {file}")
