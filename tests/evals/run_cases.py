"""Run a file of cases of the published metrics: python tests/evals/run_cases.py FILE prints each case that disagrees.

The form is that of `metric_cases.json` beside this file: expected values come from the code of mistral-evals itself,
and {"error": NAME} is an exception that it raises.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny.evals import metrics, prompts, ratings, rows, scores
from tiny.evals.items import add_prompt
from tiny.evals.run_folder import Run
from tiny.evals.tasks import TASKS

SCORES = ("relaxed_correctness", "explicit_prompt_relaxed_correctness", "anywhere_in_answer_relaxed_correctness",
          "anls", "vqa_match")
NEAR = 1e-9  # between floats


def attempt(work: Callable[[], Any]) -> Any:
    """What some work gives; for an exception its name, with those of its bases and of its cause."""
    try:
        return work()
    except Exception as error:
        kinds = [*type(error).__mro__, *(type(error.__cause__).__mro__ if error.__cause__ else ())]
        return {"error": {kind.__name__ for kind in kinds} - {"Exception", "BaseException", "object"}}


def metric_of(name: str) -> metrics.Metric:
    """A metric as published: where the code raises an exception, so does this."""
    return metrics.anywhere if name == "anywhere_in_answer_relaxed_correctness" else metrics.METRICS[name]


def string_metrics(case: dict) -> dict[str, Any]:
    found = {name: attempt(lambda name=name: metric_of(name)(case["model_answer"], case["reference_answer"]))
              for name in SCORES}
    return {"parsed_final_answer": metrics.final_answer(case["model_answer"])} | found


def judge_rating(case: dict) -> dict[str, Any]:
    rating = attempt(lambda: ratings.read_rating(case["judgement"]))
    return {"rating": -1 if rating is None else rating}  # what is missing here is -1 there


def judge_aggregate(case: dict) -> dict[str, Any]:
    """The averages of a run that has these ratings, by the names of the released code, which counts turns from 0."""
    requests = [{"id": str(n), "item": str(n), "category": row["category"], "turn": row["turn"]}
                for n, row in enumerate(case["rows"])]
    ratings = {str(n): row["score"] for n, row in enumerate(case["rows"])}
    run = Run(Path(), {"task": "mm_mt_bench"}, requests, {})
    found = {row["measure"]: row["value"] for row in scores.rows_of(run, "", {scores.RATED: ratings}, None)}
    return {"micro_average_score": found.pop("mean over turns"), "macro_average_score": found.pop("mean as released"),
            **{f"{name.removeprefix('category ')}_average": value for name, value in found.items()
               if name.startswith("category ")},
            **{f"{int(name.removeprefix('turn ')) - 1}_average": value for name, value in found.items()
               if name.startswith("turn ")}}


def mmmu_request(case: dict) -> dict[str, Any]:
    row = case["row"] | {f"image_{n}": f"IMG{n}" for n in range(1, 8)}
    message = add_prompt({"role": "user", "content": rows.mmmu_content(row)}, "{PROMPT}")
    return {"content": message["content"], "reference_answer": rows.mmmu_references(row),
            "max_tokens": TASKS["mmmu"].max_tokens, "temperature": 0.0}


def mathvista_reference(case: dict) -> dict[str, Any]:
    return {"reference_answer": rows.mathvista_reference(case["row"])}


def judge_prompt(case: dict) -> dict[str, Any]:
    forms = {"published_prompt": "published", "prompt_when_called_with_content_lists": "repaired"}
    return {key: [{"type": "text", "text": prompts.judge_message(
        case["messages"], case["reference_answer"], case["model_answer"], form)}] for key, form in forms.items()}


def task_mean(case: dict) -> dict[str, Any]:
    found = [metric_of(case["metric"])(pair["model_answer"], pair["reference_answer"])
              for pair in case["pairs"]]
    return {case["metric"]: sum(found) / len(found)}


KINDS = {work.__name__: work for work in (string_metrics, judge_rating, judge_aggregate, mmmu_request,
                                          mathvista_reference, judge_prompt, task_mean)}


def same(found: Any, expected: Any) -> bool:
    """Whether a value is the expected one: floats nearly, all else exactly, and of errors one of the names."""
    if isinstance(expected, dict):
        if isinstance(found, dict) and isinstance(found.get("error"), set):
            return expected.get("error") in found["error"]
        return isinstance(found, dict) and found.keys() == expected.keys() and all(
            same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        return abs(found - expected) <= NEAR
    return type(found) is type(expected) and found == expected


def disagreements(cases: list[dict]) -> list[str]:
    """A line for each case that disagrees: its id, and what was found and expected where they differ."""
    lines = []
    for case in cases:
        found = attempt(lambda case=case: KINDS[case["kind"]](case))
        expected = case["expected"]
        if not same(found, expected):
            keys = [key for key in expected if not isinstance(found, dict) or key not in found
                    or not same(found[key], expected[key])] or sorted(found)
            lines.append(f"{case.get('id')} {case['kind']} ({case.get('tag')}): " + "; ".join(
                f"{key}: {found.get(key, found)!r}, expected {expected.get(key)!r}" for key in keys))
    return lines


def main(argv: list[str]) -> int:
    cases = json.loads(Path(argv[0]).read_text(encoding="utf-8"))["cases"]
    lines = disagreements(cases)
    for line in lines:
        print(line)
    print(f"{len(cases) - len(lines)} of {len(cases)} agree")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
