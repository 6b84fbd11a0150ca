"""The numbers of chapter 8, each from where it comes; those of Pixtral 12B are from its release."""

import math

import numpy as np

import tiny
from tiny.rope_2d import rope_2d_table

D, THETA, GRID = 64, 10_000, 64  # of a head of the encoder; columns of the largest image
cos, sin = rope_2d_table(np.array([[3, 5]]), D, float(THETA))
assert abs(cos[0, 0] - math.cos(3)) < 1e-6 and abs(cos[0, 16] - math.cos(5 * THETA ** (-2 / D))) < 1e-6

NUMBERS = {f"{2 * math.cos(1) + 2 * math.cos(0.25) + 4:.2f}", "0.5", "1.5", "0.375", "0.25",  # the worked example
           "218",  # the number of a pull request
           f"{tiny.load('tiny-pixtral').config.vision.rope_theta:.0f}",
           f"{THETA:,}", f"{THETA ** (-2 / D):.4f}", f"{5 * THETA ** (-2 / D):.3f}", f"{THETA ** (-D / 2 / D):.2f}",
           f"{math.cos(THETA ** (-D / 2 / D)):.5f}", f"{GRID**2:,}", f"{2 * GRID**2:,}", f"{2 * GRID**4:,}",
           f"{(2 * GRID**2) ** 2:,}"}
assert (GRID - 1) * THETA ** (-62 / D) < 0.01 and round(math.degrees(THETA ** (-2 / D))) == 43
