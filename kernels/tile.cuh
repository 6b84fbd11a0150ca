// The product of a tile: 128 tokens with 128 rows of weights, by one block of threads.
//
// Two ways, for kernels that say what the rows are and what becomes of the sums: `plain` on the float units, for any
// types, and `tensor` on tensor cores, for bfloat16 activations with weights in bfloat16 or int8. Tokens and rows come
// through functions of their number in the tile, so that they may be gathered or interleaved. Those that are not there
// are zero, as are columns behind the last: D may be any. The order of a sum depends on D alone.
#pragma once
#include "numbers.cuh"
#include "ptx.cuh"

#ifndef TILE_ROWS
#define TILE_ROWS 128  // rows of weights of a block on tensor cores: 128, or 256
#endif
constexpr int TILE = 128;      // tokens of a block, and rows of weights on the float units
constexpr int ROW_PARTS = 4;   // in shared memory a row of a tile is 64 bytes, four parts of 16

// Where a part of a row is, counted in parts. The parts of a row change places with its number: so eight rows' equal
// parts meet all 32 banks, and so do two whole rows.
__device__ __forceinline__ int place_of(int row, int part) { return row * ROW_PARTS + (part ^ row / 2 % ROW_PARTS); }

namespace plain {
constexpr int THREADS = 256, DEPTH = 16;  // columns of a tile
constexpr int SHARE = TILE / 16;  // tokens, and rows, of a thread: every 16th, from threadIdx.x / 16 and % 16 on
constexpr int COPIES = TILE * ROW_PARTS / THREADS;

// Four numbers of `from` become float and a part of the tile; `there` of them are to be read.
template <class S> __device__ __forceinline__ void copy(float* to, const S* from, int there, bool wide) {
  float part[4] = {};
  if (there > 0) load_some(from, there, wide, part);
  store16(to, part);
}

// sums += x_row(token) . w_row(row) for the thread's tokens and rows. wide: rows begin at multiples of four numbers.
template <class X, class W>
__device__ __forceinline__ void multiply(X x_row, int tokens, W w_row, int rows, int D, bool wide,
                                         float (&sums)[SHARE][SHARE]) {
  __shared__ __align__(16) float x_tile[TILE * DEPTH], w_tile[TILE * DEPTH];
  int row = threadIdx.x / ROW_PARTS, part = threadIdx.x % ROW_PARTS;  // the first that this thread copies
  const STORE* x[COPIES];
  const WEIGHT* w[COPIES];
#pragma unroll
  for (int j = 0; j < COPIES; j++) {
    int at = row + j * (TILE / COPIES);
    x[j] = x_row(min(at, tokens - 1)) + part * 4, w[j] = w_row(min(at, rows - 1)) + part * 4;
  }
  for (int k = 0; k < D; k += DEPTH) {
    __syncthreads();  // the last tile has been read
#pragma unroll
    for (int j = 0; j < COPIES; j++) {
      int at = row + j * (TILE / COPIES), there = D - k - part * 4;
      copy(x_tile + 4 * place_of(at, part), x[j] + k, at < tokens ? there : 0, wide);
      copy(w_tile + 4 * place_of(at, part), w[j] + k, at < rows ? there : 0, wide);
    }
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < ROW_PARTS; c++) {
      float4 weight[SHARE];
#pragma unroll
      for (int j = 0; j < SHARE; j++) {
        weight[j] = *reinterpret_cast<const float4*>(w_tile + 4 * place_of(threadIdx.x % 16 + 16 * j, c));
      }
#pragma unroll
      for (int i = 0; i < SHARE; i++) {
        if (16 * i >= tokens) continue;  // the same for all threads: few tokens take less time
        float4 number = *reinterpret_cast<const float4*>(x_tile + 4 * place_of(threadIdx.x / 16 + 16 * i, c));
#pragma unroll
        for (int j = 0; j < SHARE; j++) {
          sums[i][j] += number.x * weight[j].x + number.y * weight[j].y + number.z * weight[j].z +
                        number.w * weight[j].w;
        }
      }
    }
  }
}
}  // namespace plain

