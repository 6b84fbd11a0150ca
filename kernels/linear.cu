// A linear map for few tokens, as when a model writes: the weights are read once for up to 16 of them.
//
// NumPy: tiny/numerics.py linear product
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, D numbers of a token before the map and N after it. All arrays are row-major and contiguous: x (T, D) and
// out (T, N) of STORE; weight (N, D) of WEIGHT, which is float, __nv_bfloat16 or signed char; scale (N,) of SCALE;
// bias (N,) and residual (T, N) of STORE. What follows the product is chosen by the options of epilogue.cuh. Everything
// is computed in float, and out is rounded to STORE once. A sum has one order for each N, D and version, however many
// tokens there are: equal bits.
//
// linear_v1: grid (T, ceil(N / threads)), block any.
// linear_v2: grid (ceil(T / TOKENS), ceil(N / WARPS)), block WARPS * 32.
// linear_v3: grid (ceil(T / TOKENS), ceil(N / BLOCK_ROWS)), block WARPS * 32; SPLIT divides WARPS.
// Tokens are the fast axis of the grid: blocks that want the same rows run close together and share them in the L2
// cache.
#include "epilogue.cuh"
#include "numbers.cuh"
#include "ptx.cuh"

#ifndef WARPS
#define WARPS 8  // warps of a block
#endif
#ifndef TOKENS
#define TOKENS 1  // tokens that share a read of the weights, v2 and v3
#endif
#ifndef ROWS
#define ROWS 2  // rows of the weights for each warp, v3; ROWS * TOKENS is at most 32
#endif
#ifndef SPLIT
#define SPLIT 1  // warps that share a row, v3
#endif
// v1: a thread for each number of the output
// Costs: 32 lanes read 32 rows, a sector for each number of a lane; every token reads all weights again.
// Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void linear_v1(const STORE* x, const WEIGHT* weight, const SCALE* scale, const STORE* bias,
                                     const STORE* residual, STORE* out, int D, int N) {
  int row = blockIdx.y * blockDim.x + threadIdx.x;
  if (row >= N) return;
  size_t token = blockIdx.x, place = token * N + row;
  float sum = 0.0f;
  for (int i = 0; i < D; i++) {
    // (1) weights become float32, a block of rows at a time
    //     (here each number, as it is read)
    float w = to_float(weight[(size_t)row * D + i]);
    // (2) each row with each token
    sum += w * to_float(x[token * D + i]);
  }
  // (3) round what comes out
  out[place] = finish(sum, scale, bias, residual, row, place);
}

// Numbers of a row that a lane takes at a time.
constexpr int CHUNK = WIDE<WEIGHT>;

// The products of R rows of the weights with the tokens from `first` on, as far as this lane has a share in them: it is
// one of `lanes`, which take turns. Tokens past the last one repeat it. Rows that do not begin at multiples of 16 bytes,
// or end between them, are read number by number. STREAM: weights pass the L1 cache.
template <int R, bool STREAM>
__device__ __forceinline__ void add_products(const WEIGHT* const (&row)[R], const STORE* x, int first, int T, int D,
                                             int lane, int lanes, float (&sums)[R][TOKENS]) {
  bool wide = D % CHUNK == 0 && is_aligned16(x) && is_aligned16(row[0]);
  x += (size_t)first * D;
  int last = T - 1 - first;  // places of these few tokens are counted from here, in 32 bits: that saves registers
  if (wide) {
    // Parts whose loads are under way together. The sums of many tokens leave no registers for more than one.
    constexpr int ahead = STREAM && TOKENS <= 2 ? (CHUNK < 16 ? 4 : 2) : 1;
#pragma unroll ahead
    for (int i = lane * CHUNK; i < D; i += lanes * CHUNK) {
      float w[R][CHUNK], part[CHUNK];
#pragma unroll
      for (int r = 0; r < R; r++) {
        if (STREAM) unpack16(load_streaming16(row[r] + i), w[r]);
        else load16(row[r] + i, w[r]);
      }
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        load_beside(x + (min(t, last) * D + i), part);
#pragma unroll
        for (int j = 0; j < R * CHUNK; j++) sums[j / CHUNK][t] += w[j / CHUNK][j % CHUNK] * part[j % CHUNK];
      }
    }
  } else {
#pragma unroll 1
    for (int i = lane; i < D; i += lanes) {
#pragma unroll
      for (int j = 0; j < R * TOKENS; j++) {
        float number = to_float(x[min(j / R, last) * D + i]);
        sums[j % R][j / R] += to_float(row[j % R][i]) * number;
      }
    }
  }
}

