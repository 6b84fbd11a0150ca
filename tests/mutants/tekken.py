"""Classic wrong ways to split text, to read bytes and to write chats, which stored ids of the reference must refuse.

A mutant is a few replacements in the source of a module. Each must be there exactly once, so that none stops applying
unnoticed.
"""

import inspect
import re
from types import ModuleType

from tiny import chat, chat_v3, tekken

PAIR, LEFT, RIGHT, POP = ("[(id, start, start + 2)", "(id, before[start], end)", "(id, start, after[end])",
                          "_, start, end = heappop(heap)")
SPLIT, JOINED = "for piece in self._pattern.findall(text):", '"utf-8", "replace") for run'

CLOSE = "else text)\n            ids += [] if prefix else [tokenizer.eos_id]"
TEXT = "ids += tokenizer.encode(part)\n"

ENCODE = {
    "longest_token_first": [
        (PAIR, "[(-2, start, start + 2)"), (LEFT, "(before[start] - end, before[start], end)"),
        (RIGHT, "(start - after[end], start, after[end])")],
    "rightmost_of_equal_ranks": [
        (PAIR, "[(id, -start, start + 2)"), (LEFT, "(id, -before[start], end)"), (RIGHT, "(id, -start, after[end])"),
        (POP, POP + "; start = -start")],
    "highest_rank_first": [
        (PAIR, "[(-id, start, start + 2)"), (LEFT, "(-id, before[start], end)"), (RIGHT, "(-id, start, after[end])")],
    "joined_parts_are_not_offered_to_the_left": [("if start and (id", "if False and (id")],
    "joined_parts_are_not_offered_to_the_right": [("if (id := ids.get(data[start:after[end]]))", "if (id := None)")],
    "parts_that_are_gone_are_joined_again": [("or after[middle] != end", "")],
    "ids_without_the_special_tokens": [("enumerate(tokens, len(special))", "enumerate(tokens)")],
    "pieces_in_the_list_are_merged_all_the_same": [("if data in self._ids else", "if data == b' the' else")],
    "special_tokens_in_text": [
        (SPLIT, "if text in self._special: return [self._special.index(text)]\n        " + SPLIT)],
    "text_is_not_split": [(SPLIT, "for piece in [text]:")],
    "surrogates_are_dropped": [('text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
                                'text.encode("utf-8", "ignore").decode("utf-8")')],
    "each_half_of_a_pair_becomes_fffd": [
        ('text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
         'text.encode("utf-8", "replace").decode("utf-8").replace("?", "\\ufffd")')],
    "text_is_normalised": [("check_text(text)\n", "import unicodedata; text = unicodedata.normalize('NFC', text)\n")],
}