namespace tensor {
// With 128 rows a block has 4 warps, and two blocks fill the registers of a multiprocessor; with 256 rows it has 8 and
// fills them alone, and reads x once where two blocks read it twice.
constexpr int ROWS = TILE_ROWS, THREADS = ROWS, BLOCKS = 256 / THREADS, DEPTH = 32, STAGES = 3;
constexpr int SHARE = 64;  // tokens, and rows, of a warp
constexpr int X_TILE = TILE * DEPTH, STAGE = X_TILE + ROWS * DEPTH;  // numbers of a tile of x; and with that of weights
constexpr int BYTES = STAGES * STAGE * 2;                            // of shared memory: 48 KiB or 72
typedef __nv_bfloat16 Number;
template <class S> struct Kind { typedef Number type; };
template <> struct Kind<signed char> { typedef signed char type; };
typedef Kind<WEIGHT>::type Weight;  // what WEIGHT has to be for this: a file is compiled with float ones too

// The sums of a warp in the layout of mma.m16n8k16: [m][n] has 16 tokens and 8 rows, of which a lane holds rows
// lane % 4 * 2 and the next, for token lane / 4 and then for token lane / 4 + 8.
typedef float Sums[SHARE / 16][SHARE / 8][4];

__device__ __forceinline__ int first_token() { return threadIdx.x / 32 / (ROWS / SHARE) * SHARE; }
__device__ __forceinline__ int first_row() { return threadIdx.x / 32 % (ROWS / SHARE) * SHARE; }

// What one thread copies of a tile of HEIGHT rows: 16 bytes of each of COPIES. Whole numbers of a byte wait in
// registers until the products are under way, and then become bfloat16 numbers, which hold all of them exactly.
template <class S, int HEIGHT> struct Copier {
  static constexpr int PARTS = DEPTH / WIDE<S>, COPIES = HEIGHT * PARTS / THREADS;
  static constexpr bool WHOLE = sizeof(S) == 1;
  const S* from[COPIES];
  uint4 waiting[WHOLE ? COPIES : 1];
  int rows, D;
  bool wide;

  __device__ __forceinline__ int row(int j) const { return threadIdx.x / PARTS + j * (HEIGHT / COPIES); }
  __device__ __forceinline__ int column() const { return threadIdx.x % PARTS * WIDE<S>; }

  template <class R> __device__ __forceinline__ void aim(R row_of, int rows_there, int columns, bool aligned) {
    rows = rows_there, D = columns, wide = aligned && columns % WIDE<S> == 0;
#pragma unroll
    for (int j = 0; j < COPIES; j++) from[j] = row_of(min(row(j), rows - 1)) + column();
  }

  // Begin with the columns from k on. Rows that do not begin at multiples of 16 bytes are read number by number.
  __device__ __forceinline__ void begin(Number* to, int k) {
#pragma unroll
    for (int j = 0; j < COPIES; j++) {
      int there = row(j) < rows ? D - k - column() : 0;
      if constexpr (WHOLE) {
        waiting[j] = make_uint4(0, 0, 0, 0);
        if (wide && there > 0) waiting[j] = load_streaming16(from[j] + k);
        if (!wide) gather(waiting[j], from[j] + k, there);
      } else {
        Number* part = to + place_of(row(j), column() / 8) * 8;
        if (wide) {
          cp_async16(part, there > 0 ? from[j] + k : from[j], there > 0);
        } else {
          float numbers[8];
          load_some(from[j] + k, there, false, numbers);
          store16(part, numbers);
        }
      }
    }
  }

  __device__ __forceinline__ static void gather(uint4& bits, const signed char* bytes, int there) {
    unsigned words[4] = {};
#pragma unroll
    for (int i = 0; i < 16; i++) {
      if (i < there) words[i / 4] |= (unsigned)(unsigned char)bytes[i] << 8 * (i % 4);
    }
    bits = make_uint4(words[0], words[1], words[2], words[3]);
  }

  // What waits becomes bfloat16. The floats of such small whole numbers have nothing in their lower halves.
  __device__ __forceinline__ void end(Number* to) {
    if constexpr (WHOLE) {
#pragma unroll
      for (int j = 0; j < COPIES; j++) {
        float numbers[16];
        unpack16(waiting[j], numbers);
        unsigned words[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
          words[i] = __byte_perm(__float_as_uint(numbers[2 * i]), __float_as_uint(numbers[2 * i + 1]), 0x7632);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
          *reinterpret_cast<uint4*>(to + place_of(row(j), column() / 8 + half) * 8) =
              make_uint4(words[4 * half], words[4 * half + 1], words[4 * half + 2], words[4 * half + 3]);
        }
      }
    }
  }
};

// Products of one stage. A row of weights already is a column of the second operand: no transposition.
__device__ __forceinline__ void multiply_stage(const Number* x_tile, const Number* w_tile, Sums& sums) {
  int lane = threadIdx.x % 32, token = first_token() + lane % 16, row = first_row() + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < DEPTH / 16; k++) {
    unsigned a[SHARE / 16][4];
#pragma unroll
    for (int m = 0; m < SHARE / 16; m++) {
      ldmatrix_x4(a[m], x_tile + place_of(token + 16 * m, 2 * k + lane / 16) * 8);
    }
#pragma unroll
    for (int n = 0; n < SHARE / 16; n++) {
      unsigned b[4];
      ldmatrix_x4(b, w_tile + place_of(row + 16 * n, 2 * k + lane / 8 % 2) * 8);
      const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < SHARE / 16; m++) {
        mma_16816(sums[m][2 * n], a[m], low);
        mma_16816(sums[m][2 * n + 1], a[m], high);
      }
    }
  }
}

