"""Grading submissions: `python -m tutorial.grader`."""
