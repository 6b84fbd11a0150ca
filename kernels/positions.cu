// Positions on the device: their angles, for text and for patches, and the step from one token to the next.
//
// NumPy: tiny/rope.py rope_table
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// T tokens or patches, d head_dim. frequencies (d / 2,) of double: those of the NumPy function, made by the host once
// for a model; positions (T,) from 0 to 2^20; cos, sin (T, d / 2) of float. Angles, cosines and sines are computed in
// double and rounded to float once, at the end. Sums of products are written as fma: all compilers give the same bits.
//
// Why not a table of all angles: that of 131,072 positions has 67 MB, a step wants 512 bytes of it, and the sine below
// is a few dozen instructions.
//
// place and place_tiles stand at the end, with what they write.
// rope_table_v1, rope_2d_table: grid (T, ceil(d / 2 / threads)), block any.
// advance: grid ceil(B / threads), block any.

// Cosine and sine of an angle of at most 2^20. The angle is n quarters of a circle and a rest of an eighth at most. Of
// the quarter, PI_2 is the nearest double, PI_2_REST the nearest to what is left; n PI_2 and the angle share their
// first bits, so that the first difference is exact.
__device__ __forceinline__ float2 cos_sin(double angle) {
  const double PI_2 = 1.5707963267948966, PI_2_REST = 6.123233995736766e-17, QUARTERS = 0.6366197723675814;
  double n = rint(angle * QUARTERS);
  double x = fma(-n, PI_2_REST, fma(-n, PI_2, angle)), square = x * x;
  // 1 / k! with its sign, from x^17 and x^16 down: what follows is below 1e-17
  const double SINE[8] = {1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0,
                          1 / 362880.0, -1 / 5040.0, 1 / 120.0, -1 / 6.0};
  const double COSINE[8] = {1 / 20922789888000.0, -1 / 87178291200.0, 1 / 479001600.0, -1 / 3628800.0,
                            1 / 40320.0, -1 / 720.0, 1 / 24.0, -1 / 2.0};
  double sine = SINE[0], cosine = COSINE[0];
#pragma unroll
  for (int k = 1; k < 8; k++) {
    sine = fma(sine, square, SINE[k]);
    cosine = fma(cosine, square, COSINE[k]);
  }
  sine = fma(sine * square, x, x);
  cosine = fma(cosine, square, 1.0);
  int quarter = (int)n & 3;
  double turned_cos = quarter & 1 ? sine : cosine, turned_sin = quarter & 1 ? cosine : sine;
  return make_float2((float)(quarter == 1 || quarter == 2 ? -turned_cos : turned_cos),
                     (float)(quarter & 2 ? -turned_sin : turned_sin));
}

// v1: a thread for each pair of a head
// Costs: about 50 instructions of double for each pair. Saves: nothing: it is the NumPy function, loop for loop.
extern "C" __global__ void rope_table_v1(const int* positions, const double* frequencies, float* cos, float* sin,
                                         int pairs) {
  int pair = blockIdx.y * blockDim.x + threadIdx.x;
  if (pair >= pairs) return;
  // (1) one frequency for each pair, the first turns fastest
  //     (made by the host: they are the same for all tokens)
  double frequency = frequencies[pair];
  // (2) angle = position times frequency
  float2 turn = cos_sin(positions[blockIdx.x] * frequency);
  cos[(size_t)blockIdx.x * pairs + pair] = turn.x;
  sin[(size_t)blockIdx.x * pairs + pair] = turn.y;
}

// The same for the patches of one image, row by row: `columns` of them in each row, the first of them at `first` of cos
// and sin. The first half of the pairs turns with a patch's row by every other frequency, the rest with its column by
// those between.
extern "C" __global__ void rope_2d_table(const double* frequencies, float* cos, float* sin, int first, int columns,
                                         int pairs) {
  int pair = blockIdx.y * blockDim.x + threadIdx.x, patch = blockIdx.x, half = pairs / 2;
  if (pair >= pairs) return;
  double place = pair < half ? patch / columns : patch % columns;
  float2 turn = cos_sin(place * frequencies[pair < half ? 2 * pair : 2 * (pair - half) + 1]);
  cos[(size_t)(first + patch) * pairs + pair] = turn.x;
  sin[(size_t)(first + patch) * pairs + pair] = turn.y;
}

// The end of a step, in which each of B sequences got one token: where `going` is not 0, the position of the next
// token, its row of the cache, the end of what attention sees (spans (B, 2): start, stop) and the number of random
// numbers used grow by one. So the next step is the same launches.
extern "C" __global__ void advance(const int* going, int* positions, int* rows, int* spans, int* used, int B) {
  int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= B || !going[n]) return;
  positions[n]++;
  rows[n]++;
  spans[2 * n + 1]++;
  used[n]++;
}

// What the kernels of a prompt read beside its tokens is made here, from sizes that a launch carries: so a prompt uploads
// its ids only.
//
// place: `count` numbers of an array, from place `first` on, become value, value + 1, ...: the positions of a sequence,
// or its rows in the cache. Grid ceil(count / threads), block any.
extern "C" __global__ void place(int* numbers, int first, int count, int value) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) numbers[first + i] = value + i;
}

// place_tiles: the rows of attention's table (tiles, 4) for one sequence, from row `row` on: first query, count, and the
// keys start ... stop - 1 that the last query of the tile sees. Grid ceil(tiles / threads), block any.
extern "C" __global__ void place_tiles(int* table, int row, int tiles, int first, int length, int start, int stop,
                                       int queries, int causal) {
  int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= tiles) return;
  int block = (causal ? tiles - 1 - n : n) * queries, count = min(queries, length - block);  // many keys come first
  reinterpret_cast<int4*>(table)[row + n] = make_int4(first + block, count, start,
                                                      stop - (causal ? length - block - count : 0));
}
