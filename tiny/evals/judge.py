"""MM-MT-Bench has no right answers: a judge, another model, rates each answer from 1 to 10.

A judge is any server, or a file of what a judge has said, which gives the same numbers for ever and without a
network. It is asked at most three times for a rating. Then the rating is missing, and is counted as that; it is never
-1. Read `scores.py` next.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiny.config import TinyError
from tiny.evals import prompts, remote, run_folder, standing
from tiny.evals.clients import Failed, Reply, ask, data_url
from tiny.evals.items import image_names
from tiny.evals.lines import adding
from tiny.evals.ratings import FILE, FORMS, HEAD, digest, rating_of, read_judgements, settled
from tiny.evals.run import fill
from tiny.tools.terminal import check_numbers

MAX_TOKENS = 2048  # of what a judge says, as in the published kit
WAITS = (1.0, 2.0)  # seconds before a judge that failed is asked again, as there
TRIES = 3  # askings for one rating, unless another number is given
Judge = Callable[[Mapping[str, Any], str, str, int], Reply]  # request, prompt, answer, which asking -> what it says


def remote_judge(server: remote.Server, name: str, form: str, folder: Path | None) -> Judge:
    """A judge behind a server. folder: that of the items, if the judge is shown the pictures

    Source: mistral-evals d61811fc: messages, model, max_tokens, temperature, in this order
    """
    def judge(request: Mapping[str, Any], prompt: str, answer: str, asking: int) -> Reply:
        text = prompts.judge_message(request["messages"], request["references"], answer, form)
        content = [remote.picture(data_url(folder / one, "original"))
                   for one in image_names(request["messages"])] if folder else []
        messages = [{"role": "system", "content": prompts.JUDGE_SYSTEM},
                    {"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        body = {"messages": messages, "model": name, "max_tokens": MAX_TOKENS, "temperature": 0.0}
        return remote.reply_of(server, body)

    return judge


def recorded_judge(file: Path) -> tuple[dict[str, Any], Judge]:
    """What a file of judgements holds: its head, and the judge that says it all again."""
    head, known = read_judgements(file)

    def judge(request: Mapping[str, Any], prompt: str, answer: str, asking: int) -> Reply:
        line = known.get((prompt, request["id"]))
        if line is None or line["answer"] != digest(answer):
            raise Failed(f"{file.name} has no judgement of this answer to {request['id']}")
        if asking >= len(line["replies"]):
            raise Failed("nothing more is recorded")
        said = line["replies"][asking]
        if "error" in said:
            raise Failed(said["error"], again=asking + 1 < len(line["replies"]), wait=0)
        return Reply(said["text"], model=said.get("model"))

    return head, judge


def judge_run(run: run_folder.Run, head: dict[str, Any], judge: Judge, jobs: int = 1) -> None:
    """Have each answer of a run judged, and keep what the judge says as it comes. Nothing is judged twice; where the
    judge was out of order, it is asked again.

    Raises:  TinyError if another judge has judged here, or this one in another way
    """
    path, known = run.folder / FILE, dict[tuple[str, str], dict[str, Any]]()
    with adding(path) as add:
        if path.stat().st_size:
            found, known = read_judgements(path)
            if differs := run_folder.differences(found, head, HEAD.keys() - {"date"}):
                raise TinyError(f"{path} holds other judgements: {differs}.",
                                f"Rename {FILE} to keep it, or judge a copy of the run's folder.")
        else:
            add(head)
        asked = [(prompt, request, run.answers.get((prompt, request["id"]), {}).get("text"))
                 for prompt in run.prompts for request in run.requests]
        left = [(prompt, request, text) for prompt, request, text in asked
                if text is not None and not settled(known.get((prompt, request["id"]), {}), digest(text))]
        # The same outage once more is no news.
        fill(left, lambda one: judged(judge, head, *one), jobs,
             lambda line: None if line == known.get((line["prompt"], line["id"])) else add(line))


def judged(judge: Judge, head: Mapping[str, Any], prompt: str, request: Mapping[str, Any],
           answer: str) -> dict[str, Any]:
    """Ask for one rating, as often as it takes and at most `tries` times: all that was said, and the rating or None."""
    replies: list[dict[str, str]] = []

    def once(request: Mapping[str, Any]) -> float:
        try:
            said = judge(request, prompt, answer, len(replies))
        except Failed as failure:
            replies.append({"error": failure.cause})
            raise
        replies.append({"text": said.text} | ({"model": said.model} if said.model else {}))
        rating = rating_of(said.text, head["form"])
        if rating is None:
            raise Failed("no one rating", again=True, wait=0)
        return rating

    rating, _ = ask(once, request, head["tries"], waits=WAITS)
    return {"id": request["id"], "prompt": prompt, "answer": digest(answer), "replies": replies,
            "rating": None if isinstance(rating, str) else rating}


def command(args: argparse.Namespace) -> None:
    """The command `judge`: have answers rated."""
    check_numbers(args, {"tries": (1, 10), "jobs": (1, 256), "timeout": (0.01, 86400)})
    run = run_folder.read_run(args.run)
    if not run.task.judge:
        raise TinyError(f"{run.task.name} is not judged: its answers are right or wrong.",
                        "Score it: python -m tiny evals score RUN")
    given = {"form": args.prompt, "image": args.image and args.image == "yes", "tries": args.tries}
    given = {key: value for key, value in given.items() if value is not None}
    if found := remote.server_of(args.judge, args):
        head: dict[str, Any] = {"judge": found[1], "date": time.strftime("%Y-%m-%d"), "form": FORMS[0], "image": True,
                "tries": TRIES} | given
        asked = remote_judge(*found, head["form"], Path(run.head["folder"]) if head["image"] else None)
    else:
        head, asked = recorded_judge(Path(args.judge))
        if differs := [key for key, value in given.items() if value != head[key]]:
            raise TinyError(f"{args.judge} was recorded with another {' and '.join(differs)}.",
                            "Leave these options out: a recorded judge says what it said.")
    judge_run(run, head, asked, args.jobs)
    stands = list(standing.summary(run)["standing"].values())
    if "unrated" in stands[0] and not any(stand["rated"] for stand in stands):
        raise TinyError(f"No answer got a rating: {stands[0]['unrated']}.", "Correct that and give the same command "
                        f"again, which asks what failed. For another judge, rename {FILE} first.")
