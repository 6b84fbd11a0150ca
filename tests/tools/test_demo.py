"""`make demo` prints what the README shows of it."""

from tutorial.pages.demo_record import RECORD, demo_text


def test_the_demonstration_prints_what_the_readme_shows():
    assert demo_text() == RECORD.read_text(encoding="utf-8"), "run python -m tutorial.pages.demo_record"
