r"""Detective cases: a run or a kernel with a fault, and you name the fault. `make student` puts them beside this file.

Cases A and B: compare a run with the model that it claims to be, and see which array differs first:

    .venv/bin/python -m tiny verify check tiny-mixtral student/case_a.npz
    .venv/bin/python -m tiny verify check tiny-pixtral student/case_b.npz

The line DIFFERS names the first array. In the table, `alone` is the error of each operation by itself, given the other
run's numbers, and the column behind it is that in per cent of what is allowed: where it is above 100, the fault is.

That leaves a few of the names below. To tell them apart, think of a number that each of them would change, and look at
it: `numpy.load("student/case_a.npz")` has every array. Queries and keys are stored as they are after the rotation.

Case C: run a kernel that gives one token to two experts. With `--order forward` or `--order reverse` in the place of
`--check` it runs to its end, and gives other numbers. The report names two lines: `this` access is the later one. The
fault need not be in either.

    .venv/bin/python -m kernels.emulator student/case_c.cu --kernel experts_v1 --grid 1 --block 64 --smem 512 --check \
        --arg float32[32]:random --arg int32[2]:arange --arg float32[2]:0.5 \
        --arg float32[64,32]:random+float32[64,32]:random --arg float32[32,64]:random+float32[32,64]:random \
        --arg float32[64,32]:random+float32[64,32]:random --arg float32[32]:empty \
        --arg int32:32 --arg int32:64 --arg int32:2 --arg int32:2 -DSTORE=float
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


def case_c() -> str:
    """The fault in case_c.cu, a kernel. It is one of these:

    hidden_read_too_early  no barrier between writing the hidden state of an expert and reading it
    hidden_overwritten     no barrier between reading the hidden state of an expert and writing that of the next
    hidden_over_answer     the hidden state begins one place too early, where the last number of the answer is
    total_not_zero         a thread adds to a total that nobody has set to zero
    one_row_too_many       a thread computes a hidden number F, where the last one is F - 1
    barrier_for_some       a barrier stands in a branch that some threads do not take
    """
    # (1) the name of the fault
    return "hidden_overwritten"
