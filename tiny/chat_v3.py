"""Chat messages to token ids, as Mistral's own library writes them for Pixtral (its format "V3").

Messages are checked and merged by `chat.py`. Here `[INST]` and `[/INST]` are control tokens, no space is added
anywhere, and the system prompt opens the last question. An image is a run of `[IMG]`, `[IMG_BREAK]` and `[IMG_END]`,
here of two rows of three patches:

    <s>[INST]question[/INST]answer</s>[INST]system prompt, blank line, [IMG][IMG][IMG][IMG_BREAK]
    [IMG][IMG][IMG][IMG_END]question[/INST]

Read `tekken.py` next.
"""

from typing import Any

from tiny.chat import BLANK_LINE, Turn, has_image


def encode_v3(turns: list[Turn], tokenizer: Any, style: str = "mistral") -> tuple[list[int], list]:
    """Write turns as Pixtral reads them; return the ids, and the preprocessed images in the order of their ids.

    style: "mistral" is what mistral-common writes today, "mistral-1.4" what it wrote when Pixtral was released: then
    the system prompt was joined to the text that follows, and answers kept the spaces at their end.

    Order:   BOS, then each turn. The system prompt opens the last user turn, which may precede a prefix. Texts and
             images keep their order, but see `image_first`. Spaces that end an answer are dropped; EOS closes it,
             unless it is a prefix for the model to continue.
    Raises:  TinyError for an image that cannot be read, or any image if the tokenizer has no image section
    Source:  mistral-common 1.13.1, instruct.py, InstructTokenizerV3; 1.4.4, sentencepiece.py, for the older rules
    Differs: "mistral-1.4" merges messages as 1.13.1 does, which drops empty texts; 1.4.4 keeps their blank lines
    """
    begin, end = tokenizer.special_id("[INST]"), tokenizer.special_id("[/INST]")
    last = max(number for number, turn in enumerate(turns) if turn.role == "user")
    ids, images, system = [tokenizer.bos_id], [], ""
    for number, (role, content, prefix) in enumerate(turns):
        if role == "system":
            system = "".join(content) + BLANK_LINE
        elif role == "assistant":
            text = "".join(content)
            ids += tokenizer.encode(text.rstrip(" ") if style == "mistral" else text)
            ids += [] if prefix else [tokenizer.eos_id]
        else:
            parts = image_first(content)
            ids.append(begin)
            for part in with_system(system, parts, style) if system and number == last else parts:
                if isinstance(part, str):
                    ids += tokenizer.encode(part)
                else:
                    tokens, pixels = tokenizer.encode_image(part["image"])
                    ids += tokens
                    images.append(pixels)
            ids.append(end)
    return ids, images


def image_tokens(columns: int, rows: int, img: int, image_break: int, image_end: int) -> list[int]:
    """Return the ids of an image of columns x rows patches. Its pixels are not needed.

    Order:   row by row, one `img` for each patch; each row ends with `image_break`, the last with `image_end` instead
    Source:  mistral-common 1.13.1, image.py, ImageEncoder
    """
    # (1) a break after each row of patches, (2) the end in the place of the last break
    return (([img] * columns + [image_break]) * rows)[:-1] + [image_end]


def image_first(content: list) -> list:
    """Move an image that follows a text to the front, if there is nothing else; all other orders stay.

    The source has this rule for an image after any number of texts, which merging has made one. Its older rule, for
    exactly two chunks, then does the same.
    """
    pair = len(content) == 2 and isinstance(content[0], str) and has_image(content)
    return content[::-1] if pair else content


def with_system(system: str, content: list, style: str) -> list:
    """Put the system prompt in front of the content of a turn.

    If the content is one text, both are joined and encoded together. If it holds an image, the newer rule encodes the
    system prompt by itself; the older one joins it to a text that comes first.
    """
    joined = not has_image(content) or style == "mistral-1.4" and isinstance(content[0], str)
    return [system + "".join(content[:1]), *content[1:]] if joined else [system, *content]
