// The experts, for few tokens: every token through the experts that it chose, and their weighted answers added up.
//
// NumPy: tiny/experts.py feed_forward experts
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, D dim, F hidden_dim, E num_experts, K num_experts_per_tok. All arrays are row-major and contiguous:
//   x (T, D), expert_ids (T, K) ids from 0 to E - 1, expert_weights (T, K), hidden (T, K, F), out (T, D);
//   w1, w2, w3: tables of E pointers, to matrices (F, D), (D, F), (F, D). So nothing is stacked or copied, and
//   nothing is read of an expert that no token chose: its pointer may be any.
//   s1, s2, s3: tables of E pointers, to the scales (F,), (D,), (F,) of whole numbers as int8.py makes them. They are
//   read where SCALED is 1, and may be any tables where it is 0.
// DENSE: there is one expert, which every token has with the weight 1; expert_ids and expert_weights are not read.
// Products and sums are float; hidden and out are rounded to STORE once. Ids are read on the device. A token's experts
// are added in ascending index, as in NumPy, and every sum has one fixed order: equal inputs give equal bits.
//
// experts_v1: grid T, block any, shared memory D * 8 bytes + F numbers of STORE.
// experts_v2, experts_v3, experts_v4: grid (T * K, rows of w1 / rows of a block), block WARPS * 32; writes hidden.
// experts_v2_down, ..._v3_down, ..._v4_down: grid (T, rows of w2 / rows of a block), block WARPS * 32; writes out.
// The tokens are the fast axis of the grid, so that blocks which want the same rows run close together and all but the
// first of them find the rows in the L2 cache.
#include "numbers.cuh"
#include "ptx.cuh"
#include "swiglu.cuh"

#ifndef WARPS
#define WARPS 8  // warps of a block
#endif
#ifndef ROWS
#define ROWS 2  // rows of the output for each warp, v3 and v4
#endif
#ifndef SPLIT
#define SPLIT 1  // warps that share a row of w2, v4; divides WARPS
#endif

// The expert of a choice, and its weight.
__device__ __forceinline__ int expert_of(const int* expert_ids, size_t pair) { return DENSE ? 0 : expert_ids[pair]; }
__device__ __forceinline__ float weight_of(const float* expert_weights, size_t pair) {
  return DENSE ? 1.0f : expert_weights[pair];
}

__device__ __forceinline__ float dot_v1(const WEIGHT* row, const STORE* x, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; i++) sum += to_float(row[i]) * to_float(x[i]);
  return sum;
}

__device__ void feed_forward_v1(const STORE* x, const WEIGHT* w1, const WEIGHT* w2, const WEIGHT* w3, const SCALE* s1,
                                const SCALE* s2, const SCALE* s3, STORE* hidden, float* answer, int D, int F) {
  // (1) a block of tokens at a time, because the hidden states are the widest arrays of the model
  //     (one token for each block of threads: its hidden state is in shared memory)
  for (int f = threadIdx.x; f < F; f += blockDim.x) {
    // (2) the gate, through SiLU, times the linear branch
    float gate = silu(scaled(dot_v1(w1 + (size_t)f * D, x, D), s1, f));
    hidden[f] = from_float<STORE>(gate * scaled(dot_v1(w3 + (size_t)f * D, x, D), s3, f));
  }
  __syncthreads();
  for (int d = threadIdx.x; d < D; d += blockDim.x) {
    // (3) back to the width of the model
    answer[d] = scaled(dot_v1(w2 + (size_t)d * F, hidden, F), s2, d);
  }
  __syncthreads();  // the hidden state of the next expert goes to the same place
}

