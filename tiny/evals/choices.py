"""Tasks with choices: which ending of a context is the likeliest? All is done as lm-evaluation-harness does it.

A client gives the log-likelihood of each ending; nothing is generated and nothing is parsed. The text is encoded
without a BOS. Read `intervals.py` next.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tiny.config import TinyError
from tiny.evals.clients import Failed
from tiny.evals.items import Item
from tiny.evals.lines import Wrong, misfit
from tiny.evals.remote import Server, other_model
from tiny.generate import run_finite
from tiny.sampling import log_softmax
from tiny.system.reading import short

Row = Mapping[str, Any]
LARGEST = 1e9  # of a log-likelihood; neither infinity nor NaN may pass
SEED = 1234  # sent with every request, as lm-evaluation-harness does


class Likelihoods(NamedTuple):
    """The natural log-likelihood of each ending, and whether each of its tokens would have been the first choice; and
    which model answered, if it was another one than was asked for.
    """

    logprobs: list[float]
    greedy: list[bool]
    model: str | None = None


Scorer = Callable[[Item], Likelihoods]
Scored = tuple[float, bool, str | None]  # what Likelihoods has, of one ending


def hellaswag(row: Row) -> dict[str, Any]:
    """What happens next? The activity, then two parts of a text, the second beginning with a capital.

    Source: lm-evaluation-harness 0.4.13, lm_eval/tasks/hellaswag
    """
    second = row["ctx_b"].capitalize()  # which also makes all other letters small
    context = cleaned(f"{row['activity_label']}: {row['ctx_a']} {second}")
    return choice(context, [cleaned(ending) for ending in row["endings"]], "label", row["label"])


def cleaned(text: str) -> str:
    """Without the marks of WikiHow in brackets; [title] ends a sentence. Of blanks, pairs become one, once."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def arc(row: Row) -> dict[str, Any]:
    """A question of a school test; choices are a text each, and have labels, letters or digits.

    Source: lm-evaluation-harness 0.4.13, lm_eval/tasks/arc
    """
    labels, key = row["choices"]["label"], row["answerKey"]
    if key not in labels:
        raise Wrong("answerKey", f"{short(key)} is none of the labels {short(labels)}")
    return choice(f"Question: {row['question']}\nAnswer:", row["choices"]["text"], "answerKey", labels.index(key))


def mmlu(row: Row, examples: Sequence[Row] = ()) -> dict[str, Any]:
    """A question with four options, of which the letter is scored, after solved examples of the same subject.

    Source: lm-evaluation-harness 0.4.13, lm_eval/tasks/mmlu; examples are the first of the split `dev`
    """
    subject = row["subject"]
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    solved = [f"{mmlu_question(one)} {'ABCD'[int(one['answer'])]}\n\n" for one in examples if one["subject"] == subject]
    context = header + "".join(solved) + mmlu_question(row)
    return choice(context, list("ABCD"), "answer", row["answer"]) | {"category": subject}


def mmlu_question(row: Row) -> str:
    """A question with its options, up to the place of the letter."""
    if len(row["choices"]) != 4:
        raise Wrong("choices", f"there are {len(row['choices'])}, not 4")
    lines = (f"{letter}. {option}\n" for letter, option in zip("ABCD", row["choices"]))
    return f"{row['question'].strip()}\n{''.join(lines)}Answer:"


def choice(context: str, endings: list[str], column: str, answer: Any) -> dict[str, Any]:
    """The fields of an item; the answer is a number, perhaps as a text. Raises Wrong if it is none of the endings."""
    number = int(answer) if re.fullmatch(r"[0-9]{1,3}", str(answer)) else -1
    if not 0 <= number < len(endings):
        raise Wrong(column, f"{short(answer)} is none of {len(endings)} endings, counted from 0")
    return {"context": context, "endings": endings, "answer": number}


def pairs(item: Item) -> list[tuple[str, str]]:
    """Each context and ending to score: a blank stands between them; blanks that end a context belong to the ending."""
    context, endings = item.context or "", item.endings or []
    kept = context.rstrip()
    return [(kept, f"{context[len(kept):]} {ending}") for ending in endings]


