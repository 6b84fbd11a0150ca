"""Exercise 9.1, patches into the rows of [IMG]: one test for each idea, on rows that can be told apart."""

import numpy as np
from compare import assert_close, assert_dtype

from tiny import adapter as book

IMG, BREAK, END = 10, 12, 13
# Text, an image of two rows of two patches, text, an image of one patch, text.
IDS = [1, 3, IMG, IMG, BREAK, IMG, IMG, END, 40, IMG, END, 4]


def spliced(ids=IDS, token=IMG):
    """Text rows hold their id, the features of patch n hold 100 + n, each twice."""
    ids = np.array(ids)
    text, features = (np.repeat(np.array(x, np.float32)[:, None], 2, axis=1)
                      for x in (ids, 100 + np.arange((ids == token).sum())))
    return book.splice(text, ids, features, token)


def test_there_is_one_row_for_each_token():
    assert_close(spliced().shape, (12, 2), 0.0, name="rows and columns of 12 tokens")


def test_patches_are_written():
    y = spliced()[:, 0]
    assert set(y[[2, 3, 5, 6, 9]]) != {IMG}, "rows of five [IMG]: got 10 in each, their text, expected 100 to 104"


def test_text_stays_where_it_is():
    y = spliced()[:, 0]
    assert_close(y[[0, 1, 8, 11]], [1, 3, 40, 4], 0.0, name="rows of the text tokens 1, 3, 40 and 4")


def test_breaks_and_ends_stay_text():
    y = spliced()[:, 0]
    assert_close(y[[4, 7, 10]], [BREAK, END, END], 0.0, name="rows of [IMG_BREAK] and of two [IMG_END]")


def test_a_row_is_its_patch():
    y = spliced()[:, 0]
    assert_close(np.sort(y[[2, 3, 5, 6, 9]]), [100, 101, 102, 103, 104], 0.0, name="rows of five [IMG], sorted")


def test_patches_come_in_order():
    y = spliced()[:, 0]
    assert_close(y[[2, 3, 5, 6, 9]], [100, 101, 102, 103, 104], 0.0, name="rows of five [IMG]")


def test_all_numbers_of_a_patch_are_taken():
    assert_close(spliced()[[2, 9], 1], [100, 104], 0.0, name="last numbers of the first and the last patch")


def test_the_token_is_an_argument():
    y = spliced([7, 5, 6, 10], 5)[:, 0]
    assert_close(y, [7, 100, 6, 10], 0.0, name="rows where token 5 stands for a patch")


def test_answers_are_float32():
    assert_dtype(spliced(), np.float32, "type of the result")


def test_arguments_are_left_alone():
    text, features, ids = np.ones((3, 2), np.float32), np.zeros((1, 2), np.float32), np.array([1, IMG, 2])
    book.splice(text, ids, features, IMG)
    for name, array, was in (("text", text, np.ones((3, 2))), ("features", features, np.zeros((1, 2))),
                             ("ids", ids, [1, IMG, 2])):
        assert_close(array, was, 0.0, name=f"{name} afterwards")
