"""The chat templates that a server may use instead of the model's own: each is a few short texts.

A template says how a question, an answer and the system prompt are written. `{bos}` and `{eos}` are ids, and so are
`{INST}` and `{END}`, the control tokens of Pixtral's tokenizer. The texts between ids are encoded one by one, as
engines do it, and SentencePiece puts a space before each; `{glue}` takes that space away. Read `chat.py` next.
"""

import re
from typing import Any, NamedTuple

from tiny.chat import normalise
from tiny.tekken import TekkenTokenizer

# What stands for an id while a chat is one text: characters for private use, which are in no chat of ours.
MARKS = {"bos": "\ue000", "eos": "\ue001", "INST": "\ue002", "END": "\ue003", "glue": "\ue004"}


class Template(NamedTuple):
    """How the turns of a chat are written.

    question, answer: with {text}; end: what follows the last question; start: what precedes everything
    system: the system prompt, with {text}; place: "first" and "last" put it inside of that question, "before" in front
    of all, "" leaves it out; last: whether only the last question is written
    opening: with {system} and {text}, what stands in the place of start and first question if there is a system prompt
    """

    name: str
    question: str
    answer: str
    system: str = "{text}\n\n"
    place: str = "first"
    start: str = "{bos}"
    end: str = ""
    last: bool = False
    opening: str = ""


V1 = Template("", "[INST] {text} [/INST]", " {text}{eos}")
V3 = Template("", "{INST}{text}{END}", "{text}{eos}", place="last")
IM = "<|im_start|>{role}\n{{text}}<|im_end|>\n"
PLAIN = (
    Template("no template, the texts alone", "{text}\n\n", "{text}\n\n"),
    Template("ChatML, llama.cpp's default for a file without a template", IM.format(role="user"),
             IM.format(role="assistant"), IM.format(role="system"), "before", end="<|im_start|>assistant\n"),
    Template("Llama-2 as llama-cpp-python writes it for a file without a template", "{bos}[INST]{text}  ",
             "[/INST]{text} {eos}", place="", start="{bos} ", end="[/INST]",
             opening="{bos}[INST] <<SYS>>\n{system}\n<</SYS>> {text} "),
    Template("mlx-lm's default for a model without a template", "USER: {text}\n", "ASSISTANT: {text}\n",
             "ASSISTANT's RULE: {text}\n", "before", end="ASSISTANT:"),
    Template("Llama-2 with its marks of a system prompt", "[INST] {text} [/INST]", " {text} {eos}{bos}",
             "<<SYS>>\n{text}\n<</SYS>>\n\n"),
    Template("Llama-2 with an empty system prompt", "[INST] <<SYS>>\n\n<</SYS>>\n\n{text} [/INST]", " {text}{eos}"),
    Template("Alpaca", "### Instruction:\n{text}\n\n### Response:\n", "{text}\n\n", "{text}\n\n", "before"),
    Template("Vicuna", "USER: {text} ASSISTANT:", " {text}{eos}", "{text} ", "before"),
    Template("Zephyr", "<|user|>\n{text}{eos}\n", "<|assistant|>\n{text}{eos}\n", "<|system|>\n{text}{eos}\n",
             "before", end="<|assistant|>\n"),
    Template("the name of the role before each text", "user: {text}\n", "assistant: {text}\n", "system: {text}\n",
             "before", end="assistant:"),
)
OF_V1 = (
    V1._replace(name="BOS twice", start="{bos}{bos}"),
    V1._replace(name="no BOS", start=""),
    V1._replace(name="a second space before [INST]", question=" [INST] {text} [/INST]"),
    V1._replace(name="no space before the first [INST]", start="{bos}{glue}"),
    V1._replace(name="no spaces inside of [INST] and [/INST]", question="[INST]{text}[/INST]"),
    V1._replace(name="V3, with no space before [/INST]", question="[INST] {text}[/INST]"),
    V1._replace(name="a space after [/INST]", question="[INST] {text} [/INST] ", answer="{text}{eos}"),
    V1._replace(name="a line break after [/INST]", question="[INST] {text} [/INST]\n", answer="{text}{eos}"),
    V1._replace(name="no space before an answer", answer="{text}{eos}"),
    V1._replace(name="no EOS after an answer", answer=" {text}"),
    V1._replace(name="BOS before each question", question="{bos}[INST] {text} [/INST]", start=""),
    V1._replace(name="the system prompt is left out", place=""),
    V1._replace(name="the system prompt in the last question", place="last"),
    V1._replace(name="only the last question is seen", last=True),
)
OF_V3 = (
    V3._replace(name="BOS twice", start="{bos}{bos}"),
    V3._replace(name="no BOS", start=""),
    V3._replace(name="spaces inside of [INST] and [/INST]", question="{INST} {text} {END}"),
    V3._replace(name="a space after [INST]", question="{INST} {text}{END}"),
    V3._replace(name="a space after [/INST]", question="{INST}{text}{END} "),
    V3._replace(name="a space before an answer", answer=" {text}{eos}"),
    V3._replace(name="[INST] and [/INST] as text, not as control tokens", question="[INST]{text}[/INST]"),
    V1._replace(name="V1, with [INST] and [/INST] as text and spaces"),
    V3._replace(name="no EOS after an answer", answer="{text}"),
    V3._replace(name="BOS before each question", question="{bos}{INST}{text}{END}", start=""),
    V3._replace(name="the system prompt is left out", place=""),
    V3._replace(name="the system prompt in the first question", place="first"),
    V3._replace(name="only the last question is seen", last=True),
)


def templates_of(tokenizer: Any) -> tuple[Template, ...]:
    """The templates that may stand in the place of the right one."""
    return (OF_V3 if isinstance(tokenizer, TekkenTokenizer) else OF_V1) + PLAIN


def write(template: Template, messages: list[dict], tokenizer: Any) -> list[int]:
    """Write a chat as a template has it.

    Raises:  TinyError for malformed messages, or an image
    """
    turns = normalise(messages)
    systems = ["".join(turn.content) for turn in turns if turn.role == "system"]
    turns = [turn for turn in turns if turn.role != "system"][-1 if template.last else 0:]
    holder = {"first": 0, "last": len(turns) - 1}.get(template.place)
    before = [template.system.format(text=text, **MARKS) for text in systems if template.place]
    parts = [template.start.format(**MARKS), *(before if template.place == "before" else [])]
    if template.opening and systems:
        text = "".join(turns.pop(0).content)
        parts = [template.opening.format(system="".join(systems), text=text, **MARKS)]
    for number, turn in enumerate(turns):
        text = "".join([*(before if number == holder else []), *turn.content])
        parts.append((template.question if turn.role == "user" else template.answer).format(text=text, **MARKS))
    return encode("".join(parts) + template.end.format(**MARKS), tokenizer)


def encode(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text with marks: what stands between two of them is encoded by itself."""
    ids: list[int] = []
    for part in re.split(r"([\ue000-\ue003])", text):
        if part == MARKS["bos"]:
            ids.append(tokenizer.bos_id)
        elif part == MARKS["eos"]:
            ids.append(tokenizer.eos_id)
        elif part in (MARKS["INST"], MARKS["END"]):
            ids.append(tokenizer.special_id("[INST]" if part == MARKS["INST"] else "[/INST]"))
        elif part.startswith(MARKS["glue"]):  # behind a line break nothing is put before a text
            ids += tokenizer.encode("\n" + part[1:])[len(tokenizer.encode("\n")):]
        elif part:
            ids += tokenizer.encode(part)
    return ids
