"""What a server says about the tokens of a text, by the way that was found.

Position t has what follows the first t + 1 tokens. Where a server names tokens by what they read like, and two tokens
read alike, nothing is taken, and that is counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from tiny.config import TinyError
from tiny.tools.verify.server.connect import Server
from tiny.tools.verify.server.decide import TOP, Seen
from tiny.tools.verify.server.names import Names
from tiny.tools.verify.server.probe import Way
from tiny.tools.verify.server.report import Line
from tiny.tools.verify.server.rows import Row, rows_of

LONGEST = 64  # likeliest tokens that are read: some servers add the one that stands there
STRANGE = 0.02  # share of an echoed text's tokens that may read otherwise than ours: odd bytes are written as anything


@dataclass
class Collector:
    """Asks a server for what follows each token of a text.

    nameless: how many of the likeliest tokens had a name that is no token's, or that of two; lost: their probabilities
    unordered: how many lists were not sorted; lists, entries: how many there were
    """

    server: Server
    way: Way
    names: Names
    nameless: int = 0
    unordered: int = 0
    lists: int = 0
    entries: int = 0
    lost: float = 0.0

    def collect(self, ids: Sequence[int]) -> Seen:
        """Ask for what follows each of some ids.

        Shapes:  ids (T,), BOS first -> a Seen of T positions
        Raises:  TinyError if the server answers something else, or reads the text as other tokens
        """
        form, T = self.way.form, len(ids)
        if form.kind == "prefixes":
            rows = list(self.behind_prefixes(ids))[::-1]
        else:
            answer = self.ask(ids if form.ids else self.text(ids))
            prompt, echoed = rows_of(answer)
            rows = (prompt + echoed)[1:] if form.kind == "prompt" else self.aligned(echoed, ids)
            if len(rows) < T - 1:
                raise TinyError(f"The server gave log-probabilities of {len(rows)} of {T} tokens.",
                                "It may cut prompts: look into its log, and give it a longer context.")
        return self.seen(ids, rows[:T])

    def ask(self, prompt: Any, tokens: int = 1) -> dict[str, Any]:
        """Send one prompt."""
        return self.server.post(self.way.form.path, self.way.form.body(prompt, self.way.name, tokens))

    def text(self, ids: Sequence[int]) -> str:
        """The text that has these ids; the server puts BOS in front. Raises TinyError if our tokenizer has others."""
        found = self.names.tokenizer.decode(ids[1:])
        if self.names.tokenizer.encode(found) != list(ids[1:]):
            raise TinyError("The text becomes other tokens when it is written and read again.",
                            "Give another one with --texts FILE.")
        return found

    def behind_prefixes(self, ids: Sequence[int]) -> Iterator[Row]:
        """One generated token behind every prefix, the longest first. As text, a prefix is asked only if it has the
        same tokens alone.

        So whatever a server keeps of earlier prompts, the first request fills its cache. mlx-lm 0.32 breaks off where a
        prompt is one that it has seen with the token that it wrote, as the next longer prefix often is.
        """
        tokenizer = self.names.tokenizer
        for t in tqdm(range(len(ids))[::-1], "prefixes", leave=False, disable=None):
            prompt: Any = list(ids[: t + 1])
            if not self.way.form.ids:
                prompt = tokenizer.decode(ids[1 : t + 1])
                if not t or tokenizer.encode(prompt) != list(ids[1 : t + 1]):
                    yield Row(None, None, [])
                    continue
            rows = rows_of(self.ask(prompt))[1]
            if not rows:
                raise TinyError(f"The server gave no log-probabilities behind {t + 1} tokens.",
                                "Look into its log; a shorter --tokens may be what it takes.")
            yield rows[0]._replace(logprob=None)  # of what was generated, which need not be what follows

    def collect_chat(self, content: str, tokens: int) -> Seen | None:
        """Ask a question, and take what the server says of the tokens of its answer; None if it answers nothing.

        At temperature 0 the likeliest token is the one that was written, whatever a server calls the written one.
        """
        messages = [{"role": "user", "content": content}]
        prompt, _ = self.names.tokenizer.encode_chat(messages)
        rows = rows_of(self.ask(messages, tokens))[1]
        written: list[int] = []
        for row in rows[:tokens]:
            id = self.names.written(row.top[0][0]) if row.top else None
            if id is None:
                break
            written.append(id)
        nothing = [Row(None, None, [])] * (len(prompt) - 1)
        return self.seen([*prompt, *written], nothing + rows[: len(written)]) if written else None

    def lines(self) -> list[Line]:
        """What is odd about the lists that came."""
        found = []
        if self.unordered:
            found.append(Line("lists", False, f"{self.unordered:,} of {self.lists:,} lists of likeliest tokens are not "
                              "sorted, the likeliest first: they are sorted here, but a program that trusts their "
                              "order is misled", "sort top_logprobs, or ask for that of the chosen token only"))
        if self.nameless:
            share = 100 * self.lost / max(1, self.lists)
            found.append(Line("names", None, f"{self.nameless:,} of {self.entries:,} likeliest tokens were left out, "
                              f"{share:.1f} % of the probability: what they read like is no token, or more than one"))
        return found

    def aligned(self, rows: list[Row], ids: Sequence[int]) -> list[Row]:
        """The rows of an echoed prompt behind its first token. BOS may be there, or not.

        Raises:  TinyError if what is echoed reads otherwise than our tokens
        """
        def differing(start: int) -> float:
            said = [row.token for row in rows[start : start + len(ids) - 1]]
            return sum(not self.alike(*pair) for pair in zip(said, ids[1:])) + len(ids) - 1 - len(said)

        start = min((1, 0), key=differing)
        if differing(start) > STRANGE * len(ids):
            raise TinyError(f"The server reads the text as other tokens: {differing(start):.0f} of {len(ids)} differ.",
                            "Check that --model has the tokenizer of what it serves.")
        return rows[start:]

    def alike(self, said: Any, id: int) -> bool:
        """Whether a token that is echoed may be this one: its id, or one of its names, or bytes of no character."""
        return self.names.find(said) == id or isinstance(said, str) and (
            said in self.names.of(id) or not said or "\ufffd" in said)

    def seen(self, ids: Sequence[int], rows: Sequence[Row]) -> Seen:
        """Rows as arrays. Shapes:  -> a Seen of len(ids) positions."""
        T = len(ids)
        top, values = np.full((T, TOP), -1), np.full((T, TOP), np.nan)
        following = np.full(T, np.nan)
        for t, row in enumerate(rows):
            self.lists += bool(row.top)
            self.unordered += not row.ordered
            known: dict[int, float] = {}
            for name, value in row.top[:LONGEST]:
                id = self.names.find(name)
                self.entries += 1
                self.nameless += id is None
                self.lost += 0.0 if id is not None else float(np.exp(value))
                if id is not None:
                    known.setdefault(id, value)
            best = list(known)[:TOP]
            top[t, : len(best)], values[t, : len(best)] = best, [known[id] for id in best]
            if self.way.form.kind == "prompt" and t + 1 < T and ids[t + 1] not in known:
                raise TinyError(f"The server gave log-probabilities of another token than token {t + 2} that was sent.",
                                "Check what stands between here and the server, and its version.")
            if t + 1 < T:
                own = known.get(ids[t + 1]) if row.logprob is None else row.logprob
                following[t] = np.nan if own is None else own
        return Seen(np.asarray(ids), top, values, following)


def collect(server: Server, way: Way, model: Any, ids: Sequence[int]) -> Seen:
    """Ask for what follows each of some ids. Shapes:  ids (T,) -> a Seen of T positions."""
    return Collector(server, way, Names(model.tokenizer, model.config.vocab_size)).collect(ids)
