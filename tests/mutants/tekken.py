"""Classic wrong ways to split text, to merge and to read bytes, which stored ids of the reference must refuse.

A mutant puts a wrong function in the place of one of `tiny.tekken`. What it spoils may be decided when a tokenizer is
made, so the tests make a new one after it.
"""

import unicodedata
from itertools import groupby

import regex

from tiny import tekken
from tiny.tekken import TekkenStream, TekkenTokenizer


def spoil(patch, name, make, of=TekkenTokenizer):
    """Replace a method: make(the right one) is the wrong one."""
    patch.setattr(of, name, make(getattr(of, name)))


# ---- merging


def neighbours(starts, first, end):
    """Whether two parts that stand side by side begin at `first` and end at `end`."""
    return first in starts and end in starts and starts.index(end) - starts.index(first) == 2


def merging(order=lambda id, first, end: (id, first), to_the_left=True, to_the_right=True, fits=neighbours):
    """The merge of `tiny.tekken`, slow and in steps that a mistake can change.

    order: which of the pairs that are offered and make a token is joined first, the smallest. A pair is the place of
    its first byte and the place behind its last. What was joined is offered to its left and right neighbour.
    """
    def merge(data, ids):
        starts = list(range(len(data) + 1))  # where a part begins, and the end
        offered = {(first, first + 2) for first in range(len(data) - 1)}
        while found := [pair for pair in offered if data[slice(*pair)] in ids and fits(starts, *pair)]:
            first, end = min(found, key=lambda pair: order(ids[data[slice(*pair)]], *pair))
            offered.remove((first, end))
            starts = sorted({start for start in starts if not first < start < end} | {end})
            place = starts.index(first)
            if to_the_left and place:
                offered.add((starts[place - 1], end))
            if to_the_right and place + 2 < len(starts):
                offered.add((first, starts[place + 2]))
        parts = [data[first:end] for first, end in zip(starts, starts[1:])]
        return [id for part in parts for id in ([ids[part]] if part in ids else [ids[bytes([byte])] for byte in part])]
    return merge


def longest_token_first(patch):
    patch.setattr(tekken, "merge", merging(lambda id, first, end: (first - end, first)))


def rightmost_of_equal_ranks(patch):
    patch.setattr(tekken, "merge", merging(lambda id, first, end: (id, -first)))


def highest_rank_first(patch):
    patch.setattr(tekken, "merge", merging(lambda id, first, end: (-id, first)))


def joined_parts_are_not_offered_to_the_left(patch):
    patch.setattr(tekken, "merge", merging(to_the_left=False))


def joined_parts_are_not_offered_to_the_right(patch):
    patch.setattr(tekken, "merge", merging(to_the_right=False))


def parts_that_are_gone_are_joined_again(patch):
    """A pair is joined although one of the two parts has been joined to another neighbour since it was offered."""
    patch.setattr(tekken, "merge", merging(fits=lambda starts, first, end: (
        first in starts and any(first < start < end for start in starts))))


# ---- encoding


def made_with(patch, change):
    """Change every tokenizer when it is made: change(tokenizer)."""
    def make(right):
        def wrong(self, *arguments):
            right(self, *arguments)
            change(self)
        return wrong
    spoil(patch, "__init__", make)


def ids_without_the_special_tokens(patch):
    def change(tokenizer):
        tokenizer._ids = {token: rank for rank, token in enumerate(tokenizer._bytes)}
    made_with(patch, change)


def pieces_in_the_list_are_merged_all_the_same(patch):
    patch.setattr(TekkenTokenizer, "encode", lambda self, text: [
        id for piece in self._pattern.findall(text) for id in tekken.merge(piece.encode(), self._ids)])


def special_tokens_in_text(patch):
    spoil(patch, "encode", lambda right: lambda self, text: (
        [self.special_id(text)] if text in self._special else right(self, text)))


def text_is_not_split(patch):
    def change(tokenizer):
        tokenizer._pattern = regex.compile(".+", regex.DOTALL)
    made_with(patch, change)


def with_text(patch, change):
    """Change a text before it is encoded."""
    spoil(patch, "encode", lambda right: lambda self, text: right(self, change(text)))


def surrogates_are_dropped(patch):
    with_text(patch, lambda text: text.encode("utf-8", "ignore").decode("utf-8"))


def each_half_of_a_pair_becomes_fffd(patch):
    with_text(patch, lambda text: regex.sub("[\ud800-\udfff]", "\ufffd", text))


def text_is_normalised(patch):
    with_text(patch, lambda text: unicodedata.normalize("NFC", text))


ENCODE = (longest_token_first, rightmost_of_equal_ranks, highest_rank_first, joined_parts_are_not_offered_to_the_left,
          joined_parts_are_not_offered_to_the_right, parts_that_are_gone_are_joined_again,
          ids_without_the_special_tokens, pieces_in_the_list_are_merged_all_the_same, special_tokens_in_text,
          text_is_not_split, surrogates_are_dropped, each_half_of_a_pair_becomes_fffd, text_is_normalised)


