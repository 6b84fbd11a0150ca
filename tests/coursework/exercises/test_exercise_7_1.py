"""Exercise 7.1, the grid of a picture: one test for each idea, on sizes that can be checked by hand."""

from compare import assert_close

from tiny import image as book


def grids(*sizes, patch=16, longest=1024, style="mistral"):
    """The grids of these sizes must be what stands behind each."""
    for width, height, *expected in sizes:
        assert_close(list(book.image_grid(width, height, patch, longest, style)), expected, 0.0,
                     name=f"(columns, rows) of {width} x {height} pixels, patches of {patch}, sides up to {longest}, "
                          f"{style}")


def test_columns_come_first():
    for width, height in ((64, 32), (32, 64)):
        columns, rows = book.image_grid(width, height)
        assert_close(int(columns > rows), int(width > height), 0.0,
                     name=f"whether {width} x {height} pixels have more columns than rows, 1 for yes")


def test_patches_are_counted():
    found = list(book.image_grid(64, 48, 16, 64))
    assert found != [64, 48], "(columns, rows) of 64 x 48 pixels, patches of 16: got [64, 48], expected [4, 3]"


def test_small_pictures_are_not_enlarged():
    for width, height in ((160, 32), (32, 160), (1, 1)):
        near, far = (list(book.image_grid(width, height, 16, longest)) for longest in (160, 4096))
        assert_close(far, near, 0.0, name=f"(columns, rows) of {width} x {height} pixels, where sides up to 4096 fit")


def test_a_part_of_a_patch_is_a_patch():
    grids((17, 31, 2, 2), (33, 17, 3, 2), (1, 1, 1, 1))


def test_whole_patches_add_none():
    grids((64, 48, 4, 3), (16, 16, 1, 1))


def test_the_patch_size_is_an_argument():
    grids((48, 24, 6, 3), patch=8)
    grids((48, 24, 2, 1), patch=24)


def test_the_longer_side_fits():
    for width, height, longest in ((4096, 4096, 1024), (2048, 1024, 1024), (1024, 2048, 1024), (200, 100, 96)):
        assert_close(max(book.image_grid(width, height, 16, longest)), longest // 16, 0.0,
                     name=f"patches of the longer side of {width} x {height} pixels, patches of 16, up to {longest}")


def test_both_sides_shrink_alike():
    grids((2000, 1000, 64, 32), (1000, 2000, 32, 64), (2000, 500, 64, 16), (500, 2000, 16, 64))


def test_the_shrunk_side_is_rounded():
    grids((2000, 1001, 64, 33), (1001, 2000, 33, 64), (3000, 1501, 64, 32))


def test_halves_go_to_the_even_neighbour():
    grids((2048, 65, 64, 2), (2048, 67, 64, 3), (65, 2048, 2, 64))


def test_in_style_hf_it_is_rounded_down():
    grids((2000, 1001, 64, 32), (1001, 2000, 32, 64), (2048, 67, 64, 3), (640, 480, 40, 30), style="hf")


def test_in_style_hf_nothing_may_be_left():
    grids((5000, 1, 64, 0), (1, 5000, 0, 64), style="hf")


def test_a_pixel_of_each_side_is_kept():
    grids((5000, 1, 64, 1), (1, 5000, 1, 64))
