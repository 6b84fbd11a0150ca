// Attention of one query for each sequence, the next token's: the keys are split, because there are many for one query.
//
// NumPy: tiny/attention.py attention attend
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// N sequences, S keys, H n_heads, G n_kv_heads, GROUP = H / G heads that share the keys and values of one, d head_dim.
// All arrays are row-major and contiguous: q, out (N, H, d), keys, values (S, G, d) of STORE. Products, softmax and
// sums are float; out is rounded to STORE once.
//
// spans (N, 2) of int says which rows of keys and values each query sees: start ... stop - 1. It is read on the device,
// so that a captured graph stays good while the sequences grow; only the number of splits is fixed. Blocks of splits
// that begin beyond the end leave at once. A split writes partial (N, splits, H, d), its values' sum with weights
// exp(score - highest), and peaks (N, splits, H, 2): highest and the sum of the weights, all float.
//
// HEAD_DIM any even number up to 128.
// attention_decode_v1: grid (N, G, splits), block any, shared memory GROUP * (longest split) * 4 bytes.
// attention_decode_v2: grid (N, G, splits), block 128.
// attention_decode_v1_combine: grid (N, H), block any; for v1 and v2.
#include "numbers.cuh"

#ifndef HEAD_DIM
#define HEAD_DIM 128
#endif
#ifndef GROUP
#define GROUP 4
#endif

constexpr float NEVER = -3.402823466e38f;  // the smallest float, below every score. Not infinity: infinity minus
                                           // infinity is not a number

// The keys of one split. Splits are multiples of 32 keys, and the first ones are full: few keys fill few splits.
struct Split {
  int start, keys;
};
__device__ __forceinline__ int keys_of_a_split(int keys, int splits) {
  return ((keys + splits - 1) / splits + 31) / 32 * 32;
}
__device__ __forceinline__ Split read_split(const int* spans) {
  int start = spans[2 * blockIdx.x], keys = spans[2 * blockIdx.x + 1] - start;
  int size = keys_of_a_split(keys, gridDim.z), skipped = blockIdx.z * size;
  return {start + skipped, min(size, keys - skipped)};
}

// v1: a block of threads for each sequence, KV head and split; a thread for each key, then for each column
// Costs: a lane reads its own row, 2 or 4 bytes at a time, 32 sectors for 32 numbers; the scores are in shared
// memory, and every thread goes through all of them for the maximum; a second kernel for a few KB.
// Saves: keys and values are read once for all heads of the group: GROUP FLOP for each byte of bfloat16, not 1; the
// splits keep all multiprocessors busy with one sequence.
extern "C" __global__ void attention_decode_v1(const STORE* q, const STORE* keys, const STORE* values, const int* spans,
                                               float* partial, float* peaks, int G) {
  extern __shared__ __align__(16) unsigned char smem[];
  float* scores = reinterpret_cast<float*>(smem);  // (GROUP, keys of the split)
  int g = blockIdx.y;
  // (1) the R query heads that share a KV head, a block of queries at a time: memory grows with the keys
  //     (the heads of one group of one sequence)
  size_t first = ((size_t)blockIdx.x * G + g) * GROUP;
  size_t answer = (((size_t)blockIdx.x * gridDim.z + blockIdx.z) * G + g) * GROUP;
  // (2) each text with its own keys, and of those the keys that the block may see
  Split split = read_split(spans);
  if (split.keys <= 0) return;  // so does the whole block
  for (int s = threadIdx.x; s < split.keys; s += blockDim.x) {
    // (3) scores: how well each query matches each key
    const STORE* key = keys + ((size_t)(split.start + s) * G + g) * HEAD_DIM;
    float score[GROUP] = {};
    for (int c = 0; c < HEAD_DIM; c++) {
      float k = to_float(key[c]);
      for (int r = 0; r < GROUP; r++) score[r] += to_float(q[(first + r) * HEAD_DIM + c]) * k;
    }
    // (4) causal mask: only the last t keys can be ahead of a query
    //     (with one query none does)
    for (int r = 0; r < GROUP; r++) scores[r * split.keys + s] = score[r] * (1.0f / sqrtf(HEAD_DIM));
  }
  __syncthreads();
  // (5) softmax over the keys, (6) the weighted average of the values
  //     (the division is left to the second kernel)
  float highest[GROUP];
  for (int r = 0; r < GROUP; r++) {
    highest[r] = NEVER;
    for (int s = 0; s < split.keys; s++) highest[r] = fmaxf(highest[r], scores[r * split.keys + s]);
  }
  __syncthreads();
  for (int s = threadIdx.x; s < split.keys; s += blockDim.x) {
    for (int r = 0; r < GROUP; r++) scores[r * split.keys + s] = expf(scores[r * split.keys + s] - highest[r]);
  }
  __syncthreads();
  for (int c = threadIdx.x; c < HEAD_DIM; c += blockDim.x) {
    float total[GROUP] = {};
    for (int s = 0; s < split.keys; s++) {
      float value = to_float(values[((size_t)(split.start + s) * G + g) * HEAD_DIM + c]);
      for (int r = 0; r < GROUP; r++) total[r] += scores[r * split.keys + s] * value;
    }
    for (int r = 0; r < GROUP; r++) partial[(answer + r) * HEAD_DIM + c] = total[r];
  }
  for (int r = 0; r < GROUP && threadIdx.x == 0; r++) {
    float sum = 0.0f;
    for (int s = 0; s < split.keys; s++) sum += scores[r * split.keys + s];
    peaks[2 * (answer + r)] = highest[r], peaks[2 * (answer + r) + 1] = sum;
  }
}