// v1: a block of threads for each token, which takes the experts one by one; a thread for each row of a matrix
// Costs: one multiprocessor for each token, and 32 lanes that read 32 rows: 32 sectors for each 2 or 4 bytes of a lane.
// Saves: the hidden state never leaves the chip.
extern "C" __global__ void experts_v1(const STORE* x, const int* expert_ids, const float* expert_weights,
                                      const WEIGHT* const* w1, const WEIGHT* const* w2, const WEIGHT* const* w3,
                                      const SCALE* const* s1, const SCALE* const* s2, const SCALE* const* s3,
                                      STORE* out, int D, int F, int E, int K) {
  extern __shared__ __align__(16) unsigned char smem[];
  float* total = reinterpret_cast<float*>(smem);  // D numbers; a thread reads only those that it wrote
  float* answer = total + D;                      // D numbers, likewise
  STORE* hidden = reinterpret_cast<STORE*>(answer + D);  // F numbers
  size_t token = blockIdx.x;
  for (int d = threadIdx.x; d < D; d += blockDim.x) total[d] = 0.0f;
  for (int e = 0; e < E; e++) {
    for (int rank = 0; rank < K; rank++) {
      // (1) the tokens that chose this expert, and as which of their choices
      size_t pair = token * K + rank;
      if (expert_of(expert_ids, pair) != e) continue;
      // (2) the expert's answer for just those tokens
      feed_forward_v1(x + token * D, w1[e], w2[e], w3[e], s1[e], s2[e], s3[e], hidden, answer, D, F);
      // (3) add it, weighted; a token has an expert once at most, so no row is added twice
      for (int d = threadIdx.x; d < D; d += blockDim.x) total[d] += weight_of(expert_weights, pair) * answer[d];
    }
  }
  for (int d = threadIdx.x; d < D; d += blockDim.x) out[token * D + d] = from_float<STORE>(total[d]);
}

// Numbers that a lane takes at a time: 16 bytes of the narrower type.
constexpr int CHUNK = WIDE<STORE> > WIDE<WEIGHT> ? WIDE<STORE> : WIDE<WEIGHT>;

template <class S> __device__ __forceinline__ void load_chunk(const S* from, float (&to)[CHUNK]) {
#pragma unroll
  for (int i = 0; i < CHUNK; i += WIDE<S>) {
    float part[WIDE<S>];
    load16(from + i, part);
#pragma unroll
    for (int j = 0; j < WIDE<S>; j++) to[i + j] = part[j];
  }
}

// The products of R rows of a matrix with one vector, by the lanes of a warp together; every lane gets all R sums.
// Rows that do not begin at multiples of 16 bytes, or end between them, are read number by number.
template <int R>
__device__ __forceinline__ void dots(const WEIGHT* const (&row)[R], const STORE* x, int n, float (&sum)[R]) {
  int lane = threadIdx.x % 32;
  bool wide = n % CHUNK == 0 && is_aligned16(x);
#pragma unroll
  for (int r = 0; r < R; r++) {
    sum[r] = 0.0f;
    wide = wide && is_aligned16(row[r]);
  }
  if (wide) {
    for (int i = lane * CHUNK; i < n; i += 32 * CHUNK) {
      float a[CHUNK], w[R][CHUNK];
      load_chunk(x + i, a);
#pragma unroll
      for (int r = 0; r < R; r++) load_chunk(row[r] + i, w[r]);
#pragma unroll
      for (int r = 0; r < R; r++) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) sum[r] += w[r][j] * a[j];
      }
    }
  } else {
    for (int i = lane; i < n; i += 32) {
#pragma unroll
      for (int r = 0; r < R; r++) sum[r] += to_float(row[r][i]) * to_float(x[i]);
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++) {
    for (int other = 16; other > 0; other /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], other);
  }
}

// Two sums of a row are a number of the hidden state.
__device__ __forceinline__ STORE swiglu(float gate, float branch, const SCALE* s1, const SCALE* s3, int row) {
  return from_float<STORE>(silu(scaled(gate, s1, row)) * scaled(branch, s3, row));
}

// One token with one of its experts, R numbers of the hidden state for each warp. A row past the last one repeats the
// last one and is not written.
template <int R>
__device__ __forceinline__ void hidden_rows(const STORE* x, const int* expert_ids, const WEIGHT* const* w1,
                                            const WEIGHT* const* w3, const SCALE* const* s1, const SCALE* const* s3,
                                            STORE* hidden, int D, int F, int K) {
  size_t pair = blockIdx.x;
  int expert = expert_of(expert_ids, pair), first = (blockIdx.y * WARPS + threadIdx.x / 32) * R;
  const WEIGHT* row[2 * R];
  float sum[2 * R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    size_t at = (size_t)min(first + r, F - 1) * D;
    row[2 * r] = w1[expert] + at;
    row[2 * r + 1] = w3[expert] + at;
  }
  dots<2 * R>(row, x + pair / K * D, D, sum);
#pragma unroll
  for (int r = 0; r < R; r++) {
    if (threadIdx.x % 32 == 0 && first + r < F) {
      hidden[pair * F + first + r] = swiglu(sum[2 * r], sum[2 * r + 1], s1[expert], s3[expert], first + r);
    }
  }
}

