"""Put a task to a model and keep each answer as it comes, so that a run can be killed at any moment and go on.

Nothing that was answered is asked twice, and neither the kill nor the number of jobs changes a score. Read
`ratings.py` next.
"""

import argparse
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from tqdm import tqdm

import tiny
from tiny.config import TinyError
from tiny.evals import choices, clients, prompts, remote, run_folder, standing
from tiny.evals.items import Item, read_items, requests
from tiny.evals.lines import adding
from tiny.evals.tasks import TASKS, Task, find_task
from tiny.tools.session import load_weights
from tiny.tools.terminal import check_numbers, note

NEWS = 30.0  # seconds between two lines of progress where no terminal shows it


def work_through(entries: Iterable, work: Callable[[Any], dict], jobs: int, keep: Callable[[dict], None]) -> None:
    """Do the same to every entry, several at a time, and keep each result before the next entry is begun in its place:
    a kill loses no more results than there are jobs. After an error nothing more is begun, what is on its way is waited
    for, and then the error is raised.
    """
    waiting, stop, turn, errors = iter(entries), threading.Event(), threading.Lock(), list[BaseException]()

    def worker() -> None:
        while not stop.is_set():
            with turn:
                entry = next(waiting, stop)
            if entry is stop:
                break
            try:
                result = work(entry)
                with turn:
                    keep(result)
            except BaseException as error:
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def fill(left: Sequence, work: Callable[[Any], dict], jobs: int, add: Callable[[Mapping[str, Any]], None],
         done: int = 0, failed: int = 0) -> None:
    """Do what is left, and keep each line that it makes. A line with an error, or without its rating, has failed.

    How far it is, and the time left, is shown on standard error; where that is no terminal, now and then.
    """
    seldom = 0.1 if sys.stderr.isatty() else NEWS
    with tqdm(total=done + len(left), initial=done, desc="asking", unit=" answers", leave=False, mininterval=seldom,
              delay=0.0 if sys.stderr.isatty() else seldom) as bar:
        def keep(line: dict[str, Any]) -> None:
            nonlocal failed
            add(line)
            failed += "error" in line or line.get("rating", 0) is None
            bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
            bar.update()

        work_through(left, work, min(jobs, len(left)), keep)


def go_on(out: Path, head: dict[str, Any], asked: Sequence[tuple[str, Item, Any]], answering: Mapping[str, Any],
          jobs: int = 1, again: bool = False) -> run_folder.Run:
    """Begin a run or go on with it: ask what was not yet asked, and with `again` also what failed.

    asked: the name of a prompt, an item and a request; of a task with choices the item is the request
    answering: who answers to each prompt
    """
    task, first = TASKS[head["task"]], asked[: head["requests"]]
    run_folder.begin(out, head, (run_folder.needed_for_scores(task, item, request) for _, item, request in first))

    def answered(entry: tuple[str, Item, Any]) -> dict[str, Any]:
        prompt, _, request = entry
        reply, tries = clients.ask(answering[prompt], request)
        said = {"error": reply} if isinstance(reply, str) else {
            key: value for key, value in reply._asdict().items() if key != "model" or value}
        return {"id": request.id, "prompt": prompt, **said, "tries": tries}

    with adding(out / "answers.jsonl") as add:
        done = run_folder.answers_of(out, head, {request.id for _, _, request in asked})
        if again:
            done = {key: line for key, line in done.items() if "error" not in line}
        left = [entry for entry in asked if (entry[0], entry[2].id) not in done]
        fill(left, answered, jobs, add, len(done), sum("error" in line for line in done.values()))
    return run_folder.read_run(out)


def model_of(args: argparse.Namespace, task: Task, names: Sequence[str],
             ids: Set[str]) -> tuple[dict[str, str], dict[str, clients.Client | choices.Scorer]]:
    """What `run.json` says of the model of a command, and for each prompt the client that asks it. ids: of all requests
    """
    path = Path(args.model)
    client: clients.Client | choices.Scorer
    if found := remote.server_of(args.model, args):
        server, name = found
        client = choices.remote_likelihoods(*found) if task.choices else remote.url(*found, args.folder, args.images)
        return {"kind": "server", "name": name, "address": server.address}, dict.fromkeys(names, client)
    if path.suffix == ".jsonl":
        known = clients.read_recorded(path, names)
        if others := [line for _, line in known if line not in ids]:
            note(f"{path.name} has {standing.counted(len(others), 'answer')} to nothing that is asked here, such as "
                 f"{others[0]}")
        return ({"kind": "recorded", "name": args.name or path.name, "sha256": run_folder.file_hash(path)},
                {prompt: clients.recorded(known, path.name, prompt) for prompt in names})
    model: Any = tiny.load(args.model)
    model.tokenizer  # noqa: B018  fail now if there is none
    load_weights(model, 1)
    client = choices.local_likelihoods(model) if task.choices else clients.local(model, args.folder, args.images)
    return ({"kind": "local", "name": args.name or path.resolve().name,
             "sha256": run_folder.checkpoint_hash(model.checkpoint)}, dict.fromkeys(names, client))


def command(args: argparse.Namespace) -> None:
    """The command `run`: ask, or go on asking."""
    check_numbers(args, {"limit": (1, 1 << 40), "jobs": (1, 256), "timeout": (0.01, 86400)})
    task, items = read_items(args.folder)
    if task is not find_task(args.task):
        raise TinyError(f"{args.folder} holds items of {task.name}, not of {args.task}.", f"Run {task.name} with it.")
    if task.choices and args.images != "original":
        raise TinyError(f"{task.name} has no pictures, and --images {args.images} would change nothing.",
                        "Leave --images out.")
    texts = prompts.prompts_of(task, args.prompt)
    every = {request.id for item in items for request in ([item] if task.choices else requests(task, item, ""))}
    asked = [(prompt, item, request) for prompt, text in texts.items() for item in items[: args.limit]
             for request in ([item] if task.choices else requests(task, item, text))]
    model, answering = model_of(args, task, list(texts), every)
    head = run_folder.head_of(task, args.folder, texts, args.images, args.limit, model, len(asked) // len(texts))
    found = go_on(args.out, head, asked, answering, args.jobs, args.again)
    stands = {prompt: standing.standing(found, prompt) for prompt in found.prompts}
    for prompt, stand in stands.items():
        print(f"{prompt}: {standing.in_words(stand)}")
    if not any(stand["answered"] for stand in stands.values()):
        raise TinyError(f"Nothing was answered: {stands[found.prompts[0]]['why']}.",
                        "Correct that, and give the same command with --again, or another --model and a new --out.")
    print(f"next: python -m tiny evals {'judge' if task.judge else 'score'} {args.out}" +
          " --judge URL" * task.judge, file=sys.stderr)
