// Images among words: the patches of a prompt's images take the rows of its [IMG] tokens.
//
// NumPy: tiny/adapter.py splice
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens, N of them [IMG], D dim. All arrays are row-major and contiguous: text, out (T, D) and features (N, D) of
// STORE, ids (T,). Whole rows are copied, so nothing is rounded. Which rows are images is found out on the device: a
// prompt brings its ids and its pixels and nothing else. That ids has N [IMG] is not checked here.
//
// splice_v1: grid (T, ceil(D / threads)), block any.
// splice_v2_rows: grid 1, block THREADS; writes rows (T,), for each token its row of features, or -1.
// splice_v2: grid (T, ceil(parts / threads)), block any, with parts = ceil(D / WIDE<STORE>).
#include "numbers.cuh"

#ifndef THREADS
#define THREADS 1024  // of splice_v2_rows, a multiple of 32
#endif

// v1: a thread for each number, which counts the [IMG] before its token
// Costs: T / 2 reads of ids for each number. Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void splice_v1(const STORE* text, const int* ids, const STORE* features, STORE* out,
                                     int image_token, int D) {
  int i = blockIdx.y * blockDim.x + threadIdx.x;
  size_t token = blockIdx.x;
  if (i >= D) return;
  // (1) text everywhere, also in the rows of breaks and ends, which have ids of their own
  out[token * D + i] = text[token * D + i];
  // (2) patches in the rows of [IMG]
  if (ids[token] != image_token) return;
  size_t row = 0;
  for (int before = 0; before < token; before++) row += ids[before] == image_token;
  out[token * D + i] = features[row * D + i];
}

// The row of features of every token, by one block: THREADS tokens at a time, counted by votes of their warps.
extern "C" __global__ void __launch_bounds__(THREADS)
splice_v2_rows(const int* ids, int* rows, int image_token, int T) {
  __shared__ int of_warps[THREADS / 32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, before = 0;
  for (int first = 0; first < T; first += THREADS) {
    int token = first + threadIdx.x;
    bool image = token < T && ids[token] == image_token;
    unsigned images = __ballot_sync(0xffffffffu, image);
    if (lane == 0) of_warps[warp] = __popc(images);
    __syncthreads();
    int row = before + __popc(images & ((1u << lane) - 1));
    for (int other = 0; other < THREADS / 32; other++) {
      if (other < warp) row += of_warps[other];
      before += of_warps[other];
    }
    if (token < T) rows[token] = image ? row : -1;
    __syncthreads();  // the counts of the next tokens go to the same place
  }
}

// v2: rows are counted once, by one block; then 16 bytes for each thread
// Costs: a launch more, and 4 bytes of memory a token. Saves: T / 2 reads of ids for each number.
extern "C" __global__ void splice_v2(const STORE* text, const int* rows, const STORE* features, STORE* out, int D) {
  int i = (blockIdx.y * blockDim.x + threadIdx.x) * WIDE<STORE>;
  size_t token = blockIdx.x;
  if (i >= D) return;
  bool wide = D % WIDE<STORE> == 0 && is_aligned16(text) && is_aligned16(features) && is_aligned16(out);
  int row = rows[token];
  float part[WIDE<STORE>];
  load_some(row < 0 ? text + token * D + i : features + (size_t)row * D + i, D - i, wide, part);
  store_some(out + token * D + i, D - i, wide, part);
}
