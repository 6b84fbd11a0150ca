"""CUDA kernels for the operations that a model spends its time in, run on a GPU or, by an emulator, on any CPU.

    model = kernels.load("tiny-mixtral", device="emulator", kernels=["rms_norm", "attention"])

`ops` is the seam, `launch` starts kernels, `emulator` is the GPU on every laptop; each operation is a `.cu` file with
its host side beside it. Importing this package imports nothing: some libraries look for another package
of this name, and finding ours must cost them nothing.
"""


def load(folder, device="cuda", kernels="all", precision: str = "float32", weights: str = "auto",
         cache: str | None = None):
    """`tiny.load` with kernels: the same model, built with other operations.

    device: "cuda", "cuda:1" for a GPU by its number, "emulator", or a launcher, such as one of another order of threads
    kernels: "all" keeps weights, activations and cache on the device (`kernels.resident`); with a list of names, or
    "none", arrays stay on the host, each named operation copies its arguments and its result, and the others are
    NumPy's: to read and to check one kernel at a time
    precision: "bfloat16" stores what the kernels read and write in bfloat16 and adds in float32; what NumPy computes
    is rounded as in `tiny`
    weights: "auto" as they are stored; for "all" also "float32", "bfloat16" or "int8", made from any checkpoint; for
    the others the modes of `tiny.load`
    cache: as in `tiny.load`; with "all" the cache is stored as the precision says, and in no other way

    Operations of `kernels.ops` that are called with CuPy arrays stay on the GPU.

    Raises:  TinyError as tiny.load, for an unknown name or device, if a compiler, CuPy or a GPU is missing, and if
             the device has too little memory: before anything is uploaded, with what would fit
    """
    import tiny
    from kernels.launch import Launcher
    from kernels.ops import choose, device_launcher

    if kernels == "all":
        from kernels import resident

        resident.check_cache(cache, precision)
        launcher = device if isinstance(device, Launcher) else device_launcher(device)
        return resident.load(folder, launcher, precision,
                             None if weights in ("auto", "mapped", "streamed", "resident") else weights)
    return tiny.load(folder, ops=choose(kernels, device), precision=precision, weights=weights, cache=cache)
