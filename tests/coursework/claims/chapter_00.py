"""Where the numbers in the prose of page 0 come from: there are none but small ones; the pictures compute theirs."""

NUMBERS: set[str] = set()
