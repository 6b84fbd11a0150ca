// The experts for many tokens: every expert is one product over just its own tokens, as in the NumPy function.
//
// NumPy: tiny/experts.py feed_forward experts
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, D dim, F hidden_dim, E num_experts, K num_experts_per_tok. All arrays are row-major and contiguous:
//   x (T, D), expert_ids (T, K), expert_weights (T, K), out (T, D);
//   order (T * K,), offsets (E + 1,): route.cu sorts the pairs token * K + rank by expert; those of expert e are at the
//   places offsets[e] ... offsets[e + 1] - 1 of the order;
//   hidden (T * K, F) of STORE, by place; answers (T * K, D) of STORE, by pair, each with its weight;
//   w1, w2, w3: tables of E pointers, to matrices (F, D), (D, F), (F, D) of WEIGHT, which is float, __nv_bfloat16 or
//   signed char; s1, s2, s3: tables of their rows' scales, of SCALE, read if SCALED is 1 (int8.py).
// DENSE is 1 if every token has the one expert: the places are the tokens, order and offsets are not read.
// Products and sums are float; hidden, answers and out are rounded to STORE once. Nothing is read on the host, so the
// grid has as many tiles as there can be at most, and what is left over ends at once. A token's experts are added in
// ascending index, as in NumPy, and every sum has one order: equal inputs give equal bits.
//
// grouped_v1: grid (E, ceil(F / threads)), block any. grouped_v1_down: the same with D.
// grouped_v2: grid (tiles, ceil(F / 64)), block 256. grouped_v2_down: grid (tiles, ceil(D / TILE)), block 256.
// grouped_v3: grid (tiles, ceil(F / (TILE_ROWS / 2))), block TILE_ROWS, shared memory tensor::BYTES; v3_down the same
//   with grid (tiles, ceil(D / TILE_ROWS)). Only STORE __nv_bfloat16 with WEIGHT __nv_bfloat16 or signed char.
// grouped_v1_add, grouped_v2_add: grid (T, ceil(D / numbers of a block)), block any, a thread has 1 number or 16 bytes.
// Tiles are the fast axis of the grid: blocks that want the same rows of an expert run close together, and all but the
// first of them find these in the L2 cache.
#include "swiglu.cuh"
#include "tile.cuh"

__device__ __forceinline__ float dot_v1(const WEIGHT* row, const STORE* x, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; i++) sum += to_float(row[i]) * to_float(x[i]);
  return sum;
}

// v1: a block of threads for each expert and some of its rows; a thread for each row takes the tokens one by one
// Costs: 32 lanes read 32 rows, and each row again for every token; an expert with many tokens keeps few blocks busy.
// Saves: nothing: it is the NumPy function, loop for loop, over tokens that were sorted by their experts.
extern "C" __global__ void grouped_v1(const STORE* x, const int* order, const int* offsets, const WEIGHT* const* w1,
                                      const WEIGHT* const* w3, const SCALE* const* s1, const SCALE* const* s3,
                                      STORE* hidden, int T, int D, int F, int E, int K) {
  int e = blockIdx.x, f = blockIdx.y * blockDim.x + threadIdx.x;
  if (f >= F) return;
  // (1) the tokens that chose this expert, and as which of their choices
  int first = DENSE ? 0 : offsets[e], last = DENSE ? T : offsets[e + 1];
  // (1) a block of tokens at a time, because the hidden states are the widest arrays of the model
  //     (one at a time; their hidden states are in global memory until the next kernel)
  for (int place = first; place < last; place++) {
    const STORE* token = x + (size_t)(DENSE ? place : order[place] / K) * D;
    // (2) the gate, through SiLU, times the linear branch
    float gate = silu(scaled(dot_v1(w1[e] + (size_t)f * D, token, D), s1[e], f));
    float branch = scaled(dot_v1(w3[e] + (size_t)f * D, token, D), s3[e], f);
    hidden[(size_t)place * F + f] = from_float<STORE>(gate * branch);
  }
}

