// Rotary positions: turn each pair of a query's or key's numbers by an angle that grows with its position.
//
// NumPy: tiny/rope.py rope
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, n heads (H of queries, G of keys and values), d head_dim, S rows of the cache. All arrays are row-major
// and contiguous: x, out (T, n, d) of STORE, cos, sin (T, d / 2) of float, whichever table made them: for the
// kernel, a place in two dimensions is as good an angle as a place in a line. Rotated in float, rounded to STORE
// once. d is any even number; heads that are not made of whole, aligned 16 bytes are read number by number.
//
// rope_v1: grid (T, ceil(n * d / 2 / threads)), block any.
// rope_v2: grid (T, ceil(n * parts / threads)), block any, with parts = ceil(d / WIDE<STORE>).
// rope_v3: grid (T, ceil((H + 2 G) * parts / threads)), block any.
// A token for each x of the grid: who it is takes no division, and angles are shared by the threads of a block.
#include "numbers.cuh"

constexpr int PAIRS = WIDE<STORE> / 2;  // pairs in 16 bytes

// v1: a thread for each pair
// Costs: 2 loads and 2 stores of one number each; two loads of angles for each pair.
// Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void rope_v1(const STORE* x, const float* cos, const float* sin, STORE* out, int n, int d) {
  int token = blockIdx.x, pair = blockIdx.y * blockDim.x + threadIdx.x;  // pair of the token, of n * d / 2
  if (pair >= n * (d / 2)) return;
  float c = cos[(size_t)token * (d / 2) + pair % (d / 2)], s = sin[(size_t)token * (d / 2) + pair % (d / 2)];
  size_t place = (size_t)token * n * d + 2 * pair;
  // (1) the two numbers of each pair
  float even = to_float(x[place]), odd = to_float(x[place + 1]);
  // (2) rotate: the product (even + i odd)(cos + i sin), real and imaginary part
  out[place] = from_float<STORE>(even * c - odd * s);
  out[place + 1] = from_float<STORE>(odd * c + even * s);
}

// Rotate one part of a head, at most 16 bytes: `count` numbers of it are there, or more.
__device__ __forceinline__ void rotate_part(const STORE* x, const float* cos, const float* sin, STORE* out, int count,
                                            bool wide) {
  float part[2 * PAIRS], c[PAIRS], s[PAIRS];
  load_some(x, count, wide, part);
  load_some(cos, count / 2, wide, c);
  load_some(sin, count / 2, wide, s);
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    float even = part[2 * i], odd = part[2 * i + 1];
    part[2 * i] = even * c[i] - odd * s[i];
    part[2 * i + 1] = odd * c[i] + even * s[i];
  }
  store_some(out, count, wide, part);
}

// v2: a thread for each 16 bytes of a head
// Costs: nothing. Saves: 4 times fewer load and store instructions for float, 8 times for bfloat16; the angles of 2
// or 4 pairs in one load each. The bytes are those of v1.
extern "C" __global__ void rope_v2(const STORE* x, const float* cos, const float* sin, STORE* out, int n, int d) {
  int parts = (d + WIDE<STORE> - 1) / WIDE<STORE>, unit = blockIdx.y * blockDim.x + threadIdx.x;
  if (unit >= n * parts) return;
  bool wide = d % WIDE<STORE> == 0 && is_aligned16(x) && is_aligned16(out) && is_aligned16(cos) && is_aligned16(sin);
  size_t head = (size_t)blockIdx.x * n + unit / parts, angles = (size_t)blockIdx.x * (d / 2);
  int first = unit % parts * WIDE<STORE>;
  rotate_part(x + head * d + first, cos + angles + first / 2, sin + angles + first / 2, out + head * d + first,
              d - first, wide);
}

// v3: queries, keys and values in one launch, keys and values straight into their rows of the cache
// Costs: v must be at hand when q is rotated; rows (T,) says where each token's key and value belong, is read on the
// device, so that a captured graph serves every step, and names no row twice and none outside of the cache.
// Saves: three launches of four (two rotations and two copies); keys move through memory twice instead of four times.
extern "C" __global__ void rope_v3(const STORE* q, const STORE* k, const STORE* v, const float* cos, const float* sin,
                                   const int* rows, STORE* out, STORE* keys, STORE* values, int H, int G, int d) {
  int parts = (d + WIDE<STORE> - 1) / WIDE<STORE>, unit = blockIdx.y * blockDim.x + threadIdx.x;
  if (unit >= (H + 2 * G) * parts) return;
  bool wide = d % WIDE<STORE> == 0 && is_aligned16(q) && is_aligned16(k) && is_aligned16(v) && is_aligned16(out) &&
              is_aligned16(keys) && is_aligned16(values) && is_aligned16(cos) && is_aligned16(sin);
  size_t token = blockIdx.x, row = rows[token], angles = token * (d / 2);
  int head = unit / parts, first = unit % parts * WIDE<STORE>;
  cos += angles + first / 2, sin += angles + first / 2;
  if (head < H) {
    size_t place = (token * H + head) * d + first;
    rotate_part(q + place, cos, sin, out + place, d - first, wide);
  } else if (head < H + G) {
    rotate_part(k + (token * G + head - H) * d + first, cos, sin, keys + (row * G + head - H) * d + first, d - first,
                wide);
  } else {
    float part[WIDE<STORE>];
    head -= H + G;
    load_some(v + (token * G + head) * d + first, d - first, wide, part);
    store_some(values + (row * G + head) * d + first, d - first, wide, part);
  }
}
