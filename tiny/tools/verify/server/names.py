"""Which token a server means: by its id, or by what it reads like, if only one token does.

A byte and a piece can read alike: the byte 0x3F and the piece "?". Taking one for the other once spoilt a whole
verdict, so a text that is that of two tokens names none.
"""

import re
from typing import Any

from tiny.config import TinyError
from tiny.tools.terminal import one_line

BY_ID = re.compile(r"token_id:(\d{1,9})")  # how vLLM and `tiny serve` write a token that was asked for by its id
TWO = -1  # in place of an id: several tokens have this name


class Names:
    """The tokens of a vocabulary by what they read like inside of a text, and by how the vocabulary writes them."""

    def __init__(self, tokenizer: Any, vocab_size: int):
        self.size, self.tokenizer, self.ids = vocab_size, tokenizer, dict[str, int]()
        self.before = tokenizer.encode("a")
        self.start = len(tokenizer.decode(self.before))
        for id in range(min(vocab_size, tokenizer.vocab_size)):
            for name in self.of(id):
                self.ids[name] = id if self.ids.get(name, id) == id else TWO

    def of(self, id: int) -> set[str]:
        """All names of a token: its text behind another one, if it has one of its own, and its entry."""
        text = self.tokenizer.decode([*self.before, id])[self.start :]
        return {self.tokenizer.pieces([id])[0]} | ({text} if text and "\ufffd" not in text else set())

    def find(self, said: Any) -> int | None:
        """The id of a token that a server names by id or text; None for a text of no token, or of several.

        Raises:  TinyError for an id outside the vocabulary, or what is neither
        """
        if isinstance(said, str):
            if not (number := BY_ID.fullmatch(said)):
                found = self.ids.get(said, TWO)
                return None if found == TWO else found
            said = int(number[1])
        if not isinstance(said, int) or isinstance(said, bool) or not 0 <= said < self.size:
            raise TinyError(f"The server names the token {one_line(repr(said), 80)}, and the vocabulary has "
                            f"{self.size:,}.", "Check that --model is what it serves.")
        return said

    def written(self, said: Any) -> int | None:
        """The id of a token of an answer, which has few, so that each one is needed. No text is how the end is written;
        where two read alike, it is the one that the tokenizer makes of the text: a byte only where it has no piece.
        """
        if said == "":
            return self.tokenizer.eos_id
        found = self.find(said)
        if found is None and isinstance(said, str):
            ids = self.tokenizer.encode("a" + said)
            found = ids[-1] if ids[:-1] == self.before else None
        return found
