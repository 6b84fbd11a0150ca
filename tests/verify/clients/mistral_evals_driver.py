"""Run mistral-evals as it is, and keep what it says about each item. This runs in its environment, not in ours.

    python mistral_evals_driver.py MODEL URL TASK OUT

The working directory holds the data, as folders named as on the Hub. OUT gets the scores that `eval.run` writes, and
`items.json`: of each item in the order of the data the answer and its scores. `eval.run` itself keeps no items that
have pictures.
"""

import json
import sys
from pathlib import Path

from eval import run


def main(model: str, url: str, name: str, out: str) -> None:
    tasks, get_task = [], run.get_task

    def watched(name: str):
        """The task, which numbers its items once they are loaded: answers come in any order."""
        task = get_task(name)
        load = task.load_eval

        def numbered():
            load()
            for number, item in enumerate(task.interactions):
                item.meta["number"] = number
        task.load_eval = numbered
        tasks.append(task)
        return task

    run.get_task = watched
    run.eval_vllm(model, url, name, out)
    items = sorted(tasks[0].interactions, key=lambda item: item.meta["number"])
    kept = [{"answer": item.model_answer, "scores": item.metrics, **item.meta} for item in items]
    (Path(out) / "items.json").write_text(json.dumps(kept), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