// Add up the lanes' sums. Lane t * R + r gets that of row r with token t; the lanes after the last get zero.
template <int R> __device__ __forceinline__ float sum_of_lane(float (&sums)[R][TOKENS]) {
  float own = 0.0f;
#pragma unroll
  for (int t = 0; t < TOKENS; t++) {
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        sums[r][t] += __shfl_xor_sync(0xffffffffu, sums[r][t], distance);
      }
      if (threadIdx.x % 32 == t * R + r) own = sums[r][t];
    }
  }
  return own;
}

// v2: a warp for each row, 16 bytes a lane; up to 16 tokens share them
// Costs: TOKENS sums in registers, and 5 shuffles for each.
// Saves: all bytes of the weights that move are used, and they move once for TOKENS tokens.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
linear_v2(const STORE* x, const WEIGHT* weight, const SCALE* scale, const STORE* bias, const STORE* residual,
          STORE* out, int T, int D, int N) {
  int lane = threadIdx.x % 32, first = blockIdx.x * TOKENS, row = blockIdx.y * WARPS + threadIdx.x / 32;
  if (row >= N) return;  // the whole warp
  const WEIGHT* rows[1] = {weight + (size_t)row * D};
  float sums[1][TOKENS] = {};
  add_products<1, false>(rows, x, first, T, D, lane, 32, sums);
  float sum = sum_of_lane<1>(sums);
  size_t place = (size_t)(first + lane) * N + row;
  if (lane < TOKENS && first + lane < T) out[place] = finish(sum, scale, bias, residual, row, place);
}

constexpr int BLOCK_ROWS = WARPS / SPLIT * ROWS;  // rows of a block, v3

// v3: weights stream past the L1 cache; where rows are few, SPLIT warps share each; a block writes its rows together
// Costs: a barrier, and WARPS * 128 bytes of shared memory; ROWS times the registers for weights and sums.
// Saves: the L1 cache keeps x, which every row reads, and not weights that are read once; ROWS rows share the reads of
// x, and their loads are under way together; a map with few rows still has work for all multiprocessors.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)
linear_v3(const STORE* x, const WEIGHT* weight, const SCALE* scale, const STORE* bias, const STORE* residual,
          STORE* out, int T, int D, int N) {
  static_assert(ROWS * TOKENS <= 32 && WARPS % SPLIT == 0, "a lane for each sum, and whole groups of warps");
  __shared__ float partial[WARPS][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * TOKENS;
  int block_row = blockIdx.y * BLOCK_ROWS, row = block_row + warp / SPLIT * ROWS;
  const WEIGHT* rows[ROWS];
  float sums[ROWS][TOKENS] = {};
#pragma unroll
  for (int r = 0; r < ROWS; r++) rows[r] = weight + (size_t)min(row + r, N - 1) * D;  // the last may come twice
  add_products<ROWS, true>(rows, x, first, T, D, warp % SPLIT * 32 + lane, SPLIT * 32, sums);
  partial[warp][lane] = sum_of_lane<ROWS>(sums);
  __syncthreads();
  for (int i = threadIdx.x; i < BLOCK_ROWS * TOKENS; i += WARPS * 32) {
    int token = i / BLOCK_ROWS, at = i % BLOCK_ROWS;
    if (first + token >= T || block_row + at >= N) continue;
    float sum = 0.0f;
    for (int part = 0; part < SPLIT; part++) sum += partial[at / ROWS * SPLIT + part][token * ROWS + at % ROWS];
    size_t place = (size_t)(first + token) * N + block_row + at;
    out[place] = finish(sum, scale, bias, residual, block_row + at, place);
  }
}
