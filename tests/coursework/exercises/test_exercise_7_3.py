"""Exercise 7.3, the ids of an image: one test for each idea, on grids that can be checked by hand."""

from compare import assert_close

from tiny import chat_v3 as book

IDS = 10, 12, 13  # [IMG], [IMG_BREAK] and [IMG_END] in Pixtral's file


def run(columns, rows, ids=IDS):
    return book.image_tokens(columns, rows, *ids)


def test_each_patch_has_a_token():
    for columns, rows in ((1, 1), (3, 2), (2, 3), (8, 6)):
        assert_close(run(columns, rows).count(10), columns * rows, 0.0, name=f"[IMG] tokens of {columns} x {rows}")


def test_the_last_row_has_its_end():
    for columns, rows in ((1, 1), (3, 2)):
        ids = run(columns, rows)
        assert_close([ids[-1], ids.count(13)], [13, 1], 0.0, name=f"last id, and number of ends, of {columns} x {rows}")


def test_there_are_breaks():
    for columns, rows in ((3, 2), (2, 3)):
        assert 12 in run(columns, rows), f"[IMG_BREAK] tokens of {columns} x {rows}: got 0, expected {rows - 1}"


def test_a_break_ends_a_row():
    for columns, rows in ((3, 2), (2, 3)):
        breaks = run(columns, rows).count(12)
        assert breaks <= rows, f"[IMG_BREAK] tokens of {columns} x {rows}: got {breaks}, expected {rows - 1}"


def test_a_row_is_as_long_as_there_are_columns():
    ids = run(3, 2)
    first = next((n for n, id in enumerate(ids) if id != 10), len(ids))
    assert_close(first, 3, 0.0, name="[IMG] tokens at the start of 3 columns x 2 rows")


def test_rows_are_parted_by_breaks():
    for columns, rows in ((3, 2), (2, 4)):
        breaks = [n for n, id in enumerate(run(columns, rows)[:-1]) if id == 12][: rows - 1]
        assert_close(breaks, [(row + 1) * (columns + 1) - 1 for row in range(rows - 1)], 0.0,
                     name=f"places of the first {rows - 1} [IMG_BREAK] of {columns} x {rows}")


def test_no_break_before_the_end():
    for columns, rows in ((3, 2), (1, 1), (4, 1)):
        assert_close(run(columns, rows).count(12), rows - 1, 0.0, name=f"[IMG_BREAK] tokens of {columns} x {rows}")


def test_ids_are_arguments():
    assert_close(run(2, 2, (5, 6, 7)), [5, 5, 6, 5, 5, 7], 0.0, name="ids of 2 x 2 where the three are 5, 6 and 7")
