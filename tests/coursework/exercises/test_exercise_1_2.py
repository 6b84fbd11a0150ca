"""Exercise 1.2, read bytes as they come: one test for each idea, on bytes that can be looked up.

`é` is C3 A9, `€` is E2 82 AC and the owl is F0 9F A6 89; U+FFFD is the mark of a byte that fits nowhere.
"""

from compare import assert_close

from tiny import tokenizer as book

MARK = "\ufffd"


def check(data, final, text, held):
    """The bytes must give this text and leave so many bytes."""
    found, left = book.read_bytes(data, final)
    words = f"of {data.hex(' ').upper() or 'no bytes'}{', the last ones' * final}"
    assert found == text, f"the text {words}: got {found!r}, expected {text!r}"
    assert_close(len(left), held, 0.0, name=f"how many bytes are held {words}")
    assert left == data[len(data) - held :], f"the bytes that are held {words}: got {left!r}, expected the last {held}"


def test_whole_characters_are_read():
    check(b"", False, "", 0)
    check(b"ab", False, "ab", 0)
    check("aé€🦉z".encode(), False, "aé€🦉z", 0)
    check("é".encode(), True, "é", 0)


def test_a_part_of_a_character_waits():
    check(b"\xc3", False, "", 1)
    check(b"a\xe2\x82", False, "a", 2)
    check("é🦉".encode()[:-1], False, "é", 3)


def test_a_byte_that_fits_nowhere_is_marked():
    check(b"\xff", False, MARK, 0)
    check(b"\xa9", True, MARK, 0)


def test_reading_goes_on_behind_it():
    check(b"\xff\xc3\xa9", False, MARK + "é", 0)
    check(b"a\xffb\xffc", False, f"a{MARK}b{MARK}c", 0)
    check(b"\xe2A", False, MARK + "A", 0)


def test_each_such_byte_has_its_own_mark():
    check(b"\xe2\x82A", False, 2 * MARK + "A", 0)
    check(b"\xf0\x9f\xa6\xc3\xa9", False, 3 * MARK + "é", 0)


def test_nothing_waits_in_vain():
    """C0, F5 and the like begin no character; E0 80 and F4 90 neither, for UTF-8 forbids what they would be.

    ED A0 is forbidden too. Python finds out at the third byte only, so an answer may wait for it.
    """
    for data in (b"\xc0", b"\xc1", b"\xf5", b"\xe0\x80", b"\xf4\x90", b"\xf0\x80", b"\xed\xa0\x80"):
        check(b"a" + data, False, "a" + len(data) * MARK, 0)


def test_at_the_end_nothing_waits():
    check(b"a\xc3", True, "a" + MARK, 0)
    check(b"\xe2\x82", True, 2 * MARK, 0)
    check("é🦉".encode()[:-1], True, "é" + 3 * MARK, 0)
