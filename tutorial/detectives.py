"""Detective cases: a run with a fault in it, and you name the fault. `make student` puts the runs beside this file.

Compare a run with the model that it claims to be, and see which array differs first:

    .venv/bin/python -m tiny verify check tiny-mixtral student/case_a.npz
    .venv/bin/python -m tiny verify check tiny-pixtral student/case_b.npz

The line DIFFERS names the first array. In the table, `alone` is the error of each operation by itself, given the other
run's numbers, and the column behind it is that in per cent of what is allowed: where it is above 100, the fault is.

That leaves a few of the names below. To tell them apart, think of a number that each of them would change, and look at
it: `numpy.load("student/case_a.npz")` has every array. Queries and keys are stored as they are after the rotation.
"""


def case_a() -> str:
    """The fault in case_a.npz, a run of tiny-mixtral. It is one of these:

    rope_backwards        queries and keys are turned by the negative angle
    rope_in_halves        a pair is number i and number i + d / 2 of a head
    scores_not_scaled     scores are not divided by the root of d
    kv_heads_tiled        query head h uses key and value head h % G, not h // R
    weights_over_all      the softmax runs over all experts, and two of its weights are kept
    weights_swapped       the first expert gets the second one's weight, and the other way round
    """
    # (1) the name of the fault
    return "weights_swapped"


def case_b() -> str:
    """The fault in case_b.npz, a run of tiny-pixtral on two pictures. It is one of these:

    rows_and_columns_swapped  a patch has its column for a row, and the other way round
    images_see_each_other     a patch sees the patches of all images
    a_causal_encoder          a patch sees itself and the patches before it only
    """
    # (1) the name of the fault
    return "a_causal_encoder"
