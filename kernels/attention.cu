// Attention of many queries: every query averages the values of the keys it may see, weighted by how well they match.
//
// NumPy: tiny/attention.py attention attend
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T queries, S keys, H n_heads, G n_kv_heads, R = H / G heads that share the keys and values of one, d head_dim.
// All arrays are row-major and contiguous: q, out (T, H, d), keys, values (S, G, d) of STORE. Products, softmax and
// sums are float; out is rounded to STORE once, at the end (v3 rounds the weights to bfloat16 too).
//
// Sequences are packed: tiles (tiles, 4) of int says for each tile of queries
//   first, count   its queries are rows first ... first + count - 1 of q
//   start, stop    its last query sees the rows start ... stop - 1 of keys and values
// With causal, every query before the last sees one key less; without (images), all see the same. No other key is ever
// visited: neither those of other sequences nor those ahead of the tile. The first key is seen by every query.
//
// HEAD_DIM any even number up to 128; nothing is padded in global memory.
// attention_v1: grid (tiles, H), block any, shared memory (stop - start) * 4 bytes.
// attention_v2: grid (tiles, G), block 256, count * R <= ROWS, shared memory ((ROWS + 2 * 32) * STRIDE + ROWS * 32) * 4
//   bytes with STRIDE as below.
// attention_v3: grid (tiles, G), block 128, count * R <= ROWS, shared memory 4 * 64 * STRIDE * 2 bytes with STRIDE as
//   below. Only bfloat16.
#include "numbers.cuh"
#include "ptx.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif

constexpr int ROWS = 64;                  // rows of a tile, v2 and v3: a row is one head of one query
constexpr float NEVER = -3.402823466e38f;  // the smallest float: the score of a key that is not seen. Not infinity:
                                           // infinity minus infinity is not a number
constexpr unsigned ALL = 0xffffffffu;      // all lanes of a warp

struct Tile {
  int first, count, start, keys;
};
__device__ __forceinline__ Tile read_tile(const int* tiles) {
  const int* tile = tiles + 4 * (size_t)blockIdx.x;
  return {tile[0], tile[1], tile[2], tile[3] - tile[2]};
}

// v1: a block of threads for each tile of queries and each head, row by row; a thread for each key, then each column
// Costs: every query reads all of its keys and values: 4 d FLOP for 2 d numbers, 1 FLOP a byte in bfloat16; a lane
// reads its own row, 32 sectors for 32 numbers; a row of scores must fit in shared memory.
// Saves: nothing but the memory for T x S scores: it is the NumPy function, loop for loop.
extern "C" __global__ void attention_v1(const STORE* q, const STORE* keys, const STORE* values, const int* tiles,
                                        STORE* out, int H, int G, int causal) {
  extern __shared__ __align__(16) unsigned char smem[];
  float* scores = reinterpret_cast<float*>(smem);
  int h = blockIdx.y, g = h / (H / G);
  // (1) the R query heads that share a KV head, a block of queries at a time: memory grows with the keys
  Tile tile = read_tile(tiles);
  for (int i = 0; i < tile.count; i++) {
    size_t row = ((size_t)(tile.first + i) * H + h) * HEAD_DIM;
    // (2) each text with its own keys, and of those the keys that the block may see
    for (int s = threadIdx.x; s < tile.keys; s += blockDim.x) {
      // (3) scores: how well each query matches each key
      const STORE* key = keys + ((size_t)(tile.start + s) * G + g) * HEAD_DIM;
      float score = 0.0f;
      for (int c = 0; c < HEAD_DIM; c++) score += to_float(q[row + c]) * to_float(key[c]);
      score *= 1.0f / sqrtf(HEAD_DIM);
      // (4) causal mask: only the last t keys can be ahead of a query
      if (causal && s > tile.keys - tile.count + i) score = NEVER;
      scores[s] = score;
    }
    __syncthreads();
    // (5) softmax over the keys, (6) the weighted average of the values
    //     (every thread finds the maximum and the sum by itself; the division comes last, once for each column)
    float highest = NEVER;
    for (int s = 0; s < tile.keys; s++) highest = fmaxf(highest, scores[s]);
    __syncthreads();
    for (int s = threadIdx.x; s < tile.keys; s += blockDim.x) scores[s] = expf(scores[s] - highest);
    __syncthreads();
    for (int c = threadIdx.x; c < HEAD_DIM; c += blockDim.x) {
      float sum = 0.0f, average = 0.0f;
      for (int s = 0; s < tile.keys; s++) {
        sum += scores[s];
        average += scores[s] * to_float(values[((size_t)(tile.start + s) * G + g) * HEAD_DIM + c]);
      }
      out[row + c] = from_float<STORE>(average / sum);
    }
    __syncthreads();  // the scores of the next query go to the same place
  }
}