extern "C" __global__ void grouped_v1_down(const STORE* hidden, const int* order, const int* offsets,
                                           const float* expert_weights, const WEIGHT* const* w2,
                                           const SCALE* const* s2, STORE* answers, int D, int F, int E) {
  int e = blockIdx.x, d = blockIdx.y * blockDim.x + threadIdx.x;
  if (d >= D) return;
  for (int place = offsets[e]; place < offsets[e + 1]; place++) {
    // (2) the expert's answer for just those tokens
    // (3) back to the width of the model
    float answer = scaled(dot_v1(w2[e] + (size_t)d * F, hidden + (size_t)place * F, F), s2[e], d);
    answers[(size_t)order[place] * D + d] = from_float<STORE>(expert_weights[order[place]] * answer);
  }
}

// The rank of a token's expert that has the least index above `last`.
__device__ __forceinline__ int next_rank(const int* ids, int K, int last) {
  int best = 0;
  for (int rank = 1; rank < K; rank++) {
    if (ids[rank] > last && (ids[best] <= last || ids[rank] < ids[best])) best = rank;
  }
  return best;
}

extern "C" __global__ void grouped_v1_add(const STORE* answers, const int* expert_ids, STORE* out, int D, int K) {
  size_t token = blockIdx.x;
  int d = blockIdx.y * blockDim.x + threadIdx.x;
  if (d >= D) return;
  float total = 0.0f;
  for (int k = 0, expert = -1; k < K; k++) {
    int rank = next_rank(expert_ids + token * K, K, expert);
    expert = expert_ids[token * K + rank];
    // (3) add it, weighted; a token has an expert once at most, so no row is added twice
    total += to_float(answers[(token * K + rank) * D + d]);
  }
  out[token * D + d] = from_float<STORE>(total);
}

// The places of a tile, all of one expert: none if there are fewer tiles than blocks.
struct Group {
  int expert, first, count;
};
__device__ __forceinline__ Group find_group(const int* offsets, int T, int E) {
  int tile = blockIdx.x;
  if (DENSE) return {0, tile * TILE, min(TILE, T - tile * TILE)};
  for (int e = 0; e < E; e++) {
    int first = offsets[e] + tile * TILE, left = offsets[e + 1] - first;
    if (left > 0) return {e, first, min(TILE, left)};
    tile -= (offsets[e + 1] - offsets[e] + TILE - 1) / TILE;
  }
  return {0, 0, 0};
}

// Rows of w1 and w3 lie in a tile in turns, EACH of them at a time, so that a thread gets both sums of a hidden number.
// Behind the last row comes the last again.
template <int EACH, class W>
__device__ __forceinline__ const W* interleaved(const W* w1, const W* w3, int row, int first, int D, int F) {
  int f = min(first + row / (2 * EACH) * EACH + row % EACH, F - 1);
  return (row / EACH % 2 ? w3 : w1) + (size_t)f * D;
}

// v2: tiles of 128 tokens of an expert and 128 rows in shared memory; SwiGLU ends one product, the weight the other
// Costs: a tile is for one expert, so that few tokens of each leave most of it empty; answers pass global memory once.
// Saves: an expert's matrices are read once for 128 of its tokens; gates and branches are never arrays.
extern "C" __global__ void __launch_bounds__(plain::THREADS, 2)
grouped_v2(const STORE* x, const int* order, const int* offsets, const WEIGHT* const* w1, const WEIGHT* const* w3,
           const SCALE* const* s1, const SCALE* const* s3, STORE* hidden, int T, int D, int F, int E, int K) {
  using namespace plain;
  Group group = find_group(offsets, T, E);
  if (!group.count) return;  // the whole block
  const WEIGHT *gate = w1[group.expert], *branch = w3[group.expert];
  int first = blockIdx.y * (TILE / 2);
  float sums[SHARE][SHARE] = {};
  multiply([=](int i) { return x + (size_t)(DENSE ? group.first + i : order[group.first + i] / K) * D; }, group.count,
           [=](int row) { return interleaved<16>(gate, branch, row, first, D, F); }, TILE, D,
           D % 4 == 0 && is_aligned16(x) && is_aligned16(gate) && is_aligned16(branch), sums);
#pragma unroll
  for (int i = 0; i < SHARE; i++) {
#pragma unroll
    for (int j = 0; j < SHARE; j += 2) {
      int token = threadIdx.x / 16 + 16 * i, f = first + threadIdx.x % 16 + 8 * j;
      if (token >= group.count || f >= F) continue;
      float number = silu(scaled(sums[i][j], s1[group.expert], f)) * scaled(sums[i][j + 1], s3[group.expert], f);
      hidden[(size_t)(group.first + token) * F + f] = from_float<STORE>(number);
    }
  }
}

