// The router: a small linear map that gives every token its own few experts, and a weight for each.
//
// NumPy: tiny/router.py route
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, D dim, E num_experts, K num_experts_per_tok. All arrays are row-major and contiguous: x (T, D) of
// STORE, gate (E, D) of WEIGHT, logits (T, E) of float, expert_ids (T, K) of int, expert_weights (T, K) of float.
// Logits are added in float and never rounded further. Of equal logits the lower index wins, and -0 equals 0; a NaN
// comes after every number, as in NumPy's sort. A NaN or an infinity among the chosen makes the weights of its token
// NaN, as there.
//
// route_v1: grid ceil(T / threads), block any; any E and K.
// route_v2, route_v3: grid ceil(T / tokens of a block), block a multiple of 32; EXPERTS = E at most 64, K at most 32. A
// warp has 1 token in v2, TOKENS in v3.
// route_v3_count, route_v3_place: grid ceil(T * K / TILE), block TILE.
#include "numbers.cuh"

#ifndef EXPERTS
#define EXPERTS 8  // E, v2 and v3
#endif
#ifndef TOKENS
#define TOKENS 4  // tokens of a warp, v3
#endif
#define TILE 512  // pairs of a token and an expert for each block when they are sorted

// Whether a logit comes before another one that has the lower index: NaN comes last.
__device__ __forceinline__ bool comes_before(float a, float b) { return a > b || (b != b && a == a); }

// v1: a thread for each token
// Costs: neighbouring threads read rows D numbers apart, and the row E times; T threads in all.
// Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void route_v1(const STORE* x, const WEIGHT* gate, float* logits, int* expert_ids,
                                    float* expert_weights, int T, int D, int E, int K) {
  int token = blockIdx.x * blockDim.x + threadIdx.x;
  if (token >= T) return;
  x += (size_t)token * D, logits += (size_t)token * E;
  expert_ids += (size_t)token * K, expert_weights += (size_t)token * K;
  // (1) one logit for each expert
  for (int e = 0; e < E; e++) {
    float sum = 0.0f;
    for (int i = 0; i < D; i++) sum += to_float(x[i]) * to_float(gate[(size_t)e * D + i]);
    logits[e] = sum;
  }
  // (2) the K largest, in falling order
  for (int k = 0; k < K; k++) {
    int best = -1;
    for (int e = 0; e < E; e++) {
      bool taken = false;
      for (int j = 0; j < k; j++) taken |= expert_ids[j] == e;
      if (!taken && (best < 0 || comes_before(logits[e], logits[best]))) best = e;
    }
    expert_ids[k] = best;
  }
  // (3) softmax over the chosen logits only; transformers keeps these weights in float32 also in bfloat16
  float total = 0.0f;
  for (int k = 0; k < K; k++) {
    expert_weights[k] = expf(logits[expert_ids[k]] - logits[expert_ids[0]]);
    total += expert_weights[k];
  }
  for (int k = 0; k < K; k++) expert_weights[k] /= total;
}

// Add up each of a token's logits over the lanes; all lanes get all of them, with equal bits.
__device__ __forceinline__ void add_over_lanes(float (&logits)[EXPERTS]) {
#pragma unroll
  for (int e = 0; e < EXPERTS; e++) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      logits[e] += __shfl_xor_sync(0xffffffffu, logits[e], distance);
    }
  }
}

// Choose a token's experts. Every lane has all logits and finds the same ones; lane k writes the k-th.
__device__ __forceinline__ void choose(const float (&logits)[EXPERTS], int lane, int K, int* expert_ids,
                                       float* expert_weights) {
  unsigned long long taken = 0;  // a bit for each expert
  float highest = 0.0f, total = 0.0f, own = 0.0f;
  int own_expert = 0;
  for (int k = 0; k < K; k++) {
    int best = -1;
    float largest = 0.0f;
#pragma unroll
    for (int e = 0; e < EXPERTS; e++) {
      if (!(taken >> e & 1) && (best < 0 || comes_before(logits[e], largest))) best = e, largest = logits[e];
    }
    taken |= 1ull << best;
    if (k == 0) highest = largest;
    if (k == lane) own = largest, own_expert = best;
    total += expf(largest - highest);
  }
  if (lane < K) expert_ids[lane] = own_expert, expert_weights[lane] = expf(own - highest) / total;
}

// Route the tokens of a warp: MANY of them, or what is left of T. Those past the end repeat the last one, unwritten.
template <int MANY>
__device__ __forceinline__ void route_tokens(const STORE* x, const WEIGHT* gate, float* logits, int* expert_ids,
                                             float* expert_weights, int T, int D, int K) {
  int lane = threadIdx.x % 32, first = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * MANY;
  if (first >= T) return;  // the whole warp
  bool wide = D % WIDE<STORE> == 0 && is_aligned16(x) && is_aligned16(gate);
  float sums[MANY][EXPERTS] = {}, parts[MANY][WIDE<STORE>], column[WIDE<STORE>];
  for (int i = lane * WIDE<STORE>; i < D; i += 32 * WIDE<STORE>) {
#pragma unroll
    for (int t = 0; t < MANY; t++) load_some(x + (size_t)min(first + t, T - 1) * D + i, D - i, wide, parts[t]);
#pragma unroll
    for (int e = 0; e < EXPERTS; e++) {
      load_some(gate + (size_t)e * D + i, D - i, wide, column);
#pragma unroll
      for (int t = 0; t < MANY; t++) {
#pragma unroll
        for (int j = 0; j < WIDE<STORE>; j++) sums[t][e] += parts[t][j] * column[j];
      }
    }
  }
#pragma unroll
  for (int t = 0; t < MANY; t++) {
    add_over_lanes(sums[t]);
    size_t token = first + t;
    if (token >= T) continue;
#pragma unroll
    for (int e = 0; e < EXPERTS; e++) {
      if (e % 32 == lane) logits[token * EXPERTS + e] = sums[t][e];
    }
    choose(sums[t], lane, K, expert_ids + token * K, expert_weights + token * K);
  }
}

