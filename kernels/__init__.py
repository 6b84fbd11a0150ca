"""CUDA kernels for the operations that a model spends its time in, run on a GPU or, by an emulator, on any CPU.

    model = kernels.load("tiny-mixtral", device="emulator", kernels=["rms_norm", "attention"])

`ops` is the seam, `launch` starts kernels, `emulator` is the GPU on every laptop; each operation is a `.cu` file with
its host side beside it. Importing this package imports nothing: some libraries look for another package
of this name, and finding ours must cost them nothing.
"""


def load(folder, device: str = "cuda", kernels="all", precision: str = "float32", weights: str = "auto"):
    """`tiny.load` with kernels: the same model, built with other operations.

    device: "cuda" or "emulator"; kernels: "all", "none", or a list of names: the others stay NumPy's.
    precision: "bfloat16" stores what the kernels read and write in bfloat16 and adds in float32; what NumPy computes
    is rounded as in `tiny`.

    On "cuda" the arrays of the model stay on the host: each chosen operation copies its arguments to the GPU and its
    result back, only weights are uploaded once and kept. That is correct, but not fast. Operations of `kernels.ops`
    that are called with CuPy arrays stay on the GPU.

    Raises:  TinyError as tiny.load, for an unknown name or device, and if a compiler, CuPy or a GPU is missing
    """
    import tiny
    from kernels.ops import choose

    return tiny.load(folder, ops=choose(kernels, device), precision=precision, weights=weights)
