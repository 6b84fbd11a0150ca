"""The numbers of chapter 1, each from where it comes: Unicode, the releases, the two chat formats."""

import tiny
from tiny.tools.releases import MIXTRAL_8X7B as MIXTRAL
from tiny.tools.releases import PIXTRAL_12B as PIXTRAL
from tutorial.drawings.chapter_01 import CHAT, SMALL, WORD, joins

for character, data in (("a", "61"), ("é", "C3 A9"), ("€", "E2 82 AC"), ("🦉", "F0 9F A6 89")):
    assert character.encode().hex(" ").upper() == data
mixtral, pixtral = (tiny.load(name).tokenizer for name in ("tiny-mixtral", "tiny-pixtral"))
assert [len(tokenizer.encode_chat(CHAT)[0]) for tokenizer in (mixtral, pixtral)] == [21, 16]
small = tiny.load_tokenizer(SMALL)
made = joins(WORD.encode(), {token: rank for rank, token in enumerate(small._bytes)})
assert small.encode(WORD) == [1000 + rank for rank in (made[5][2], ord("t"), made[6][2])]

NUMBERS = {"256", *(str(made[n][2]) for n in (0, -1)),
           f"{MIXTRAL.vocab_size:,}", f"{PIXTRAL.vocab_size:,}",
           f"{small.special_id('<SPECIAL_999>') + 1:,}",
           f"{MIXTRAL.dim:,}", f"{PIXTRAL.dim:,}", f"{2 * MIXTRAL.vocab_size * MIXTRAL.dim:,}",
           f"{2 * PIXTRAL.vocab_size * PIXTRAL.dim:,}", f"{100_000:,}"}
