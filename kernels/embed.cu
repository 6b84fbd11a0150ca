// Rows of a table by their numbers: the vectors of tokens, or the last row of each sequence.
//
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T rows, D numbers of each, V rows of the table. All arrays are row-major and contiguous: ids (T,) from 0 to V - 1,
// read on the device and not checked; table (V, D) of WEIGHT; out (T, D) of STORE, rounded once. D is any number; rows
// that are not made of whole, aligned 16 bytes are copied number by number.
//
// embed_v1: grid (T, ceil(D / threads)), block any.
// embed_v2: grid (T, ceil(parts / threads)), block any, with parts = ceil(D / WIDE<STORE>).
#include "numbers.cuh"

// v1: a thread for each number
// Costs: an instruction for each number. Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void embed_v1(const int* ids, const WEIGHT* table, STORE* out, int D) {
  int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= D) return;
  out[(size_t)blockIdx.x * D + i] = from_float<STORE>(to_float(table[(size_t)ids[blockIdx.x] * D + i]));
}

// v2: a thread for each 16 bytes of the output
// Costs: nothing. Saves: 4 times fewer loads and stores for float, 8 times for bfloat16. The bytes are those of v1.
extern "C" __global__ void embed_v2(const int* ids, const WEIGHT* table, STORE* out, int D) {
  int i = (blockIdx.y * blockDim.x + threadIdx.x) * WIDE<STORE>;
  if (i >= D) return;
  bool wide = D % 8 == 0 && is_aligned16(table) && is_aligned16(out);  // 8 numbers are 16 bytes at least
  float part[WIDE<STORE>];
  load_some(table + (size_t)ids[blockIdx.x] * D + i, D - i, wide, part);
  store_some(out + (size_t)blockIdx.x * D + i, D - i, wide, part);
}
