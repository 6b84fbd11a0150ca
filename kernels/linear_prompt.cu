// The linear map for many tokens, as when a model reads a prompt: tiles of tokens against tiles of weights.
//
// The versions go on from those of linear.cu, which are for few tokens.
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, D numbers of a token before the map and N after it. All arrays are row-major and contiguous: x (T, D) and
// out (T, N) of STORE; weight (N, D) of WEIGHT, which is float, __nv_bfloat16 or signed char; scale (N,) of SCALE;
// bias (N,) and residual (T, N) of STORE. What follows the product is chosen by the options of epilogue.cuh. Sums are
// float, and out is rounded to STORE once. A sum has one order for each D and version, however many tokens there are.
//
// linear_v4: grid (ceil(T / TILE), ceil(N / TILE)), block 256.
// linear_v5: grid (ceil(T / TILE), ceil(N / TILE_ROWS)), block TILE_ROWS, shared memory tensor::BYTES. Only STORE
//   __nv_bfloat16 with WEIGHT __nv_bfloat16 or signed char.
// Tokens are the fast axis of the grid: blocks that want the same weights run close together, and all but the first of
// them find these in the L2 cache.
#include "epilogue.cuh"
#include "tile.cuh"

// v4: tiles of 128 tokens and 128 rows in shared memory, of which a thread adds up 8 by 8
// Costs: two barriers for each 16 columns; 64 sums of a thread in registers; few tokens leave most of a tile empty.
// Saves: weights are read once for 128 tokens, and x once for 128 rows: 32 FLOP for each byte of float. From shared
// memory a thread reads 16 numbers for 64 multiplications and additions.
extern "C" __global__ void __launch_bounds__(plain::THREADS, 2)
linear_v4(const STORE* x, const WEIGHT* weight, const SCALE* scale, const STORE* bias, const STORE* residual,
          STORE* out, int T, int D, int N) {
  using namespace plain;
  int first = blockIdx.x * TILE, first_row = blockIdx.y * TILE, tokens = min(TILE, T - first);
  float sums[SHARE][SHARE] = {};
  multiply([=](int token) { return x + (size_t)(first + token) * D; }, tokens,
           [=](int row) { return weight + (size_t)(first_row + row) * D; }, min(TILE, N - first_row), D,
           D % 4 == 0 && is_aligned16(x) && is_aligned16(weight), sums);
#pragma unroll
  for (int i = 0; i < SHARE; i++) {
#pragma unroll
    for (int j = 0; j < SHARE; j++) {
      int token = threadIdx.x / 16 + 16 * i, row = first_row + threadIdx.x % 16 + 16 * j;
      if (token >= tokens || row >= N) continue;
      size_t place = (size_t)(first + token) * N + row;
      out[place] = finish(sums[i][j], scale, bias, residual, row, place);
    }
  }
}

// v5: the products on tensor cores, from three stages of tiles that asynchronous copies fill
// Costs: only bfloat16 activations, with weights of bfloat16 or int8; 48 or 72 KB of shared memory, so that tiles for
// the next two stages come while one is computed; int8 weights pass the registers, where they become bfloat16.
// Saves: one mma does 4096 FLOP, for which v4 takes 64 instructions of a warp; one ldmatrix brings the 512 bytes of an
// operand for eight of them; one barrier for each 32 columns. Tiles of 256 rows, where there are enough of them, do 85
// FLOP for each byte from the L2 cache, and those of 128 rows 64.
extern "C" __global__ void __launch_bounds__(tensor::THREADS, tensor::BLOCKS)
linear_v5(const __nv_bfloat16* x, const WEIGHT* weight, const SCALE* scale, const __nv_bfloat16* bias,
          const __nv_bfloat16* residual, __nv_bfloat16* out, int T, int D, int N) {
  extern __shared__ __align__(16) unsigned char smem[];
  const tensor::Weight* weights = reinterpret_cast<const tensor::Weight*>(weight);
  int first = blockIdx.x * TILE, first_row = blockIdx.y * tensor::ROWS, tokens = min(TILE, T - first);
  tensor::Sums sums = {};
  tensor::multiply([=](int token) { return x + (size_t)(first + token) * D; }, tokens,
                   [=](int row) { return weights + (size_t)(first_row + row) * D; }, min(tensor::ROWS, N - first_row),
                   D, is_aligned16(x) && is_aligned16(weight), smem, sums);
  bool wide = N % 4 == 0 && is_aligned16(out) && is_aligned16(scale) && is_aligned16(bias) && is_aligned16(residual);
  tensor::hand_out<tensor::SHARE>(sums, smem, [=](int token, int column, float(&numbers)[4]) {
    int row = first_row + tensor::first_row() + column, at = tensor::first_token() + token;
    if (at < tokens && row < N) {
      finish(numbers, scale, bias, residual, out, row, (size_t)(first + at) * N + row, N - row, wide);
    }
  });
}