// Row `row` of a tile in q and out: the heads of a group are side by side, query by query, so that they share a tile.
__device__ __forceinline__ size_t query_row(Tile tile, int row, int R, int G, int g) {
  return ((size_t)(tile.first + row / R) * G * R + g * R + row % R) * HEAD_DIM;
}
// How many of the tile's keys a row sees. Rows after the last have no query; they count as the last.
__device__ __forceinline__ int keys_seen(Tile tile, int row, int R, int causal) {
  return causal ? tile.keys - tile.count + 1 + min(row / R, tile.count - 1) : tile.keys;
}

namespace v2 {
constexpr int WARPS = 8, PART = ROWS / WARPS;  // a warp owns PART rows
constexpr int KEYS = 32;                       // keys of a tile: one for each lane
constexpr int CHUNKS = (HEAD_DIM + 3) / 4;     // 16-byte parts of a row in shared memory, the last filled up with zeros
constexpr int STRIDE = (CHUNKS | 1) * 4;       // an odd number of parts: 8 lanes that read one part of 8 rows meet all
                                               // 32 banks
constexpr int COLUMNS = (HEAD_DIM + 31) / 32;  // columns of the output for each lane

// The running state of a warp's rows: see attend.
struct Rows {
  float highest[PART], sum[PART], total[PART][COLUMNS];
};

// One warp copies a row to shared memory as float; a row that is not there is zero.
__device__ __forceinline__ void copy_row(float* to, const STORE* from, bool there) {
  for (int c = threadIdx.x % 32; c < CHUNKS * 4; c += 32) to[c] = there && c < HEAD_DIM ? to_float(from[c]) : 0.0f;
}

// The scores of PART rows against one key for each lane.
__device__ __forceinline__ void score(const float* queries, const float* key, float (&scores)[PART]) {
#pragma unroll 2  // more loads under way would take more than the 128 registers that a thread has
  for (int c = 0; c < CHUNKS * 4; c += 4) {
    float4 k = *reinterpret_cast<const float4*>(key + c);
#pragma unroll
    for (int i = 0; i < PART; i++) {
      float4 x = *reinterpret_cast<const float4*>(queries + i * STRIDE + c);
      scores[i] += x.x * k.x + x.y * k.y + x.z * k.z + x.w * k.w;
    }
  }
}

// The online softmax: whenever a higher score appears, what was added up before shrinks by exp(old - new), and so all
// weights are relative to the highest score so far. No exponent is above 0: nothing overflows.
__device__ __forceinline__ float shift(float& highest, float score) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) score = fmaxf(score, __shfl_xor_sync(ALL, score, distance));
  float before = highest;
  highest = fmaxf(before, score);
  return expf(before - highest);
}

// Add the values of a tile: lane l owns the columns l, l + 32, ...; a weight is read by all lanes at once.
__device__ __forceinline__ void average(const float* weights, const float* values, Rows& rows) {
#pragma unroll 2
  for (int s = 0; s < KEYS; s += 4) {
    float4 w[PART];
#pragma unroll
    for (int i = 0; i < PART; i++) w[i] = *reinterpret_cast<const float4*>(weights + i * KEYS + s);
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      const float* value = values + s * STRIDE + min((int)threadIdx.x % 32 + 32 * j, HEAD_DIM - 1);
      float v[4] = {value[0], value[STRIDE], value[2 * STRIDE], value[3 * STRIDE]};
#pragma unroll
      for (int i = 0; i < PART; i++) {
        rows.total[i][j] += w[i].x * v[0] + w[i].y * v[1] + w[i].z * v[2] + w[i].w * v[3];
      }
    }
  }
}
}  // namespace v2