def split_ids(encode: Callable[[str], list[int]], context: str, ending: str) -> tuple[list[int], list[int]]:
    """The tokens of a context and of its ending, encoded as one text, because a token may reach over the border."""
    whole, start = encode(context + ending), len(encode(context))
    return whole[:start], whole[start:]


def score(likelihoods: Sequence[float], endings: Sequence[str], answer: int) -> dict[str, float]:
    """1 if the right ending is the likeliest: acc by its log-likelihood, acc_norm by that per character.

    The first of several equal ones counts. The blank before an ending is no character of it.

    Source: lm-evaluation-harness 0.4.13, api/task.py
    """
    each = [value / len(ending) for value, ending in zip(likelihoods, endings, strict=True)]
    return {name: float(max(range(len(values)), key=values.__getitem__) == answer)
            for name, values in (("acc", likelihoods), ("acc_norm", each))}


def local_likelihoods(model: Any) -> Scorer:
    """A model in this process."""
    lock = threading.Lock()

    def one(before: list[int], after: list[int]) -> Scored:
        ids = before + after
        if not before or not after or len(ids) > model.config.max_seq_len:
            raise Failed(f"the context has {len(before):,} tokens, the ending {len(after):,}; the model takes 1 to "
                         f"{model.config.max_seq_len:,} together")
        with lock:
            # All ids run, as in a server: another number of rows, and BLAS would add in another order.
            rows = run_finite(model, ids)[len(before) - 1 : -1]
        chosen = log_softmax(rows)[range(len(after)), after]
        return float(chosen.sum()), bool((rows.argmax(axis=1) == after).all()), None

    return scorer(model.tokenizer.encode, one)


def scorer(encode: Callable[[str], list[int]], one: Callable[[list[int], list[int]], Scored]) -> Scorer:
    """A scorer of items from what scores one pair of tokens."""
    def all_endings(item: Item) -> Likelihoods:
        logprobs, greedy, models = zip(*(one(*split_ids(encode, *pair)) for pair in pairs(item)))
        return Likelihoods(list(logprobs), list(greedy), next(filter(None, models), None))

    return all_endings


def remote_likelihoods(server: Server, name: str) -> Scorer:
    """A model behind a server that can repeat a prompt with its log-probabilities (`echo`), as vLLM's and ours can.

    Source: lm-evaluation-harness 0.4.13, local-completions: the prompt as ids, one new token, echo and logprobs
    """
    def encode(text: str) -> list[int]:
        said = server.call("POST", "/tokenize", {"prompt": text, "add_special_tokens": False})
        if bad := misfit(said, {"tokens": list, ...: object}):
            raise TinyError(f"{server.address}/tokenize did not give tokens but {bad}.",
                            "Use a server that has /tokenize, as `python -m tiny serve` and vLLM do.")
        return said["tokens"]

    def one(before: list[int], after: list[int]) -> Scored:
        body = {"model": name, "prompt": [before + after], "temperature": 0, "max_tokens": 1, "logprobs": 1,
                "seed": SEED, "echo": True}
        logprobs, tops, model = echoed(server, body, len(before) + len(after))
        span = slice(len(before), len(before) + len(after))
        return float(sum(logprobs[span])), all(
            value >= max(top.values()) for value, top in zip(logprobs[span], tops[span])), model

    return scorer(encode, one)


def echoed(server: Server, body: dict[str, Any],
           tokens: int) -> tuple[list[float], list[dict[str, float]], str | None]:
    """The log-probability of every token of a prompt, the best ones beside it, and the model if it is another one.

    A server that ignores `echo` sends one entry, and every choice would look alike: that must not pass as chance.
    """
    said = server.call("POST", "/v1/completions", body)
    try:
        found = said["choices"][0]["logprobs"]
        logprobs, tops = found["token_logprobs"], found["top_logprobs"]
        whole = len(logprobs) == len(tops) == tokens + 1 and all(
            isinstance(one, int | float) and -LARGEST < one < LARGEST and isinstance(top, dict) and top
            for one, top in zip(logprobs[1:], tops[1:]))
    except (TypeError, KeyError, IndexError):
        whole = False
    if not whole:
        raise TinyError(f"{server.address} did not repeat the {tokens:,} tokens of the prompt with log-probabilities.",
                        "Use a server whose /v1/completions has echo with logprobs, as `python -m tiny serve`.")
    return logprobs, tops, other_model(server, body, said)