extern "C" __global__ void __launch_bounds__(plain::THREADS, 2)
grouped_v2_down(const STORE* hidden, const int* order, const int* offsets, const float* expert_weights,
                const WEIGHT* const* w2, const SCALE* const* s2, STORE* answers, int D, int F, int E) {
  using namespace plain;
  Group group = find_group(offsets, 0, E);
  if (!group.count) return;
  const WEIGHT* weight = w2[group.expert];
  int first = blockIdx.y * TILE;
  float sums[SHARE][SHARE] = {};
  multiply([=](int i) { return hidden + (size_t)(group.first + i) * F; }, group.count,
           [=](int row) { return weight + (size_t)(first + row) * F; }, min(TILE, D - first), F,
           F % 4 == 0 && is_aligned16(hidden) && is_aligned16(weight), sums);
#pragma unroll
  for (int i = 0; i < SHARE; i++) {
    int token = threadIdx.x / 16 + 16 * i;
    if (token >= group.count) continue;
    int pair = order[group.first + token];
#pragma unroll
    for (int j = 0; j < SHARE; j++) {
      int d = first + threadIdx.x % 16 + 16 * j;
      if (d >= D) continue;
      answers[(size_t)pair * D + d] = from_float<STORE>(expert_weights[pair] * scaled(sums[i][j], s2[group.expert], d));
    }
  }
}

// The sum over a token's experts, 16 bytes for each thread.
extern "C" __global__ void grouped_v2_add(const STORE* answers, const int* expert_ids, STORE* out, int D, int K) {
  size_t token = blockIdx.x;
  int d = (blockIdx.y * blockDim.x + threadIdx.x) * WIDE<STORE>, expert = -1;
  if (d >= D) return;
  bool wide = D % WIDE<STORE> == 0 && is_aligned16(answers) && is_aligned16(out);
  float total[WIDE<STORE>] = {}, part[WIDE<STORE>];
  for (int k = 0; k < K; k++) {
    int rank = next_rank(expert_ids + token * K, K, expert);
    expert = expert_ids[token * K + rank];
    load_some(answers + (token * K + rank) * D + d, D - d, wide, part);
#pragma unroll
    for (int i = 0; i < WIDE<STORE>; i++) total[i] += part[i];
  }
  store_some(out + token * D + d, D - d, wide, total);
}

// SwiGLU of a warp's sums, whose rows are 8 of w1 and 8 of w3 in turns: hidden[m][n] has 16 tokens and 8 numbers.
__device__ __forceinline__ void swiglu(const tensor::Sums& sums, const SCALE* s1, const SCALE* s3, int first, int F,
                                       float (&hidden)[tensor::SHARE / 16][tensor::SHARE / 16][4]) {
#pragma unroll
  for (int n = 0; n < tensor::SHARE / 16; n++) {
    int f = first + 8 * n + threadIdx.x % 4 * 2;
    float one[2] = {1.0f, 1.0f}, other[2] = {1.0f, 1.0f};
    bool wide = F % 2 == 0 && f < F && is_aligned16(s1) && is_aligned16(s3);
    if (SCALED) load_some(s1 + f, F - f, wide, one), load_some(s3 + f, F - f, wide, other);
#pragma unroll
    for (int m = 0; m < tensor::SHARE / 16; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        hidden[m][n][i] = silu(sums[m][2 * n][i] * one[i % 2]) * (sums[m][2 * n + 1][i] * other[i % 2]);
      }
    }
  }
}