// v2: tiles of 64 rows against tiles of 32 keys in shared memory, with the online softmax
// Costs: two barriers for each tile of keys, one exponential more for each row of it; up to 76 KB of shared memory,
// where 9 reads of 16 bytes serve 32 multiplications and additions of a lane.
// Saves: keys and values are read once for 64 rows: 64 FLOP for each byte of bfloat16, not 1; sectors are read whole;
// no scores are stored, so that the number of keys has no limit.
extern "C" __global__ void __launch_bounds__(256, 2)
    attention_v2(const STORE* q, const STORE* keys, const STORE* values, const int* tiles, STORE* out, int H, int G,
                 int causal) {
  using namespace v2;
  extern __shared__ __align__(16) unsigned char smem[];
  float* query_tile = reinterpret_cast<float*>(smem);
  float *key_tile = query_tile + ROWS * STRIDE, *value_tile = key_tile + KEYS * STRIDE;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, R = H / G, g = blockIdx.y;
  float *queries = query_tile + warp * PART * STRIDE, *weights = value_tile + KEYS * STRIDE + warp * PART * KEYS;
  Tile tile = read_tile(tiles);
  int end = tile.count * R, first = warp * PART;  // the warp's rows: first ... first + PART - 1, if they are below end
#pragma unroll 1
  for (int i = 0; i < PART; i++) {  // only this warp reads them, after the barriers below
    copy_row(queries + i * STRIDE, q + query_row(tile, first + i, R, G, g), first + i < end);
  }
  Rows rows = {};
  for (int i = 0; i < PART; i++) rows.highest[i] = NEVER;
  for (int s = 0; s < tile.keys; s += KEYS) {
    __syncthreads();  // the last tile has been read
    for (int k = warp; k < KEYS; k += WARPS) {
      size_t row = ((size_t)(tile.start + s + k) * G + g) * HEAD_DIM;
      copy_row(key_tile + k * STRIDE, keys + row, s + k < tile.keys);
      copy_row(value_tile + k * STRIDE, values + row, s + k < tile.keys);
    }
    __syncthreads();
    if (first >= end || s >= keys_seen(tile, first + PART - 1, R, causal)) continue;
    float scores[PART] = {};
    score(queries, key_tile + lane * STRIDE, scores);
#pragma unroll
    for (int i = 0; i < PART; i++) {
      bool seen = s + lane < keys_seen(tile, first + i, R, causal);
      float score = seen ? scores[i] * (1.0f / sqrtf(HEAD_DIM)) : NEVER;
      float shrink = shift(rows.highest[i], score), weight = expf(score - rows.highest[i]);
      rows.sum[i] = rows.sum[i] * shrink + weight;  // of this lane's keys only, until the end
      for (int j = 0; j < COLUMNS; j++) rows.total[i][j] *= shrink;
      weights[i * KEYS + lane] = weight;
    }
    __syncwarp();
    average(weights, value_tile, rows);
  }
#pragma unroll
  for (int i = 0; i < PART; i++) {
    float sum = rows.sum[i];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(ALL, sum, distance);
    for (int j = 0; j < COLUMNS && first + i < end; j++) {
      int c = lane + 32 * j;
      if (c < HEAD_DIM) out[query_row(tile, first + i, R, G, g) + c] = from_float<STORE>(rows.total[i][j] / sum);
    }
  }
}