# ---- splitting

MIXED, CAPITALS, DIGIT, SIGNS, LINE_ENDS, SPACES_BEFORE_A_WORD, SPACES = range(7)


def split_with(patch, changes, first=()):
    """Another pattern: some alternatives changed, those changed to None left out, and others put in front."""
    alternatives = dict(enumerate(tekken.PATTERN.split("|")))
    assert set(changes) <= set(alternatives) == set(range(7))
    kept = [text for text in (alternatives | changes).values() if text is not None]
    patch.setattr(tekken, "PATTERN", "|".join((*first, *kept)))


def numbers_of_three_digits(patch):
    split_with(patch, {DIGIT: r"\p{N}{1,3}"})


def english_contractions(patch):
    split_with(patch, {}, first=[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"])


def no_space_before_signs(patch):
    split_with(patch, {SIGNS: r"[^\s\p{L}\p{N}]+[\r\n/]*"})


def all_spaces_in_one_piece(patch):
    split_with(patch, {SPACES_BEFORE_A_WORD: None})


def words_split_at_marks(patch):
    split_with(patch, {MIXED: r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}]+"})


def words_do_not_split_at_capitals(patch):
    split_with(patch, {MIXED: r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"})


def a_sign_before_a_word_stands_alone(patch):
    split_with(patch, {MIXED: r" ?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"})


def line_ends_are_not_a_part_of_signs(patch):
    split_with(patch, {SIGNS: r" ?[^\s\p{L}\p{N}]+"})


def line_ends_by_themselves(patch):
    split_with(patch, {LINE_ENDS: r"[\r\n]"})


SPLIT_AT = (numbers_of_three_digits, english_contractions, no_space_before_signs, all_spaces_in_one_piece,
            words_split_at_marks, words_do_not_split_at_capitals, a_sign_before_a_word_stands_alone,
            line_ends_are_not_a_part_of_signs, line_ends_by_themselves)


# ---- decoding


def read_with(patch, read, run_of=lambda data: data is None):
    """Decode with another rule: bytes of one run, tokens for which run_of gives the same, are read together."""
    def decode(self, ids):
        groups = [list(run) for _, run in groupby(map(self.bytes_of, ids), key=run_of)]
        return "".join(read(b"".join(data for data in run if data is not None)) for run in groups)
    patch.setattr(TekkenTokenizer, "decode", decode)


def read_bytes(data):
    return data.decode("utf-8", "replace")


def every_token_read_alone(patch):
    spoil(patch, "decode", lambda right: lambda self, ids: "".join(right(self, [id]) for id in ids))


def special_tokens_do_not_end_a_run(patch):
    read_with(patch, read_bytes, run_of=lambda data: "all")


def bytes_that_fit_nowhere_are_dropped(patch):
    read_with(patch, lambda data: data.decode("utf-8", "ignore"))


def one_fffd_for_each_byte(patch):
    read_with(patch, lambda data: regex.sub("[\udc80-\udcff]", "\ufffd", data.decode("utf-8", "surrogateescape")))


def ids_are_ranks(patch):
    patch.setattr(TekkenTokenizer, "decode", lambda self, ids: (
        read_bytes(b"".join(self._bytes[id % len(self._bytes)] for id in ids))))


DECODE = (every_token_read_alone, special_tokens_do_not_end_a_run, bytes_that_fit_nowhere_are_dropped,
          one_fffd_for_each_byte, ids_are_ranks)


def special_tokens_do_not_end_what_is_held(patch):
    spoil(patch, "push", lambda right: lambda self, id: (
        "" if self._tokenizer.bytes_of(id) is None else right(self, id)), of=TekkenStream)


def every_token_comes_at_once(patch):
    spoil(patch, "push", lambda right: lambda self, id: right(self, id) + self.finish(), of=TekkenStream)


def nothing_comes_at_the_end(patch):
    patch.setattr(TekkenStream, "finish", lambda self: "")


STREAM = (special_tokens_do_not_end_what_is_held, every_token_comes_at_once, nothing_comes_at_the_end)


# ---- images


def image_with(patch, change):
    """Change the ids of an image: change(ids, id of a break, id of the end)."""
    spoil(patch, "image_tokens", lambda right: lambda self, columns, rows: change(
        right(self, columns, rows), self.special_id("[IMG_BREAK]"), self.special_id("[IMG_END]")))


def break_after_the_last_row_too(patch):
    image_with(patch, lambda ids, line, end: [*ids[:-1], line, end])


def no_breaks(patch):
    image_with(patch, lambda ids, line, end: [id for id in ids if id != line])


def no_end(patch):
    image_with(patch, lambda ids, line, end: [*ids[:-1], line])


def rows_for_columns(patch):
    spoil(patch, "image_tokens", lambda right: lambda self, columns, rows: right(self, rows, columns))


def end_for_break(patch):
    image_with(patch, lambda ids, line, end: [end if id == line else id for id in ids])


IMAGE = (break_after_the_last_row_too, no_breaks, no_end, rows_for_columns, end_for_break)