// sums += x_row(token) . w_row(row) for the warp's tokens and rows. While one stage is computed, the copies of the next
// two are under way. A warp without tokens copies and waits with the others.
template <class X, class W>
__device__ __forceinline__ void multiply(X x_row, int tokens, W w_row, int rows, int D, bool aligned,
                                         unsigned char* smem, Sums& sums) {
  Number* stages = reinterpret_cast<Number*>(smem);
  Copier<Number, TILE> x;
  Copier<Weight, ROWS> w;
  x.aim(x_row, tokens, D, aligned), w.aim(w_row, rows, D, aligned);
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    x.begin(stages + s * STAGE, s * DEPTH);
    w.begin(stages + s * STAGE + X_TILE, s * DEPTH);
    w.end(stages + s * STAGE + X_TILE);
    cp_async_commit();
  }
  int here = 0, next = STAGES - 1;
  for (int k = 0; k < D; k += DEPTH) {
    cp_async_wait<STAGES - 2>();  // this thread's copies to this stage are there,
    __syncthreads();              // and those of all others; and all have read the stage before, which comes next
    Number *x_tile = stages + here * STAGE, *to = stages + next * STAGE;
    bool more = k + (STAGES - 1) * DEPTH < D;
    if (more) x.begin(to, k + (STAGES - 1) * DEPTH), w.begin(to + X_TILE, k + (STAGES - 1) * DEPTH);
    cp_async_commit();  // empty after the last copy, so that there are always as many groups to leave in flight
    if (first_token() < tokens) multiply_stage(x_tile, x_tile + X_TILE, sums);
    if (more) w.end(to + X_TILE);
    here = here + 1 == STAGES ? 0 : here + 1, next = next + 1 == STAGES ? 0 : next + 1;
  }
  cp_async_wait<0>();  // also what was begun for columns that are not there: what follows may use the shared memory
  __syncthreads();
}

// Give each lane four neighbouring numbers of a token at a time, so that a warp reads and writes whole sectors: call
// write(token, column, numbers) with their places in the warp's own part.
template <int COLUMNS, class Write>
__device__ __forceinline__ void hand_out(const float (&sums)[SHARE / 16][COLUMNS / 8][4], unsigned char* smem,
                                         Write write) {
  constexpr int stride = COLUMNS + 8;  // four tokens' pairs of numbers meet all 32 banks
  int lane = threadIdx.x % 32;
  float* mine = reinterpret_cast<float*>(smem) + threadIdx.x / 32 * 16 * stride;
#pragma unroll
  for (int m = 0; m < SHARE / 16; m++) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < COLUMNS / 4; i++) {
      int n = i / 2, half = i % 2;
      *reinterpret_cast<float2*>(mine + (lane / 4 + 8 * half) * stride + 8 * n + lane % 4 * 2) =
          make_float2(sums[m][n][2 * half], sums[m][n][2 * half + 1]);
    }
    __syncwarp();
    for (int i = lane; i < 16 * COLUMNS / 4; i += 32) {
      int token = i / (COLUMNS / 4), column = i % (COLUMNS / 4) * 4;
      float numbers[4];
      load16(mine + token * stride + column, numbers);
      write(16 * m + token, column, numbers);
    }
  }
}
}  // namespace tensor