SPLIT_AT = {
    "numbers_of_three_digits": [('r"\\p{N}",', 'r"\\p{N}{1,3}",')],
    "english_contractions": [('PATTERN = "|".join((', 'PATTERN = "|".join((r"(?i:\'s|\'t|\'re|\'ve|\'m|\'ll|\'d)",')],
    "no_space_before_signs": [('r" ?[^', 'r"[^')],
    "all_spaces_in_one_piece": [(r' r"\s+(?!\S)",', "")],
    "words_split_at_marks": [(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+", r"[\p{Ll}\p{Lm}\p{Lo}]+")],
    "words_do_not_split_at_capitals": [(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[", r"[\p{L}\p{M}]*[")],
    "a_sign_before_a_word_stands_alone": [(r'r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[',
                                           r'r" ?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[')],
    "line_ends_are_not_a_part_of_signs": [(r"+[\r\n/]*", "+")],
    "line_ends_by_themselves": [(r"\s*[\r\n]+", r"[\r\n]")],
}

DECODE = {
    "every_token_read_alone": [("b\"\".join([self._bytes[rank] for rank in run]).decode(" + JOINED[:18],
                                "''.join([self._bytes[rank].decode('utf-8', 'replace') for rank in run]")],
    "special_tokens_do_not_end_a_run": [(" in groupby(ranks, key=lambda rank: rank < 0) if not special",
                                         " in [(0, [rank for rank in ranks if rank >= 0])]")],
    "bytes_that_fit_nowhere_are_dropped": [(JOINED, '"utf-8", "ignore") for run')],
    "one_fffd_for_each_byte": [(JOINED, '"utf-8", "surrogateescape").encode("utf-16", "surrogatepass")'
                                        '.decode("utf-16", "replace") for run')],
    "ids_are_ranks": [("self.vocab_size) - len(self._special) for id", "self.vocab_size) for id"),
                      ("self._bytes[rank] for rank in run", "self._bytes[rank % len(self._bytes)] for rank in run")],
}

STREAM = {
    "special_tokens_do_not_end_what_is_held": [("return self.finish() if data is None", "return '' if data is None")],
    "every_token_comes_at_once": [("else self._decoder.decode(data)", "else data.decode('utf-8', 'replace')")],
    "nothing_comes_at_the_end": [('return self._decoder.decode(b"", final=True)', 'return ""')],
}

CHAT = {
    "system_prompt_in_the_first_turn": [("last = max(", "last = min(")],
    "system_prompt_in_every_turn": [("if system and number == last else", "if system else")],
    "no_blank_line_after_the_system_prompt": [
        ('            system = "".join(content) + BLANK_LINE', '            system = "".join(content)')],
    "system_prompt_joined_to_text_before_an_image": [(' or style == "mistral-1.4" and', " or")],
    "system_prompt_encoded_by_itself_before_text": [
        ("joined = not has_image(content) or", "joined = not content or")],
    "system_prompt_behind_the_first_image": [("[system, *content]", "[*content[:1], system, *content[1:]]")],
    "text_before_its_image": [("return content[::-1] if pair else content", "return content")],
    "every_image_first": [
        ("return content[::-1] if pair else content", "return sorted(content, key=lambda part: type(part) is str)")],
    "image_before_any_text_behind_which_it_stands": [("pair = len(content) == 2 and", "pair = len(content) >= 2 and")],
    "spaces_of_answers_kept": [('text.rstrip(" ") if', "text if")],
    "line_ends_of_answers_dropped": [('text.rstrip(" ") if', "text.rstrip() if")],
    "answers_stripped_in_front": [('text.rstrip(" ") if', 'text.strip(" ") if')],
    "end_after_a_prefix": [(CLOSE, "else text)\n            ids += [tokenizer.eos_id]")],
    "no_end_after_answers": [(CLOSE, "else text)")],
    "no_begin": [("[tokenizer.bos_id], [], \"\"", "[], [], \"\"")],
    "begin_before_every_turn": [("ids.append(begin)", "ids += [tokenizer.bos_id, begin]")],
    "spaces_inside_the_brackets": [(TEXT, TEXT.replace("part)\n", "' ' + part)\n"))],
    "texts_joined_by_a_space": [('BLANK_LINE = "\\n\\n"', 'BLANK_LINE = " "')],
    "empty_texts_kept": [('elif chunk["text"] and content and', "elif content and"),
                         ('elif chunk["text"]:\n            content.append', "else:\n            content.append")],
}

OLD_CHAT = {
    "system_prompt_by_itself_in_the_older_style": [('style == "mistral-1.4" and', "False and")],
    "answers_stripped_in_the_older_style": [('text.rstrip(" ") if style == "mistral" else text', 'text.rstrip(" ")')],
}

IMAGE = {
    "break_after_the_last_row_too": [("return (row * rows)[:-1] + [", "return row * rows + [")],
    "no_breaks": [('* columns + [self.special_id("[IMG_BREAK]")]', "* columns + []")],
    "no_end": [('return (row * rows)[:-1] + [self.special_id("[IMG_END]")]', "return row * rows")],
    "rows_for_columns": [("grid_of(pixels, self.patch_size)", "grid_of(pixels, self.patch_size)[::-1]")],
    "end_for_break": [('[self.special_id("[IMG_BREAK]")]', '[self.special_id("[IMG_END]")]')],
}


def spoilt(module: ModuleType, changes: list[tuple[str, str]], more: ModuleType | None = None) -> ModuleType:
    """A copy of a module, and of one more that imports from it, with replacements in their source."""
    source = inspect.getsource(module)
    if more is not None:
        source += re.sub(rf"(?m)^from {module.__name__} import .*\n", "", inspect.getsource(more))
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {module.__name__}"
        source = source.replace(old, new)
    copy = ModuleType(module.__name__)
    exec(compile(source, f"spoilt {module.__name__}", "exec"), copy.__dict__)
    return copy


def spoilt_tokenizer(tokenizer: tekken.TekkenTokenizer, changes: list[tuple[str, str]]):
    """A tokenizer of the same file, by a spoilt module."""
    image = (tokenizer.patch_size, tokenizer.max_image_size)
    return spoilt(tekken, changes).TekkenTokenizer(tokenizer._special, tokenizer._bytes, tokenizer._version, image)


def spoilt_chat(changes: list[tuple[str, str]]):
    """The function that encodes a chat, by a spoilt module."""
    copy = spoilt(chat, changes, chat_v3)
    return lambda messages, tokenizer, style="mistral": copy.encode_v3(copy.normalise(messages), tokenizer, style)
