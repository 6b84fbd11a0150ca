"""Texts of every kind that a tokenizer may meet, the same 500 in every run."""

import random

WORDS = ("the a Once upon time frog été naïve straße Привет мир 你好 世界 こんにちは 한국어 مرحبا नमस्ते 🙂 "
         "👩\u200d👩\u200d👧 🏳️ == != def return None 1234 3.14 \t \n \r\n ▁ ▁▁ ' \" <0x0A> </ s > aaaa aaaaaaa "
         "ababab \u00a0 \u200b e\u0301 ｆｕｌｌ ﬁ Ⅷ ½ \x00 \x07 \x7f").split(" ")
RANGES = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0x10000, 0x1FFFF))


def texts(count: int = 500) -> list[str]:
    """Words with any spaces between them, runs of few letters, and characters of all planes; none has "<s>" in it."""
    rng, found = random.Random(0), ["", " ", "  ", "\n", " a", "a ", "a  b", "▁", "▁▁a"]
    while len(found) < count:
        found.append("".join(rng.choice(WORDS) + rng.choice(("", " ", " ", "  ")) for _ in range(rng.randint(1, 20))))
        found.append("".join(rng.choice("ab ▁étha\n") for _ in range(rng.randint(1, 40))))
        found.append("".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 12))))
    return [text for text in found[:count] if "<s>" not in text and "</s>" not in text and "<unk>" not in text]
