"""Classic wrong ways to write a chat for Pixtral, which stored ids of the reference must refuse.

A mutant puts a wrong function in the place of one of `tiny.chat` or `tiny.chat_v3`.
"""

from tiny import chat, chat_v3
from tiny.chat import Turn, has_image


def spoil(patch, name, make):
    """Replace a function of `chat_v3`: make(the right one) is the wrong one."""
    patch.setattr(chat_v3, name, make(getattr(chat_v3, name)))


# ---- system prompts


def prompt_before(patch, chosen):
    """Put the system prompt before other questions: chosen(number of a question, from 0) says which.

    The turns are encoded one by one: a question alone is the last one, and gets the prompt if it is handed over.
    """
    def make(right):
        def wrong(turns, tokenizer, style="mistral"):
            prompts = [turn for turn in turns if turn.role == "system"]
            ids, images, number = [tokenizer.bos_id], [], 0
            for turn in turns[len(prompts):]:
                if turn.role == "user":
                    more, pixels = right([*(prompts if chosen(number) else []), turn], tokenizer, style)
                    ids += more[1:]  # without BOS
                    number += 1
                else:
                    more, pixels = right([Turn("user", []), turn], tokenizer, style)
                    ids += more[3:]  # without BOS and the empty question
                images += pixels
            return ids, images
        return wrong
    spoil(patch, "encode_v3", make)


def system_prompt_in_the_first_turn(patch):
    prompt_before(patch, lambda number: number == 0)


def system_prompt_in_every_turn(patch):
    prompt_before(patch, lambda number: True)


def no_blank_line_after_the_system_prompt(patch):
    patch.setattr(chat_v3, "BLANK_LINE", "")


def system_prompt_joined_to_text_before_an_image(patch):
    spoil(patch, "with_system", lambda right: lambda system, content, style: right(system, content, "mistral-1.4"))


def system_prompt_encoded_by_itself_before_text(patch):
    patch.setattr(chat_v3, "with_system", lambda system, content, style: [system, *content])


def system_prompt_behind_the_first_image(patch):
    spoil(patch, "with_system", lambda right: lambda system, content, style: (
        [*content[:1], system, *content[1:]] if has_image(content) else right(system, content, style)))


def system_prompt_by_itself_in_the_older_style(patch):
    spoil(patch, "with_system", lambda right: lambda system, content, style: right(system, content, "mistral"))


# ---- images


def text_before_its_image(patch):
    patch.setattr(chat_v3, "image_first", lambda content: content)


def every_image_first(patch):
    patch.setattr(chat_v3, "image_first", lambda content: sorted(content, key=lambda part: isinstance(part, str)))


def image_before_any_text_behind_which_it_stands(patch):
    patch.setattr(chat_v3, "image_first", lambda content: (
        content[::-1] if content and isinstance(content[0], str) and has_image(content) else content))


# ---- answers, begin and end


def with_turns(patch, change):
    """Change every turn before it is written."""
    spoil(patch, "encode_v3", lambda right: lambda turns, *rest: right([change(turn) for turn in turns], *rest))


def with_texts(patch, role, change):
    """Change every text of one role."""
    with_turns(patch, lambda turn: turn if turn.role != role else turn._replace(
        content=[change(part) if isinstance(part, str) else part for part in turn.content]))


def spaces_of_answers_kept(patch):
    """Answers as in the older style, and all else as in the newer."""
    system_prompt_by_itself_in_the_older_style(patch)
    spoil(patch, "encode_v3", lambda right: lambda turns, tokenizer, style: right(turns, tokenizer, "mistral-1.4"))


def line_ends_of_answers_dropped(patch):
    with_texts(patch, "assistant", str.rstrip)


def answers_stripped_in_front(patch):
    with_texts(patch, "assistant", lambda text: text.lstrip(" "))


def answers_stripped_in_the_older_style(patch):
    with_texts(patch, "assistant", lambda text: text.rstrip(" "))


def end_after_a_prefix(patch):
    with_turns(patch, lambda turn: turn._replace(prefix=False))


def no_end_after_answers(patch):
    with_turns(patch, lambda turn: turn._replace(prefix=True))


def with_ids(patch, change):
    """Change the ids of a chat: change(ids, tokenizer)."""
    def make(right):
        def wrong(turns, tokenizer, *rest):
            ids, images = right(turns, tokenizer, *rest)
            return change(ids, tokenizer), images
        return wrong
    spoil(patch, "encode_v3", make)


def no_begin(patch):
    with_ids(patch, lambda ids, tokenizer: ids[1:])


def begin_before_every_turn(patch):
    with_ids(patch, lambda ids, tokenizer: [
        part for id in ids for part in ([tokenizer.bos_id, id] if id == tokenizer.special_id("[INST]") else [id])])


# ---- texts


def spaces_inside_the_brackets(patch):
    with_texts(patch, "user", lambda text: " " + text)


def texts_joined_by_a_space(patch):
    patch.setattr(chat, "BLANK_LINE", " ")


def empty_texts_kept(patch):
    def merge(chunks):
        content = []
        for chunk in chunks:
            if chunk["type"] == "text" and content and isinstance(content[-1], str):
                content[-1] += chat.BLANK_LINE + chunk["text"]
            else:
                content.append(chunk["text"] if chunk["type"] == "text" else chunk)
        return content
    patch.setattr(chat, "merge", merge)


CHAT = (system_prompt_in_the_first_turn, system_prompt_in_every_turn, no_blank_line_after_the_system_prompt,
        system_prompt_joined_to_text_before_an_image, system_prompt_encoded_by_itself_before_text,
        system_prompt_behind_the_first_image, text_before_its_image, every_image_first,
        image_before_any_text_behind_which_it_stands, spaces_of_answers_kept, line_ends_of_answers_dropped,
        answers_stripped_in_front, end_after_a_prefix, no_end_after_answers, no_begin, begin_before_every_turn,
        spaces_inside_the_brackets, texts_joined_by_a_space, empty_texts_kept)
OLD_CHAT = (system_prompt_by_itself_in_the_older_style, answers_stripped_in_the_older_style)
