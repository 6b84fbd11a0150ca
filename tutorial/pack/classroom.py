"""What GitHub Classroom reads: a workflow, and the older list of tests. Both run `tutorial.attempt`."""

import json

from tutorial.make_coursework import Exercise

MINUTES = 5  # of one exercise, kernels compiled
WORKFLOW, TESTS = ".github/workflows/classroom.yml", ".github/classroom/autograding.json"
SETUP = "python -m pip install --quiet -r requirements.txt"


def classroom(exercises: list[Exercise]) -> dict[str, bytes]:
    """Both files by path."""
    tests = [{"name": f"{e.id} {e.title}", "setup": SETUP, "run": command(e), "input": "", "output": "",
              "comparison": "included", "timeout": MINUTES, "points": e.points} for e in exercises]
    return {TESTS: (json.dumps({"tests": tests}, indent=2) + "\n").encode(), WORKFLOW: workflow(exercises).encode()}


def command(exercise: Exercise) -> str:
    """The command that ends with 0 if an exercise is right."""
    return f"python -m tutorial.attempt {exercise.id}"


def step_of(exercise: Exercise) -> str:
    """The name of an exercise's step."""
    return f"exercise-{exercise.id.replace('.', '-')}"


def workflow(exercises: list[Exercise]) -> str:
    """A step for each exercise, then one that reports all of them."""
    steps = "".join(f"""\
      - name: Exercise {e.id}
        id: {step_of(e)}
        uses: classroom-resources/autograding-command-grader@v1
        with:
          test-name: {json.dumps(f"{e.id} {e.title}")}
          command: {command(e)}
          timeout: {MINUTES}
          max-score: {e.points}
""" for e in exercises)
    results = "".join(f"          {step_of(e).upper()}_RESULTS: ${{{{ steps.{step_of(e)}.outputs.result }}}}\n"
                      for e in exercises)
    return f"""\
name: Exercises
on: [push, workflow_dispatch]
permissions:
  checks: write
  actions: read
  contents: read
jobs:
  exercises:
    runs-on: ubuntu-latest
    if: github.actor != 'github-classroom[bot]'
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Packages
        run: {SETUP}
{steps}\
      - name: Report
        uses: classroom-resources/autograding-grading-reporter@v1
        env:
{results}\
        with:
          runners: {",".join(map(step_of, exercises))}
"""