// Put the splits of one head together: each counts exp(its highest score - the highest of all).
extern "C" __global__ void attention_decode_v1_combine(const float* partial, const float* peaks, const int* spans,
                                                       STORE* out, int H, int splits) {
  int h = blockIdx.y, keys = spans[2 * blockIdx.x + 1] - spans[2 * blockIdx.x];
  int size = keys_of_a_split(keys, splits), filled = (keys + size - 1) / size;
  size_t first = (size_t)blockIdx.x * splits * H + h;  // of the first split; the next is H further
  float highest = NEVER, sum = 0.0f;
  for (int n = 0; n < filled; n++) highest = fmaxf(highest, peaks[2 * (first + (size_t)n * H)]);
  for (int n = 0; n < filled; n++) {
    const float* peak = peaks + 2 * (first + (size_t)n * H);
    sum += peak[1] * expf(peak[0] - highest);
  }
  for (int c = threadIdx.x; c < HEAD_DIM; c += blockDim.x) {
    float total = 0.0f;
    for (int n = 0; n < filled; n++) {
      size_t row = first + (size_t)n * H;
      total += partial[row * HEAD_DIM + c] * expf(peaks[2 * row] - highest);
    }
    out[((size_t)blockIdx.x * H + h) * HEAD_DIM + c] = from_float<STORE>(total / sum);
  }
}

// Lanes for one row, 16 bytes each: the power of two that holds them.
constexpr int lanes_for(int parts) { return parts <= 1 ? 1 : 2 * lanes_for((parts + 1) / 2); }

namespace v2 {
constexpr int WARPS = 4, PART = WIDE<STORE>;
constexpr int LANES = lanes_for((HEAD_DIM + PART - 1) / PART);
constexpr int READERS = 32 / LANES;  // rows that a warp reads at once, each by a reader: a group of LANES lanes
constexpr int DEPTH = 4;             // rows that a reader takes at a time, so that many reads are on their way

// The running state of a reader, spread over its lanes: `average` adds keys to it.
struct Answer {
  float highest[GROUP], sum[GROUP], total[GROUP][PART];
};

// This lane's part of a row; zero if the row is not there or the part is beyond its end.
__device__ __forceinline__ void load_part(const STORE* row, bool there, float (&part)[PART]) {
  int c = threadIdx.x % LANES * PART;
  if constexpr (HEAD_DIM % PART == 0) {
    if (there && c < HEAD_DIM) {
      load_beside(row + c, part);
    } else {
      for (int e = 0; e < PART; e++) part[e] = 0.0f;
    }
  } else {
    load_some(row + c, there ? HEAD_DIM - c : 0, false, part);
  }
}

// This lane's part of a sum, to its place in shared memory.
__device__ __forceinline__ void save_part(const float (&part)[PART], float* row) {
  int c = threadIdx.x % LANES * PART;
#pragma unroll
  for (int e = 0; e < PART; e += 4) {
    if constexpr (HEAD_DIM % 4 == 0) {
      if (c + e < HEAD_DIM) store16(row + c + e, {part[e], part[e + 1], part[e + 2], part[e + 3]});
    } else {
      for (int i = e; i < e + 4 && c + i < HEAD_DIM; i++) row[c + i] = part[i];
    }
  }
}

// DEPTH keys against the heads of the group. A key that is not there gets NEVER.
__device__ __forceinline__ void score(const float (&query)[GROUP][PART], const float (&key)[DEPTH][PART], int there,
                                      float (&scores)[GROUP][DEPTH]) {
#pragma unroll
  for (int r = 0; r < GROUP; r++) {
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
      float score = 0.0f;
#pragma unroll
      for (int e = 0; e < PART; e++) score += query[r][e] * key[i][e];
#pragma unroll
      for (int distance = LANES / 2; distance > 0; distance /= 2) {
        score += __shfl_xor_sync(0xffffffffu, score, distance);
      }
      scores[r][i] = i * READERS < there ? score * (1.0f / sqrtf(HEAD_DIM)) : NEVER;
    }
  }
}

