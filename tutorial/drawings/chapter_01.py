"""Chapter 1: a word joined from its bytes, and one chat in the ids of both tokenizers."""

import tiny
from tiny.config import Tokenizer
from tiny.tekken import TekkenTokenizer, shown
from tutorial.drawings import PAPER
from tutorial.source import ROOT

SMALL = ROOT / "tests/golden/pixtral-a/mistral/tekken.json"  # in Tekken's form, trained on a few pages of English
WORD = " weighting"
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"}]


def joins(data: bytes, ids: dict[bytes, int]) -> list[tuple[int, int, int]]:
    """The joins of one piece in their order: first byte, the byte behind, and the id, as `merge` finds them."""
    parts, found = [(n, n + 1) for n in range(len(data))], []
    while pairs := [(ids[data[a:c]], a, c) for (a, _), (_, c) in zip(parts, parts[1:]) if data[a:c] in ids]:
        id, first, behind = min(pairs)
        found.append((first, behind, id))
        parts = sorted([part for part in parts if not first <= part[0] < behind] + [(first, behind)])
    return found


def placed(order: list[tuple[int, int]], n: int) -> tuple[dict, list]:
    """At which level each part stands, the bytes at 0, and a line from each half to what it was joined to."""
    levels, lines = {(place, place + 1): 0 for place in range(n)}, []
    for first, behind in order:
        inside = [part for part in levels if first <= part[0] and part[1] <= behind]
        halves = (max(part for part in inside if part[0] == first),  # the longest of those that begin, or end, there
                  min(part for part in inside if part[1] == behind))
        levels[first, behind] = 1 + max(levels[half] for half in halves)
        lines += [(half, (first, behind)) for half in halves]
    return levels, lines


def tree_picture():
    """The bytes of a word on top; each box below is a join, with its number in the order and its rank."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    tokenizer = tiny.load_tokenizer(SMALL)
    assert isinstance(tokenizer, TekkenTokenizer)
    data = WORD.encode()
    found = joins(data, {token: rank for rank, token in enumerate(tokenizer._bytes)})
    order = {(first, behind): (number, rank) for number, (first, behind, rank) in enumerate(found, 1)}
    levels, lines = placed(list(order), len(data))
    last = levels.keys() - {half for half, _ in lines}
    figure = Figure(figsize=(9, 4.6), facecolor=PAPER)
    panel = figure.add_axes((0.02, 0.02, 0.96, 0.89))
    for half, whole in lines:
        panel.plot([sum(half) / 2] * 2, [-levels[half] - 0.3, -levels[whole] + 0.3], color="0.35", linewidth=1.2,
                   zorder=0)
    for (first, behind), level in levels.items():
        shade, edge, width = ("0.86", "black", 2.4) if (first, behind) in last else ("white", "0.4", 0.9)
        panel.add_patch(Rectangle((first + 0.06, -level - 0.3), behind - first - 0.12, 0.6, facecolor=shade,
                                  edgecolor=edge, linewidth=width))
        panel.text((first + behind) / 2, -level + (0.1 if level else 0), shown(data[first:behind]), fontsize=12,
                   ha="center", va="center", family="monospace")
        if level:
            number, rank = order[first, behind]
            panel.text((first + behind) / 2, -level - 0.17, f"{number}: {rank}", fontsize=8, ha="center", va="center")
    panel.set_title(f"\u201c{shown(data)}\u201d: {len(data)} bytes, {len(order)} joins, {len(last)} tokens (thick). In "
                    "a box, below its letters: which join it was, and its rank.", fontsize=10, loc="left")
    panel.set(xlim=(-0.05, len(data) + 0.05), ylim=(-max(levels.values()) - 0.5, 0.45))
    panel.axis("off")
    return figure


def chat_picture():
    """One chat in the format of Mixtral and in that of Pixtral: a box for each token, its id below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.7), facecolor=PAPER)
    panel = figure.add_axes((0.01, 0.02, 0.98, 0.88))
    tokenizers = {"tiny-mixtral: [INST] is text": tiny.load("tiny-mixtral").tokenizer,
                  "tiny-pixtral: [INST] is a control token": tiny.load("tiny-pixtral").tokenizer}
    for top, (title, tokenizer) in zip((0.0, 2.6), tokenizers.items()):
        panel.text(0, top + 0.15, title, fontsize=10.5, va="center", weight="bold")
        draw_row(panel, top + 0.55, tokenizer)
    panel.set(xlim=(-0.2, 54.2), ylim=(4.95, -0.1))
    panel.set_title("One chat; below each token its id.", fontsize=10, loc="left")
    panel.axis("off")
    return figure


def draw_row(panel, top: float, tokenizer: Tokenizer) -> None:
    """The tokens of the chat side by side, control tokens dark and hatched, and who speaks below."""
    from matplotlib.patches import Rectangle

    ids, _ = tokenizer.encode_chat(CHAT)
    left, starts = 0.0, []
    for id, piece in zip(ids, tokenizer.pieces(ids)):
        control, width = not tokenizer.decode([id]), 0.62 * len(piece) + 0.95
        starts.append(left)
        panel.add_patch(Rectangle((left, top), width, 0.8, facecolor="0.75" if control else "white", edgecolor="0.3",
                                  hatch="///" if control else None, linewidth=1))
        panel.text(left + width / 2, top + 0.4, piece, fontsize=8.5, ha="center", va="center", family="monospace",
                   bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8} if control else None)
        panel.text(left + width / 2, top + 1.02, id, fontsize=7, ha="center", va="center")
        left += width + 0.12
    end = ids.index(tokenizer.eos_id)
    answer = end - len(tokenizer.encode(CHAT[1]["content"]))
    for first, behind, who in ((1, answer, "question"), (answer, end + 1, "answer"), (end + 1, len(ids), "question")):
        right = starts[behind] - 0.12 if behind < len(ids) else left - 0.12
        panel.annotate("", (starts[first], top + 1.32), (right, top + 1.32),
                       arrowprops={"arrowstyle": "|-|", "mutation_scale": 3})
        panel.text((starts[first] + right) / 2, top + 1.58, who, fontsize=9, ha="center", va="center")


def draw() -> dict:
    """The pictures of the chapter."""
    return {"merge_tree": tree_picture(), "chat_formats": chat_picture()}
