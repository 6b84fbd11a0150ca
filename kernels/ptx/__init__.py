"""An interpreter of PTX: it executes what a GPU's compiler made of our `.cu` files, in NumPy, without a GPU.

The emulator compiles the same sources with g++; this reads what NVRTC or nvcc made of them. They share no line, so what
both get right is right in the source and in its reading by the compiler for GPUs. Written from the PTX manual.

What it does not see: ptxas, which turns PTX into a GPU's own code; time and caches; races between threads that happen
to come out right. Warps run together or one after another, in two orders, so many missing barriers do show. An address
must be in some array, which need not be the one that was meant; shared memory is one array. Types: integers, float32,
float64, bfloat16 by conversions and tensor cores; no arithmetic of bfloat16 or float16, no calls, no local memory.
Whatever it does not have is refused by its name and line before the kernel runs.
"""
