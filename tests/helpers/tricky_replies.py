"""300 replies that a parser or a metric may get wrong, with the answers that are accepted; also as rows of the Hub.

Twenty ways to say an answer, each with fifteen answers that are right, nearly right or wrong in some odd way.
"""

import json

import numpy as np
from hub_files import stored, votes

# How an answer is said; {} stands for it.
WAYS = (
    "{}", "Final Answer: {}", "final answer:{}", "FINAL ANSWER: {}", "**Final Answer:** {}", "**Answer**: {}",
    "**Answer** {}", "# Answer\n\n{}", "Answer: wrong\nFinal Answer: {}", "Final Answer: {}\n\nAnswer: wrong",
    "The answer is {}. Final Answer:", "Final Answer:\n\n  \n *{}*\nmore words", "It was {}, and there are {}.",
    "Final Answer: ({})", "Final Answer: <{}>", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}" * 3 + " Final Answer: {}",
    "\u00a0Final Answer: \u2028{}\r\n", "Final\tAnswer : {}", "I think\n\n{}", "the final answer: is {}.\x00\U0001f642")
# What is said, and what is accepted.
SAID = (
    ("105", ["100"]), ("1.05", ["1.0"]), ("45%", ["0.45"]), ("$1,234.50", ["1234.5"]), ("Yes.", ["Yes", "yes"]),
    ("'Paris'", ["Paris", "paris", "Paris"]), ("B", ["B"]), ("because", ["B", "b"]), ("net_income", ["net_income"]),
    ("", ["", "nothing"]), ("1:4", ["0.25", "1:4"]), ("6000", ["6", "600"]), ("-0", ["0"]),
    ("stra\u00dfe \u0130", ["STRASSE \u0130", "stra\u00dfe \u0130"]), ("\uff11\uff12", ["12", "nan"]))


def tricky() -> list[tuple[str, list[str]]]:
    """The replies with their accepted answers."""
    return [(way.replace("{}", said), accepted) for way in WAYS for said, accepted in SAID]


def tricky_rows() -> dict[str, list[dict]]:
    """A row for each reply in each data set. The question names the reply, so that a server can give it."""
    rows: dict[str, list[dict]] = {task: [] for task in ("vqav2", "docvqa", "chartqa", "mathvista", "mmmu",
                                                         "mm_mt_bench")}
    rng = np.random.default_rng(0)
    for number, (_, accepted) in enumerate(tricky()):
        text, name = f"What is it? (item {number})", ("noise.png", "noise.jpg")[number % 2]
        picture = stored(rng.integers(0, 256, (16, 24, 3), np.uint8), name)
        ten = [accepted[place % len(accepted)] for place in range(10)]
        rows["vqav2"].append({"question": text, "image": picture, "answers": votes(ten), "question_id": number})
        rows["docvqa"].append({"question": text, "image": picture, "answers": accepted, "questionId": str(number)})
        rows["chartqa"].append({"question": text, "image": picture, "answer": accepted[0], "type": "human_test"})
        rows["mathvista"].append({"query": text, "decoded_image": picture, "answer": accepted[0], "pid": str(number)})
        rows["mmmu"].append({"question": f"<image 1> {text}", "image_1": picture, "answer": str(accepted),
                             "options": "[]", "question_type": "open", "id": f"validation_Tricky_{number}"})
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
                    {"role": "assistant", "content": [{"type": "text", "text": accepted[0]}]}]
        rows["mm_mt_bench"].append({"image": picture, "category": ("charts", "tables")[number % 2],
                                    "conversation": json.dumps(messages)})
    return rows
