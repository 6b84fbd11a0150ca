"""Exercise 1.1, join bytes to tokens: one test for each idea, on lists that can be checked by hand.

The ids begin at 1000, as if so many special tokens came first: an id is no byte. In every list a token comes after the
two that it is made of, as in all real ones. Then it does not matter whether equal pairs are joined one after the other
or all at once.
"""

import numpy as np

from tiny import tekken as book

RNG = np.random.default_rng(11)
FIRST = 1000  # the id of byte 0


def vocabulary(*tokens):
    """A list of all single bytes, then these."""
    return {token: FIRST + n for n, token in enumerate([*(bytes([byte]) for byte in range(256)), *tokens])}


def check(data, parts, *tokens):
    """The bytes must become these parts: the ids are compared, and told by what they stand for."""
    ids = vocabulary(*tokens)
    named = {id: token.decode("latin-1") for token, id in ids.items()}
    found, expected = book.merge(data, ids), [ids[part] for part in parts]
    got, wanted = (", ".join(named.get(id, f"id {id}") for id in row) or "nothing" for row in (found, expected))
    told = ", ".join(token.decode("latin-1") for token in tokens) or "none besides single bytes"
    where = f"tokens of {data.decode('latin-1')!r}, where the list has {told}"
    assert found == expected, f"{where}: got {got}, expected {wanted}"


def test_every_byte_has_an_id():
    check(b"", [])
    check(b"q", [b"q"])
    check(b"cab", [b"c", b"a", b"b"])
    check("é\x00\xff".encode("latin-1"), [b"\xe9", b"\x00", b"\xff"])


def test_neighbours_are_joined():
    check(b"xab", [b"x", b"ab"], b"ab")
    check(b"ba", [b"b", b"a"], b"ab")


def test_what_was_joined_is_joined_again():
    check(b"xabc", [b"x", b"abc"], b"ab", b"abc")
    check(b"abcx", [b"abc", b"x"], b"bc", b"abc")
    check(b"abcd", [b"abcd"], b"ab", b"cd", b"abcd")


def test_the_lowest_id_goes_first():
    check(b"abc", [b"a", b"bc"], b"bc", b"ab")
    check(b"lower", [b"lo", b"we", b"r"], b"we", b"lo", b"er", b"low")
    check(b"aabc", [b"aab", b"c"], b"aa", b"aab", b"bc")


def test_of_equals_the_leftmost():
    check(b"aaa", [b"aa", b"a"], b"aa")
    check(b"aaaaa", [b"aaaa", b"a"], b"aa", b"aaaa")
    for _ in range(60):
        tokens = made_of_each_other(RNG)
        data = bytes(RNG.choice(list(b"abc"), RNG.integers(2, 16)).tolist())
        check(data, by_definition(data, vocabulary(*tokens)), *tokens)


def made_of_each_other(rng):
    """Up to eight tokens of a, b and c, each made of two earlier ones."""
    tokens = [b"a", b"b", b"c"]
    while len(tokens) < 11:
        first, second = rng.choice(len(tokens), 2)
        tokens += {tokens[first] + tokens[second]} - set(tokens)
    return tokens[3:]


def by_definition(data, ids):
    """The parts, joined as the docstring says."""
    parts = [data[n : n + 1] for n in range(len(data))]
    while found := [(ids[a + b], n) for n, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ids]:
        place = min(found)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts
