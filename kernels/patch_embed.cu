// Patches of an image as vectors: squares of pixels, each flattened, for one product with the weights.
//
// NumPy: tiny/patch_embed.py patches patch_embed
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// An image of C channels, height and width in pixels; N patches of p x p pixels, D numbers of a vector. All arrays are
// row-major and contiguous: pixels (C, height, width) of STORE; weight (D, C, p, p) of WEIGHT; x (all patches, C p p)
// and out (all patches, D) of STORE, which this image fills from row `first` on. Sums are float, rounded to STORE once.
//
// patch_embed_v1: grid (N, ceil(D / threads)), block any.
// patch_embed_v2: grid (N, ceil(units / threads)), block any, with units = C * p * ceil(p / WIDE<STORE>).
#include "numbers.cuh"

// v1: a thread for each number of a vector
// Costs: 32 lanes read 32 rows of the weights, a sector for each number; every patch reads all weights again.
// Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void patch_embed_v1(const STORE* pixels, const WEIGHT* weight, STORE* out, int first, int C,
                                          int height, int width, int p, int D) {
  int patch = blockIdx.x, d = blockIdx.y * blockDim.x + threadIdx.x;
  if (d >= D) return;
  // (1) split both sides in two axes, (2) rows and columns of the grid come first, (3) one vector for each square
  int columns = width / p;
  const STORE* square = pixels + (size_t)(patch / columns * p) * width + patch % columns * p;
  float sum = 0.0f;
  for (int c = 0; c < C; c++) {
    for (int row = 0; row < p; row++) {
      for (int column = 0; column < p; column++) {
        // (1) every square as one vector, (2) one product for all of them
        float pixel = to_float(square[((size_t)c * height + row) * width + column]);
        sum += pixel * to_float(weight[(((size_t)d * C + c) * p + row) * p + column]);
      }
    }
  }
  out[(size_t)(first + patch) * D + d] = from_float<STORE>(sum);
}

// v2: squares become rows, 16 bytes for each thread; the product is that of linear
// Costs: the pixels move through memory twice more. Saves: the product has tiles, or tensor cores, and the weights are
// read once for many patches.
extern "C" __global__ void patch_embed_v2(const STORE* pixels, STORE* x, int first, int C, int height, int width,
                                          int p) {
  int parts = (p + WIDE<STORE> - 1) / WIDE<STORE>, unit = blockIdx.y * blockDim.x + threadIdx.x;
  if (unit >= C * p * parts) return;
  int patch = blockIdx.x, columns = width / p, column = unit % parts * WIDE<STORE>;
  int c = unit / parts / p, row = unit / parts % p;
  bool wide = p % WIDE<STORE> == 0 && is_aligned16(pixels) && is_aligned16(x);
  size_t from = ((size_t)c * height + patch / columns * p + row) * width + patch % columns * p + column;
  size_t to = (((size_t)(first + patch) * C + c) * p + row) * p + column;
  float part[WIDE<STORE>];
  load_some(pixels + from, p - column, wide, part);
  store_some(x + to, p - column, wide, part);
}