// One token, R numbers of the output for each warp: the answers of its experts, weighted, in ascending index.
template <int R>
__device__ __forceinline__ void output_rows(const STORE* hidden, const int* expert_ids, const float* expert_weights,
                                            const WEIGHT* const* w2, const SCALE* const* s2, STORE* out, int D, int F,
                                            int E, int K) {
  size_t token = blockIdx.x;
  int first = (blockIdx.y * WARPS + threadIdx.x / 32) * R;
  float total[R] = {};
  for (int e = 0; e < E; e++) {
    for (int rank = 0; rank < K; rank++) {
      size_t pair = token * K + rank;
      if (expert_of(expert_ids, pair) != e) continue;  // the same for the whole warp
      const WEIGHT* row[R];
      float answer[R];
#pragma unroll
      for (int r = 0; r < R; r++) row[r] = w2[e] + (size_t)min(first + r, D - 1) * F;
      dots<R>(row, hidden + pair * F, F, answer);
#pragma unroll
      for (int r = 0; r < R; r++) {
        total[r] += weight_of(expert_weights, pair) * scaled(answer[r], s2[e], min(first + r, D - 1));
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++) {
    if (threadIdx.x % 32 == 0 && first + r < D) out[token * D + first + r] = from_float<STORE>(total[r]);
  }
}

// v2: a warp for each row, 16 bytes a lane; SwiGLU ends one product, the weighted sum over the experts the other
// Costs: a second launch, and hidden through global memory (4 T K F bytes of bfloat16, beside 6 T K D F of weights).
// Saves: every byte that moves is used, on all multiprocessors; gates, branches and answers are never arrays.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
experts_v2(const STORE* x, const int* expert_ids, const WEIGHT* const* w1, const WEIGHT* const* w3,
           const SCALE* const* s1, const SCALE* const* s3, STORE* hidden, int D, int F, int K) {
  hidden_rows<1>(x, expert_ids, w1, w3, s1, s3, hidden, D, F, K);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
experts_v2_down(const STORE* hidden, const int* expert_ids, const float* expert_weights, const WEIGHT* const* w2,
                const SCALE* const* s2, STORE* out, int D, int F, int E, int K) {
  output_rows<1>(hidden, expert_ids, expert_weights, w2, s2, out, D, F, E, K);
}

// v3: ROWS rows for each warp share every read of x, and their loads are under way together
// Costs: ROWS times the registers for weights and sums; a matrix of few rows keeps fewer warps busy.
// Saves: all but one in ROWS of the loads of x, which v2 reads again for every row; ROWS times the bytes under way.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
experts_v3(const STORE* x, const int* expert_ids, const WEIGHT* const* w1, const WEIGHT* const* w3,
           const SCALE* const* s1, const SCALE* const* s3, STORE* hidden, int D, int F, int K) {
  hidden_rows<ROWS>(x, expert_ids, w1, w3, s1, s3, hidden, D, F, K);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
experts_v3_down(const STORE* hidden, const int* expert_ids, const float* expert_weights, const WEIGHT* const* w2,
                const SCALE* const* s2, STORE* out, int D, int F, int E, int K) {
  output_rows<ROWS>(hidden, expert_ids, expert_weights, w2, s2, out, D, F, E, K);
}

// The products of R rows with one vector, as far as this lane has a share in them: it is one of `lanes`, which take
// turns. A pointer out of a table has no address space, so that a plain load of it asks the hardware which memory it
// means; a streaming load says global, and that nothing writes there.
template <int R>
__device__ __forceinline__ void streaming_dots(const WEIGHT* const (&row)[R], const STORE* x, int n, int lane, int lanes,
                                               float (&sum)[R]) {
  constexpr int chunk = WIDE<WEIGHT>;
  bool wide = n % chunk == 0 && is_aligned16(x);
#pragma unroll
  for (int r = 0; r < R; r++) {
    sum[r] = 0.0f;
    wide = wide && is_aligned16(row[r]);
  }
  if (wide) {
    constexpr int ahead = (chunk < 16 ? 8 : 4) / R;  // parts whose loads are under way together
#pragma unroll ahead
    for (int i = lane * chunk; i < n; i += lanes * chunk) {
      float w[R][chunk], part[chunk];
#pragma unroll
      for (int r = 0; r < R; r++) unpack16(load_streaming16(row[r] + i), w[r]);
      load_beside(x + i, part);
#pragma unroll
      for (int j = 0; j < R * chunk; j++) sum[j / chunk] += w[j / chunk][j % chunk] * part[j % chunk];
    }
  } else {
#pragma unroll 1
    for (int i = lane; i < n; i += lanes) {
#pragma unroll
      for (int r = 0; r < R; r++) sum[r] += to_float(row[r][i]) * to_float(x[i]);
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++) {
    for (int other = 16; other > 0; other /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], other);
  }
}

// Which of a token's choices has the least expert behind `last`; -1 for none.
__device__ __forceinline__ int next_choice(const int* expert_ids, size_t token, int K, int last) {
  int found = -1, least = 0;
  for (int rank = 0; rank < K; rank++) {
    int expert = expert_of(expert_ids, token * K + rank);
    if (expert > last && (found < 0 || expert < least)) found = rank, least = expert;
  }
  return found;
}

// v4: weights stream past the L1 cache, more of them under way; SPLIT warps share the rows of w2
// Costs: a barrier and 4 WARPS * ROWS bytes of shared memory behind w2; registers for the loads that are under way.
// Saves: the L1 cache keeps x and hidden, which every row reads, and not weights that are read once; w2, whose rows are
// few and long, has work for SPLIT times as many warps.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 3)
experts_v4(const STORE* x, const int* expert_ids, const WEIGHT* const* w1, const WEIGHT* const* w3,
           const SCALE* const* s1, const SCALE* const* s3, STORE* hidden, int D, int F, int K) {
  size_t pair = blockIdx.x;
  int lane = threadIdx.x % 32, expert = expert_of(expert_ids, pair);
  int first = (blockIdx.y * WARPS + threadIdx.x / 32) * ROWS;
  const WEIGHT* row[2 * ROWS];
  float sum[2 * ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    size_t at = (size_t)min(first + r, F - 1) * D;
    row[2 * r] = w1[expert] + at;
    row[2 * r + 1] = w3[expert] + at;
  }
  streaming_dots<2 * ROWS>(row, x + pair / K * D, D, lane, 32, sum);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (lane == r && first + r < F) {
      hidden[pair * F + first + r] = swiglu(sum[2 * r], sum[2 * r + 1], s1[expert], s3[expert], first + r);
    }
  }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 3)
experts_v4_down(const STORE* hidden, const int* expert_ids, const float* expert_weights, const WEIGHT* const* w2,
                const SCALE* const* s2, STORE* out, int D, int F, int K) {
  constexpr int block_rows = WARPS / SPLIT * ROWS;
  static_assert(WARPS % SPLIT == 0 && block_rows <= WARPS * 32, "whole groups of warps, and a thread for each row");
  __shared__ float partial[WARPS][ROWS];
  size_t token = blockIdx.x;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.y * block_rows + warp / SPLIT * ROWS;
  float total[ROWS] = {};
  int last = -1;
  for (int rank; (rank = next_choice(expert_ids, token, K, last)) >= 0;) {  // the same for the whole block
    size_t pair = token * K + rank;
    last = expert_of(expert_ids, pair);
    const WEIGHT* row[ROWS];
    float answer[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) row[r] = w2[last] + (size_t)min(first + r, D - 1) * F;
    streaming_dots<ROWS>(row, hidden + pair * F, F, warp % SPLIT * 32 + lane, SPLIT * 32, answer);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      total[r] += weight_of(expert_weights, pair) * scaled(answer[r], s2[last], min(first + r, D - 1));
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    if (lane == r) partial[warp][r] = total[r];
  }
  __syncthreads();
  int at = threadIdx.x, written = blockIdx.y * block_rows + at;
  if (at >= block_rows || written >= D) return;
  float sum = 0.0f;
  for (int part = 0; part < SPLIT; part++) sum += partial[at / ROWS * SPLIT + part][at % ROWS];
  out[token * D + written] = from_float<STORE>(sum);
}