// v2: a warp for each token, 16 bytes for each lane at a time; logits stay in registers for the choice
// Costs: 5 E shuffles for each token; a register for each expert, so E is compiled in and has a limit.
// Saves: the row is read once instead of E times, in whole sectors; the choice reads no memory.
extern "C" __global__ void route_v2(const STORE* x, const WEIGHT* gate, float* logits, int* expert_ids,
                                    float* expert_weights, int T, int D, int K) {
  route_tokens<1>(x, gate, logits, expert_ids, expert_weights, T, D, K);
}

// v3: TOKENS tokens share each read of the gate
// Costs: TOKENS (E + WIDE<STORE>) registers; TOKENS times fewer warps, so few tokens keep a warp each (TOKENS = 1).
// Saves: TOKENS times fewer loads of the gate: E D numbers for each token are E / TOKENS times those of its row.
extern "C" __global__ void route_v3(const STORE* x, const WEIGHT* gate, float* logits, int* expert_ids,
                                    float* expert_weights, int T, int D, int K) {
  route_tokens<TOKENS>(x, gate, logits, expert_ids, expert_weights, T, D, K);
}

// The lanes whose expert is this lane's, by one vote for each bit of its number. EXPERTS itself stands for no expert.
__device__ __forceinline__ unsigned lanes_alike(int expert) {
  unsigned alike = 0xffffffffu;
#pragma unroll
  for (int bit = 1; bit <= EXPERTS; bit *= 2) {
    unsigned set = __ballot_sync(0xffffffffu, (expert & bit) != 0);
    alike &= expert & bit ? set : ~set;
  }
  return alike;
}

// How many pairs of each warp chose each expert, into shared memory; returns the lanes with this thread's expert. The
// counts are whole after the barrier at the end.
__device__ __forceinline__ unsigned count_by_warp(int expert, int (&counts)[TILE / 32][EXPERTS]) {
  for (int i = threadIdx.x; i < TILE / 32 * EXPERTS; i += TILE) counts[i / EXPERTS][i % EXPERTS] = 0;
  __syncthreads();
  unsigned alike = lanes_alike(expert), below = (1u << threadIdx.x % 32) - 1;
  if (expert < EXPERTS && !(alike & below)) counts[threadIdx.x / 32][expert] = __popc(alike);
  __syncthreads();
  return alike;
}

// The pairs (token, rank) of all tokens, sorted by expert for a product over each expert's tokens, in two kernels and
// without atomics. This one counts the pairs of each tile of TILE: of_tiles (tiles, E).
extern "C" __global__ void route_v3_count(const int* expert_ids, int* of_tiles, int pairs) {
  __shared__ int counts[TILE / 32][EXPERTS];
  int pair = blockIdx.x * TILE + threadIdx.x;
  count_by_warp(pair < pairs ? expert_ids[pair] : EXPERTS, counts);
  if (threadIdx.x < EXPERTS) {
    int sum = 0;
    for (int warp = 0; warp < TILE / 32; warp++) sum += counts[warp][threadIdx.x];
    of_tiles[blockIdx.x * EXPERTS + threadIdx.x] = sum;
  }
}

// This one gives every pair its place: after the pairs of lower experts and the earlier pairs of its own expert.
//   counts (E,); offsets (E + 1,), exclusive sums of counts; order (T * K,), pairs token * K + rank by expert, each
//   expert's in ascending order.
extern "C" __global__ void route_v3_place(const int* expert_ids, const int* of_tiles, int* counts, int* offsets,
                                          int* order, int pairs) {
  __shared__ int of_warps[TILE / 32][EXPERTS], totals[EXPERTS], starts[EXPERTS];
  int pair = blockIdx.x * TILE + threadIdx.x, expert = pair < pairs ? expert_ids[pair] : EXPERTS;
  unsigned alike = count_by_warp(expert, of_warps);
  int e = threadIdx.x, total = 0, earlier = 0;  // of expert e: all pairs, and those of earlier tiles
  if (e < EXPERTS) {
    for (int tile = 0; tile < gridDim.x; tile++) {
      int count = of_tiles[tile * EXPERTS + e];
      total += count;
      if (tile < blockIdx.x) earlier += count;
    }
    totals[e] = total;
  }
  __syncthreads();
  if (e < EXPERTS) {
    int offset = 0;
    for (int lower = 0; lower < e; lower++) offset += totals[lower];
    starts[e] = offset + earlier;
    if (blockIdx.x == 0) {
      counts[e] = total, offsets[e] = offset;
      if (e == EXPERTS - 1) offsets[EXPERTS] = offset + total;
    }
  }
  __syncthreads();
  if (pair < pairs) {
    int place = starts[expert] + __popc(alike & ((1u << threadIdx.x % 32) - 1));
    for (int warp = 0; warp < threadIdx.x / 32; warp++) place += of_warps[warp][expert];
    order[place] = pair;
  }
}