namespace v3 {
constexpr int WARPS = ROWS / 16, KEYS = 64;         // a warp owns 16 rows
constexpr int WIDTH = (HEAD_DIM + 15) / 16 * 16;    // columns in shared memory, those beyond HEAD_DIM zero
constexpr int STRIDE = WIDTH + 8;                   // an odd number of 16-byte parts: ldmatrix meets all 32 banks
constexpr int TILE = KEYS * STRIDE;
typedef __nv_bfloat16 Number;

// What a lane keeps of its warp's rows, in the layouts of mma.m16n8k16: it holds the columns 8 j + 2 (lane % 4) and the
// next of row lane / 4 in the first half of a vector of four, and of row lane / 4 + 8 in the second.
struct Rows {
  unsigned query[WIDTH / 16][4];
  float total[WIDTH / 8][4], highest[2], sum[2];
};

// Start the copy of 64 rows, R of them side by side and then `stride` numbers on. Rows that are not there are zero:
// zero weights must not meet NaN. Rows that are not whole 16-byte parts are copied by ordinary loads, two numbers each.
__device__ __forceinline__ void copy_tile(Number* to, const Number* from, int there, int R, size_t stride) {
  if constexpr (HEAD_DIM % 8 == 0) {
    for (int i = threadIdx.x; i < 64 * (WIDTH / 8); i += WARPS * 32) {
      int row = i / (WIDTH / 8), c = i % (WIDTH / 8) * 8;
      bool valid = row < there && c < HEAD_DIM;
      cp_async16(to + row * STRIDE + c, from + (valid ? row / R * stride + row % R * HEAD_DIM + c : 0), valid);
    }
  } else {
    for (int i = threadIdx.x; i < 64 * (WIDTH / 2); i += WARPS * 32) {
      int row = i / (WIDTH / 2), c = i % (WIDTH / 2) * 2;
      bool valid = row < there && c < HEAD_DIM;
      const Number* pair = from + (valid ? row / R * stride + row % R * HEAD_DIM + c : 0);
      *reinterpret_cast<unsigned*>(to + row * STRIDE + c) = valid ? *reinterpret_cast<const unsigned*>(pair) : 0u;
    }
  }
}

__device__ __forceinline__ unsigned pack(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<unsigned*>(&pair);
}

// d += a b for the 16 columns whose two halves one ldmatrix has brought.
__device__ __forceinline__ void multiply(float (&left)[4], float (&right)[4], const unsigned (&a)[4],
                                         const unsigned (&b)[4]) {
  const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  mma_16816(left, a, low);
  mma_16816(right, a, high);
}

// Scores of 16 rows against KEYS keys. A key already is a column of the second operand: no transposition.
__device__ __forceinline__ void score(const Rows& rows, const Number* keys, float (&scores)[KEYS / 8][4]) {
  int lane = threadIdx.x % 32;
  const Number* mine = keys + (lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;  // the row that a lane points at
#pragma unroll
  for (int c = 0; c < WIDTH / 16; c++) {
#pragma unroll
    for (int s = 0; s < KEYS / 16; s++) {
      unsigned key[4];
      ldmatrix_x4(key, mine + s * 16 * STRIDE + c * 16);
      multiply(scores[2 * s], scores[2 * s + 1], rows.query[c], key);
    }
  }
}

// The online softmax of v2, for rows that four lanes share. Scores become weights. A weight is exp(a (score - highest))
// with a = 1 / sqrt(d), computed as a power of two, so that it takes one multiplication with addition for the argument.
__device__ __forceinline__ void soften(Rows& rows, float (&scores)[KEYS / 8][4]) {
  const float scale = 1.44269504f / sqrtf(HEAD_DIM);  // log2(e) / sqrt(d)
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float before = rows.highest[half], highest = before, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) highest = fmaxf(highest, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
    highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, 2));
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        scores[j][e] = exp2f(scores[j][e] * scale - highest * scale);
        sum += scores[j][e];
      }
    }
    float shrink = exp2f((before - highest) * scale);
    rows.highest[half] = highest, rows.sum[half] = rows.sum[half] * shrink + sum;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++) rows.total[j][2 * half] *= shrink, rows.total[j][2 * half + 1] *= shrink;
  }
}

// Add weights times values. The registers hold the scores of two times 8 keys just as a first operand of 16 columns has
// to be; a value is a row of the second operand, which ldmatrix transposes on the way.
__device__ __forceinline__ void average(const float (&weights)[KEYS / 8][4], const Number* values, Rows& rows) {
  int lane = threadIdx.x % 32;
  const Number* mine = values + lane % 16 * STRIDE + lane / 16 * 8;
#pragma unroll
  for (int s = 0; s < KEYS / 16; s++) {
    const float(&left)[4] = weights[2 * s], (&right)[4] = weights[2 * s + 1];
    const unsigned a[4] = {pack(left[0], left[1]), pack(left[2], left[3]),  // rows lane / 4, lane / 4 + 8; then the
                           pack(right[0], right[1]), pack(right[2], right[3])};  // next 8 keys
#pragma unroll
    for (int c = 0; c < WIDTH / 16; c++) {
      unsigned value[4];
      ldmatrix_x4_trans(value, mine + s * 16 * STRIDE + c * 16);
      multiply(rows.total[2 * c], rows.total[2 * c + 1], a, value);
    }
  }
}