// v3: the products on tensor cores, from three stages of tiles that asynchronous copies fill
// Costs: only bfloat16 activations, with weights of bfloat16 or int8; 48 or 72 KB of shared memory.
// Saves: what version 5 of linear_prompt.cu saves; a token's row is gathered by the copies that bring it.
extern "C" __global__ void __launch_bounds__(tensor::THREADS, tensor::BLOCKS)
grouped_v3(const __nv_bfloat16* x, const int* order, const int* offsets, const WEIGHT* const* w1,
           const WEIGHT* const* w3, const SCALE* const* s1, const SCALE* const* s3, __nv_bfloat16* hidden, int T, int D,
           int F, int E, int K) {
  using namespace tensor;
  extern __shared__ __align__(16) unsigned char smem[];
  Group group = find_group(offsets, T, E);
  if (!group.count) return;
  const Weight *gate = reinterpret_cast<const Weight*>(w1[group.expert]),
               *branch = reinterpret_cast<const Weight*>(w3[group.expert]);
  int first = blockIdx.y * (ROWS / 2);
  Sums sums = {};
  multiply([=](int i) { return x + (size_t)(DENSE ? group.first + i : order[group.first + i] / K) * D; }, group.count,
           [=](int row) { return interleaved<8>(gate, branch, row, first, D, F); }, ROWS, D,
           is_aligned16(x) && is_aligned16(gate) && is_aligned16(branch), smem, sums);
  float numbers[SHARE / 16][SHARE / 16][4];
  first += first_row() / 2;
  swiglu(sums, s1[group.expert], s3[group.expert], first, F, numbers);
  bool wide = F % 4 == 0 && is_aligned16(hidden);
  hand_out<SHARE / 2>(numbers, smem, [=](int token, int column, float(&four)[4]) {
    int at = first_token() + token, f = first + column;
    if (at < group.count && f < F) store_some(hidden + (size_t)(group.first + at) * F + f, F - f, wide, four);
  });
}

extern "C" __global__ void __launch_bounds__(tensor::THREADS, tensor::BLOCKS)
grouped_v3_down(const __nv_bfloat16* hidden, const int* order, const int* offsets, const float* expert_weights,
                const WEIGHT* const* w2, const SCALE* const* s2, __nv_bfloat16* answers, int D, int F, int E) {
  using namespace tensor;
  extern __shared__ __align__(16) unsigned char smem[];
  Group group = find_group(offsets, 0, E);
  if (!group.count) return;
  const Weight* weight = reinterpret_cast<const Weight*>(w2[group.expert]);
  int first = blockIdx.y * ROWS;
  Sums sums = {};
  multiply([=](int i) { return hidden + (size_t)(group.first + i) * F; }, group.count,
           [=](int row) { return weight + (size_t)(first + row) * F; }, min(ROWS, D - first), F,
           is_aligned16(hidden) && is_aligned16(weight), smem, sums);
  const SCALE* scale = s2[group.expert];
  bool wide = D % 4 == 0 && is_aligned16(answers) && is_aligned16(scale);
  hand_out<SHARE>(sums, smem, [=](int token, int column, float(&four)[4]) {
    int at = first_token() + token, d = first + first_row() + column;
    if (at >= group.count || d >= D) return;
    int pair = order[group.first + at];
    float scales[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    if (SCALED) load_some(scale + d, D - d, wide, scales);
#pragma unroll
    for (int i = 0; i < 4; i++) four[i] *= scales[i] * expert_weights[pair];
    store_some(answers + (size_t)pair * D + d, D - d, wide, four);
  });
}
