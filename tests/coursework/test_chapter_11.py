"""What chapter 11 counts, counted again."""

from emulator_case import needs_compiler

from tutorial.drawings import stages


@needs_compiler
def test_the_record_is_what_the_emulator_counts():
    assert stages.count() == stages.read()