// The online softmax: DEPTH more keys for the running state. Where a head's highest score rises, what was added up before
// shrinks. A reader that has no key yet gives weights of 1 to values of zero; they shrink by exp(NEVER - score) = 0 when
// it gets one, or when the readers are merged.
__device__ __forceinline__ void average(const float (&scores)[GROUP][DEPTH], const float (&value)[DEPTH][PART],
                                        Answer& answer) {
#pragma unroll
  for (int r = 0; r < GROUP; r++) {
    // (1) the highest score so far
    float highest = answer.highest[r];
#pragma unroll
    for (int i = 0; i < DEPTH; i++) highest = fmaxf(highest, scores[r][i]);
    // (2) what was added up before, relative to it
    float shrink = expf(answer.highest[r] - highest);
    answer.highest[r] = highest, answer.sum[r] *= shrink;
#pragma unroll
    for (int e = 0; e < PART; e++) answer.total[r][e] *= shrink;
    // (3) the weights of the new keys, and their values
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
      float weight = expf(scores[r][i] - highest);
      answer.sum[r] += weight;
#pragma unroll
      for (int e = 0; e < PART; e++) answer.total[r][e] += weight * value[i][e];
    }
  }
}
}  // namespace v2

// v2: neighbouring lanes read a row together, 16 bytes each, and every group of lanes walks its own keys
// Costs: log2(lanes for a row) shuffles for each key and head; one merge of all groups at the end, in shared memory.
// Saves: sectors are read whole, by 8 times fewer load instructions in bfloat16, with 8 rows on their way for each
// lane; the online softmax needs no scores in shared memory and no barrier before the end; splits may be of any length.
extern "C" __global__ void __launch_bounds__(128)
    attention_decode_v2(const STORE* q, const STORE* keys, const STORE* values, const int* spans, float* partial,
                        float* peaks, int G) {
  using namespace v2;
  __shared__ float highest[WARPS * READERS][GROUP], sum[WARPS * READERS][GROUP];
  __shared__ __align__(16) float total[WARPS * READERS][GROUP][HEAD_DIM];
  int g = blockIdx.y, reader = threadIdx.x / LANES;
  Split split = read_split(spans);
  if (split.keys <= 0) return;  // so does the whole block
  float query[GROUP][PART];
  Answer mine = {};
#pragma unroll
  for (int r = 0; r < GROUP; r++) {
    load_part(q + (((size_t)blockIdx.x * G + g) * GROUP + r) * HEAD_DIM, true, query[r]);
    mine.highest[r] = NEVER;
  }
  // A warp takes READERS * DEPTH keys in a row, a reader every READERS-th of them.
  int first = threadIdx.x / 32 * READERS * DEPTH + reader % READERS;
  for (int s = 0; s < split.keys; s += WARPS * READERS * DEPTH) {
    int there = split.keys - first - s;
    size_t row = ((size_t)(split.start + first + s) * G + g) * HEAD_DIM, step = (size_t)READERS * G * HEAD_DIM;
    float key[DEPTH][PART], value[DEPTH][PART], scores[GROUP][DEPTH];
#pragma unroll
    for (int i = 0; i < DEPTH; i++) load_part(keys + row + i * step, i * READERS < there, key[i]);
#pragma unroll
    for (int i = 0; i < DEPTH; i++) load_part(values + row + i * step, i * READERS < there, value[i]);
    score(query, key, there, scores);
    average(scores, value, mine);
  }
#pragma unroll
  for (int r = 0; r < GROUP; r++) {
    if (threadIdx.x % LANES == 0) highest[reader][r] = mine.highest[r], sum[reader][r] = mine.sum[r];
    save_part(mine.total[r], total[reader][r]);
  }
  __syncthreads();
  size_t answer = (((size_t)blockIdx.x * gridDim.z + blockIdx.z) * G + g) * GROUP;
  for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += WARPS * 32) {
    int r = i / HEAD_DIM, c = i % HEAD_DIM;
    float peak = NEVER, weight = 0.0f, average = 0.0f;
    for (int n = 0; n < WARPS * READERS; n++) peak = fmaxf(peak, highest[n][r]);
    for (int n = 0; n < WARPS * READERS; n++) {
      float share = expf(highest[n][r] - peak);
      weight += share * sum[n][r], average += share * total[n][r][c];
    }
    partial[(answer + r) * HEAD_DIM + c] = average;
    if (c == 0) peaks[2 * (answer + r)] = peak, peaks[2 * (answer + r) + 1] = weight;
  }
}