// Score keys s ... s + KEYS - 1 of the tile, hide what a row does not see, soften, and add their values.
__device__ __forceinline__ void attend(Rows& rows, const Number* keys, const Number* values, int s,
                                       const int (&seen)[2]) {
  float scores[KEYS / 8][4] = {};
  score(rows, keys, scores);
  if (s + KEYS > seen[0]) {  // row lane / 4 sees no more than row lane / 4 + 8
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        if (s + 8 * j + (int)threadIdx.x % 4 * 2 + e % 2 >= seen[e / 2]) scores[j][e] = NEVER;
      }
    }
  }
  soften(rows, scores);
  average(scores, values, rows);
}

// Divide by the sum of the weights and write. Four lanes write 16 bytes of a row, half a sector each time, which the L2
// cache joins; it happens once for each tile of queries.
__device__ __forceinline__ void write(const Rows& rows, Number* out, Tile tile, int first, int R, int G, int g) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(ALL, sum, 1);
    sum += __shfl_xor_sync(ALL, sum, 2);
    int row = first + threadIdx.x % 32 / 4 + 8 * half;
    if (row >= tile.count * R) continue;
    Number* to = out + query_row(tile, row, R, G, g);
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++) {
      int c = 8 * j + threadIdx.x % 4 * 2;
      const float* from = rows.total[j] + 2 * half;
      if (c < HEAD_DIM) *reinterpret_cast<unsigned*>(to + c) = pack(from[0] / sum, from[1] / sum);
    }
  }
}
}  // namespace v3

// v3: both products on tensor cores, keys and values brought by asynchronous copies while the last tile is computed
// Costs: weights are rounded to bfloat16; only bfloat16; up to 70 KB of shared memory for two tiles of keys and values.
// Saves: one mma does 4096 FLOP, for which v2 takes 64 instructions of a warp; one ldmatrix brings the 512 bytes for
// two of them, so that shared memory with its 128 bytes a cycle allows 2048 FLOP a cycle, 8 times as many as the float
// units of an H100's multiprocessor do; queries, scores and weights stay in registers.
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_v3(const __nv_bfloat16* q, const __nv_bfloat16* keys, const __nv_bfloat16* values, const int* tiles,
                 __nv_bfloat16* out, int H, int G, int causal) {
  using namespace v3;
  extern __shared__ __align__(16) unsigned char smem[];
  Number* stages = reinterpret_cast<Number*>(smem);  // two of them: keys, values, keys, values
  int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16, R = H / G, g = blockIdx.y;
  Tile tile = read_tile(tiles);
  const Number *key = keys + ((size_t)tile.start * G + g) * HEAD_DIM, *value = values + (key - keys);
  size_t stride = (size_t)G * HEAD_DIM;
  // The queries go through the second stage to the registers, while the first tile is on its way to the first stage.
  copy_tile(stages + 2 * TILE, q + query_row(tile, 0, R, G, g), tile.count * R, R, stride * R);
  cp_async_commit();
  copy_tile(stages, key, tile.keys, 1, stride);
  copy_tile(stages + TILE, value, tile.keys, 1, stride);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  Rows rows = {};
  rows.highest[0] = rows.highest[1] = NEVER;
#pragma unroll
  for (int c = 0; c < WIDTH / 16; c++) {
    ldmatrix_x4(rows.query[c], stages + 2 * TILE + (first + lane % 16) * STRIDE + c * 16 + lane / 16 * 8);
  }
  int seen[2] = {keys_seen(tile, first + lane / 4, R, causal), keys_seen(tile, first + lane / 4 + 8, R, causal)};
  int last = first < tile.count * R ? keys_seen(tile, first + 15, R, causal) : 0;  // what the warp sees
  for (int s = 0, stage = 0; s < tile.keys; s += KEYS, stage ^= 1) {
    __syncthreads();  // all have read the other stage
    if (s + KEYS < tile.keys) {
      Number* next = stages + (stage ^ 1) * 2 * TILE;
      copy_tile(next, key + (s + KEYS) * stride, tile.keys - s - KEYS, 1, stride);
      copy_tile(next + TILE, value + (s + KEYS) * stride, tile.keys - s - KEYS, 1, stride);
    }
    cp_async_commit();   // empty after the last tile, so that there is always one group to leave in flight
    cp_async_wait<1>();  // this thread's copies to this stage are there,
    __syncthreads();     // and those of all others
    const Number* here = stages + stage * 2 * TILE;
    if (s < last) attend(rows, here, here + TILE, s, seen);
  }
  if (first < tile.count * R) write(rows, out, tile, first, R, G, g);
}
