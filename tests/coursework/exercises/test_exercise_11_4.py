"""Exercise 11.4, a detective case: one test for each idea. The right name is read from the book's file."""

import re

from tutorial import detectives as book
from tutorial.pack.kept import whole
from tutorial.source import source_of

NAMES = re.findall(r"^    (\w+)  +\w", source_of("tutorial/detectives.py:case_c").text, re.M)
TRUE = re.findall(r'^def case_c.*?^    return "(\w+)"', whole("tutorial/detectives.py"), re.M | re.S)


def test_it_is_one_of_the_names():
    name = book.case_c()
    assert name in NAMES, f"got {name!r}, expected one of {', '.join(NAMES)}"


def test_it_is_the_fault_of_this_kernel():
    name = book.case_c()
    assert name in TRUE, f"got {name}: a kernel with this fault is reported in other words"
