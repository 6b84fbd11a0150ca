// From scores to a token: the likeliest, or a draw from the likeliest part of the distribution; and its logarithm.
//
// NumPy: tiny/sampling.py sample
// rms_norm.cu explains the words: thread, block, warp, lane, barrier, sector.
//
// B sequences, V tokens of the vocabulary, N random numbers of each sequence. All arrays are row-major and contiguous:
// logits (B, V) of STORE; draws (B, N) of double, from 0 to below 1, as the host's generator makes them, of which
// sequence n takes the one at used[n]; ids (B,), where the next step reads them; logprobs (B,) of float, the natural
// logarithm of the softmax of the logits as they came. Temperature 0 takes the largest logit, of equal ones the lower
// id, and reads no random number. A logit that is NaN or infinite gives the id -1 and the logarithm NaN.
//
// A draw needs no sorted row. It needs two tokens: the last one that is kept, and the one that is drawn. Both are the
// first token in falling order at which the sum of all probabilities so far exceeds some target. Versions 2 and 3 look
// for it as one looks up a word: they add up the probabilities of BINS ranges, take the range in which the target is
// passed, and part that one again. Probabilities are added as whole numbers, in units of 2^-59 of the largest, so that
// a sum has no rounding and no order: atomics in any order give equal bits, and a range's parts add up to it exactly.
//
// sample_v1: grid ceil(B / threads), block any.
// sample_v2: grid B, block BINS.
// sample_v3_parts, sample_v3_masses: grid (parts, B), parts = ceil(V / PART), block PART / 4.
// sample_v3: grid B, block BINS.
#include "numbers.cuh"

#ifndef BIN_BITS
#define BIN_BITS 9  // the bins of a range are 2^BIN_BITS, and so are the threads of a block; 5 to 10
#endif
#ifndef PART
#define PART 1024  // numbers of a row for each block, v3; a multiple of 128
#endif
#ifndef MASS_BITS
#define MASS_BITS 15  // bits of a quarter of a probability; sums of V quarters have 32 bits at most
#endif

constexpr int BINS = 1 << BIN_BITS, QUARTERS = 4;
constexpr unsigned NONE = 0xffffffffu;

// The probability of a logit through that of the largest, before all of them are divided by their sum.
__device__ __forceinline__ double probability(float logit, float most, double temperature) {
  return exp((double)(logit - most) / temperature);
}

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// The next token of the sorted row: the likeliest of those behind the last one, which had probability p. -1: none.
__device__ int next_v1(const STORE* row, int V, float most, double temperature, double p, int last) {
  int next = -1;
  double largest = -1.0;
  for (int i = 0; i < V; i++) {
    double own = probability(to_float(row[i]), most, temperature);
    bool behind = own < p || (own == p && i > last);
    if (behind && own > largest) largest = own, next = i;
  }
  return next;
}

// v1: a thread for each sequence
// Costs: for every token that is kept, all logits are read and exponentiated again, by one thread.
// Saves: nothing: it is the NumPy function, loop for loop, but that it looks for each next token instead of sorting.
extern "C" __global__ void sample_v1(const STORE* logits, const double* draws, const int* used, int* ids,
                                     float* logprobs, int V, int N, double temperature, double top_p, int B) {
  int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= B) return;
  const STORE* row = logits + (size_t)n * V;
  int id = 0;
  bool finite = true;
  for (int i = 0; i < V; i++) {
    finite = finite && is_finite(to_float(row[i]));
    if (to_float(row[i]) > to_float(row[id])) id = i;
  }
  float most = to_float(row[id]);
  double all = 0.0;
  for (int i = 0; i < V; i++) all += exp((double)to_float(row[i]) - most);
  if (temperature > 0.0 && finite) {
    // (1) temperature, in float64 and on differences from the largest logit: no temperature is too small for that
    double sum = 0.0, kept = 0.0, cumulative = 0.0;
    for (int i = 0; i < V; i++) sum += probability(to_float(row[i]), most, temperature);
    // (2) the smallest set of likeliest tokens that holds top_p
    int first = next_v1(row, V, most, temperature, 2.0, -1);
    for (int i = first, count = 0; i >= 0; count++) {
      double p = probability(to_float(row[i]), most, temperature), with = kept + p / sum;
      if (count && !(with - p / sum <= top_p)) break;
      kept = with;
      i = next_v1(row, V, most, temperature, p, i);
    }
    // (3) draw among them
    double draw = draws[(size_t)n * N + used[n]] * kept;
    for (int i = first; i >= 0 && cumulative <= draw && cumulative < kept;) {
      double p = probability(to_float(row[i]), most, temperature);
      cumulative += p / sum;
      id = i;
      i = next_v1(row, V, most, temperature, p, i);
    }
  }
  ids[n] = finite ? id : -1;
  logprobs[n] = finite ? (float)((double)to_float(row[id]) - most - log(all)) : __uint_as_float(0x7fffffffu);
}

// Bits of a number that has the order of whole numbers; of both zeros the same.
__device__ __forceinline__ unsigned ordered(float x) {
  unsigned bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(unsigned bits) {
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

// One logit for a search of the largest: its order, then the lower id first. A logit that is not finite is above all.
__device__ __forceinline__ unsigned long long entry(float logit, int id) {
  return is_finite(logit) ? (unsigned long long)ordered(logit) << 32 | (NONE - id) : ~0ull;
}

// The largest of one number of every thread of the block, and the sum of another, in all of them; one order for sums.
__device__ unsigned long long block_largest(unsigned long long own) {
  __shared__ unsigned long long of_warps[32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) own = max(own, __shfl_xor_sync(NONE, own, distance));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  for (int warp = 0; warp < blockDim.x / 32; warp++) own = max(own, of_warps[warp]);
  return own;
}
__device__ double block_sum(double own) {
  __shared__ double of_warps[32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) own += __shfl_xor_sync(NONE, own, distance);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  own = 0.0;
  for (int warp = 0; warp < blockDim.x / 32; warp++) own += of_warps[warp];
  return own;
}

// A sum of probabilities, exactly: (high 2^(2 MASS_BITS) + low) units.
struct __align__(16) Mass {
  unsigned long long high, low;
};
constexpr unsigned long long LOW = (1ull << 2 * MASS_BITS) - 1;
__device__ __forceinline__ Mass operator+(Mass a, Mass b) { return {a.high + b.high, a.low + b.low}; }
__device__ __forceinline__ double value(Mass m) {  // rounded once
  return (double)(m.high + (m.low >> 2 * MASS_BITS)) * (double)(LOW + 1) + (double)(m.low & LOW);
}
__device__ __forceinline__ long long units(double p) {
  return __double2ll_rn(p * (double)(1ll << (QUARTERS * MASS_BITS - 1)));
}
__device__ __forceinline__ Mass times(long long units, int count) {
  return {(unsigned long long)(units >> 2 * MASS_BITS) * count, ((unsigned long long)units & LOW) * count};
}

// How many doubles lie between the largest probability, 1, and another: the order of tokens, as a whole number.
__device__ __forceinline__ unsigned long long distance(double p) {
  return __double_as_longlong(1.0) - __double_as_longlong(p);
}

// The bins of a range: of their tokens the sums of each quarter of the probabilities, how many, and from which logit to
// which.
struct Bins {
  unsigned sums[QUARTERS][BINS], count[BINS], lowest[BINS], highest[BINS];
};
constexpr int BINS_WORDS = (QUARTERS + 3) * BINS;

// What a word of empty bins is.
__device__ __forceinline__ unsigned empty_word(int i) { return i / BINS == QUARTERS + 1 ? NONE : 0; }

__device__ void empty(Bins& bins) {
  unsigned* words = &bins.sums[0][0];
  for (int i = threadIdx.x; i < BINS_WORDS; i += blockDim.x) words[i] = empty_word(i);
  __syncthreads();
}

__device__ __forceinline__ void add_token(Bins& bins, int bin, double p, unsigned logit) {
  long long mass = units(p);
#pragma unroll
  for (int k = 0; k < QUARTERS; k++) {
    unsigned quarter = (unsigned)(mass >> k * MASS_BITS) & ((1u << MASS_BITS) - 1);
    if (quarter) atomicAdd(&bins.sums[k][bin], quarter);
  }
  atomicAdd(&bins.count[bin], 1u);
  atomicMin(&bins.lowest[bin], logit);
  atomicMax(&bins.highest[bin], logit);
}

__device__ __forceinline__ Mass mass_of(const Bins& bins, int bin) {
  return {bins.sums[2][bin] + ((unsigned long long)bins.sums[3][bin] << MASS_BITS),
          bins.sums[0][bin] + ((unsigned long long)bins.sums[1][bin] << MASS_BITS)};
}

// The first range is all probabilities. Its bins are alike on a scale of logarithms, 16 octaves in all; what is less
// likely is in the last one.
constexpr int FIRST_SHIFT = 56 - BIN_BITS, REST_SHIFT = 62 - BIN_BITS;
__device__ __forceinline__ int first_bin(double p) {
  return (int)min(distance(p) >> FIRST_SHIFT, (unsigned long long)(BINS - 1));
}

// A row of logits, and what all threads know of it.
struct Row {
  const STORE* logits;
  int V;
  float most;
  double temperature;
};

// The first number of 16 bytes, which is then gone: the others move up.
__device__ __forceinline__ float take(uint4& bits, const float*) {
  float first = __uint_as_float(bits.x);
  bits = make_uint4(bits.y, bits.z, bits.w, 0);
  return first;
}
__device__ __forceinline__ float take(uint4& bits, const __nv_bfloat16*) {
  float first = __uint_as_float(bits.x << 16);
  bits = make_uint4(bits.x >> 16 | bits.y << 16, bits.y >> 16 | bits.z << 16, bits.z >> 16 | bits.w << 16, bits.w >> 16);
  return first;
}

// Call each(logit, id) for the numbers of a row from `start` to `stop`, by threads that take turns at 16 bytes: this one
// is number `mine` of `turns`. Its numbers are a loop, and not unrolled: an exponential of double takes many registers.
template <class F>
__device__ __forceinline__ void for_each(const STORE* logits, int start, int stop, int mine, int turns, F each) {
  bool aligned = is_aligned16(logits + start);
#pragma unroll 1
  for (int i = start + mine * WIDE<STORE>; i < stop; i += turns * WIDE<STORE>) {
    bool wide = aligned && stop - i >= WIDE<STORE>;
    uint4 bits = wide ? *reinterpret_cast<const uint4*>(logits + i) : make_uint4(0, 0, 0, 0);
#pragma unroll 1
    for (int k = i; k < min(stop, i + WIDE<STORE>); k++) each(wide ? take(bits, logits) : to_float(logits[k]), k);
  }
}

// Of one number of each thread, the sum over the threads before this one; and of all of them.
__device__ Mass sum_before(Mass own, Mass& all) {
  __shared__ Mass of_warps[32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Mass sum = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    Mass left = {__shfl_up_sync(NONE, sum.high, distance), __shfl_up_sync(NONE, sum.low, distance)};
    if (lane >= distance) sum = sum + left;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  all = {0, 0};
  for (int other = 0; other < BINS / 32; other++) {
    if (other == warp) sum = sum + all;
    all = all + of_warps[other];
  }
  __syncthreads();  // the next call writes to the same place
  return {sum.high - own.high, sum.low - own.low};
}

// Tokens that are as good as one: those of one probability. Of them number `tie`, counted by ids from 0, is meant.
struct Place {
  Mass before;  // of all that are likelier
  long long units;
  unsigned long long first, last;  // distances
  unsigned lowest, highest;        // logits
  int tie;
};

// Look for the first token, in falling order, with which the mass exceeds `target`. The bins hold the first range, and
// all of them together are more than the target.
__device__ Place search(Bins& bins, const Row& row, double target) {
  __shared__ Mass found_before;
  __shared__ int found;
  Place place = {{0, 0}, 0, 0, ~0ull, 0, NONE, 0};
  int shift = FIRST_SHIFT, bin;
  for (bool first_range = true;; first_range = false) {
    Mass own = mass_of(bins, threadIdx.x), all, before = place.before + sum_before(own, all);
    if (value(before) <= target && target < value(before + own)) found = threadIdx.x, found_before = before;
    __syncthreads();
    bin = found, place.before = found_before;
    place.first += (unsigned long long)bin << shift;
    bool rest = first_range && bin == BINS - 1;
    if (!rest) place.last = min(place.last, place.first + (1ull << shift) - 1);
    place.lowest = bins.lowest[bin], place.highest = bins.highest[bin];
    if (place.lowest == place.highest || shift == 0) break;
    shift = rest ? REST_SHIFT : max(shift - BIN_BITS, 0);
    __syncthreads();  // all have read of this bin
    empty(bins);
    for_each(row.logits, 0, row.V, threadIdx.x, BINS, [&](float logit, int) {
      unsigned bits = ordered(logit);
      if (bits < place.lowest || bits > place.highest) return;
      double p = probability(logit, row.most, row.temperature);
      if (distance(p) < place.first || distance(p) > place.last) return;
      add_token(bins, (int)((distance(p) - place.first) >> shift), p, bits);
    });
    __syncthreads();
  }
  // Which of the tokens alike: a guess by division, which rounding may put off by one
  place.units = units(probability(unordered(place.lowest), row.most, row.temperature));
  int last = bins.count[bin] - 1;
  place.tie = (int)min((double)last, (target - value(place.before)) / place.units);
  while (place.tie > 0 && value(place.before + times(place.units, place.tie)) > target) place.tie--;
  while (place.tie < last && value(place.before + times(place.units, place.tie + 1)) <= target) place.tie++;
  __syncthreads();  // all have read the bins
  return place;
}

// The id of a place: every warp counts the tokens alike in its own stretch of the row; then the warp that has it looks.
__device__ int id_of(const Place& place, const Row& row) {
  __shared__ int of_warps[BINS / 32], id;
  constexpr int ROUND = 32 * WIDE<STORE>;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int stretch = (row.V + BINS * WIDE<STORE> - 1) / (BINS * WIDE<STORE>) * ROUND;
  int start = min(row.V, warp * stretch), stop = min(row.V, start + stretch), count = 0;
  auto alike = [&](float logit) {
    unsigned bits = ordered(logit);
    if (bits < place.lowest || bits > place.highest) return false;
    double p = probability(logit, row.most, row.temperature);
    return place.lowest == place.highest || (distance(p) >= place.first && distance(p) <= place.last);
  };
  for_each(row.logits, start, stop, lane, 32, [&](float logit, int) { count += alike(logit); });
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) count += __shfl_xor_sync(NONE, count, distance);
  if (lane == 0) of_warps[warp] = count;
  __syncthreads();
  int before = 0;
  for (int other = 0; other < warp; other++) before += of_warps[other];
  if (place.tie >= before && place.tie < before + count) {  // the whole warp
    for (int i = start; i < stop && before <= place.tie; i += 32) {
      bool here = i + lane < stop && alike(to_float(row.logits[i + lane]));
      unsigned lanes = __ballot_sync(NONE, here);
      if (here && before + __popc(lanes & ((1u << lane) - 1)) == place.tie) id = i + lane;
      before += __popc(lanes);
    }
  }
  __syncthreads();
  return id;
}

// The bins of the first range: of all tokens, or as another kernel has left them.
__device__ void first_range(Bins& bins, const Row& row, const unsigned* ready) {
  if (ready) {
    unsigned* words = &bins.sums[0][0];
    for (int i = threadIdx.x; i < BINS_WORDS; i += BINS) words[i] = ready[i];
  } else {
    empty(bins);
    for_each(row.logits, 0, row.V, threadIdx.x, BINS, [&](float logit, int) {
      double p = probability(logit, row.most, row.temperature);
      add_token(bins, first_bin(p), p, ordered(logit));
    });
  }
  __syncthreads();
}

// Draw a token of a row, by a block of BINS threads.
__device__ int draw_token(const Row& row, const unsigned* ready, double top_p, double random) {
  __shared__ Bins bins;
  Mass all;
  first_range(bins, row, ready);
  sum_before(mass_of(bins, threadIdx.x), all);
  double kept = value(all);
  if (top_p * kept < kept) {  // the last token that is kept is the first with which the mass exceeds top_p
    Place last = search(bins, row, top_p * kept);
    kept = value(last.before + times(last.units, last.tie + 1));
    first_range(bins, row, ready);
  }
  double below = __longlong_as_double(__double_as_longlong(kept) - 1);  // what is kept is never passed by
  return id_of(search(bins, row, min(random * kept, below)), row);
}

// One sequence's end: its token and the logarithm; `all` is the sum of exp(logit - most).
__device__ void finish(int n, unsigned long long best, int id, const STORE* logits, double all, int* ids,
                       float* logprobs) {
  if (threadIdx.x) return;
  bool finite = best != ~0ull;
  float most = unordered(best >> 32);
  ids[n] = finite ? id : -1;
  logprobs[n] = finite ? (float)((double)to_float(logits[id]) - most - log(all)) : __uint_as_float(0x7fffffffu);
}

// v2: a block for each sequence; probabilities are added up in bins, and the bin of the target again
// Costs: 14 KB of shared memory, and 7 atomic operations for each token of the first range.
// Saves: the row is read a few times in all, instead of once for every token that is kept.
extern "C" __global__ void __launch_bounds__(BINS)
sample_v2(const STORE* logits, const double* draws, const int* used, int* ids, float* logprobs, int V, int N,
          double temperature, double top_p) {
  int n = blockIdx.x;
  const STORE* own = logits + (size_t)n * V;
  unsigned long long best = 0;
  for_each(own, 0, V, threadIdx.x, BINS, [&](float logit, int i) { best = max(best, entry(logit, i)); });
  best = block_largest(best);
  Row row = {own, V, unordered(best >> 32), temperature};
  double all = 0.0;
  for_each(own, 0, V, threadIdx.x, BINS, [&](float logit, int) { all += exp((double)logit - row.most); });
  all = block_sum(all);
  int id = NONE - (unsigned)best;
  if (temperature > 0.0 && best != ~0ull) id = draw_token(row, nullptr, top_p, draws[(size_t)n * N + used[n]]);
  finish(n, best, id, own, all, ids, logprobs);
}

// A part of a row for v3: of its numbers the largest, and the sum of exponentials through that one's. The blocks of a
// row also empty its bins of the first range, masses (B, QUARTERS + 3, BINS), if there are any: words is their number.
extern "C" __global__ void __launch_bounds__(PART / 4)
sample_v3_parts(const STORE* logits, unsigned long long* bests, double* sums, unsigned* masses, int V, int words) {
  int start = blockIdx.x * PART, stop = min(V, start + PART);
  const STORE* own = logits + (size_t)blockIdx.y * V;
  unsigned long long best = 0;
  for_each(own, start, stop, threadIdx.x, PART / 4, [&](float logit, int i) { best = max(best, entry(logit, i)); });
  best = block_largest(best);
  float most = unordered(best >> 32);
  double sum = 0.0;
  for_each(own, start, stop, threadIdx.x, PART / 4, [&](float logit, int) { sum += exp((double)logit - most); });
  sum = block_sum(sum);
  size_t place = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) bests[place] = best, sums[place] = sum;
  for (int i = blockIdx.x * (PART / 4) + threadIdx.x; i < words; i += gridDim.x * (PART / 4)) {
    masses[(size_t)blockIdx.y * words + i] = empty_word(i);
  }
}

// The largest of a row, from its parts.
__device__ unsigned long long best_of(const unsigned long long* bests, int parts) {
  unsigned long long best = 0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) best = max(best, bests[i]);
  return block_largest(best);
}

// The bins of the first range, of a part of a row, added to those of the whole row.
extern "C" __global__ void __launch_bounds__(PART / 4)
sample_v3_masses(const STORE* logits, const unsigned long long* bests, unsigned* masses, int V, double temperature) {
  __shared__ Bins bins;
  int start = blockIdx.x * PART, stop = min(V, start + PART);
  float most = unordered(best_of(bests + (size_t)blockIdx.y * gridDim.x, gridDim.x) >> 32);
  empty(bins);
  for_each(logits + (size_t)blockIdx.y * V, start, stop, threadIdx.x, PART / 4, [&](float logit, int) {
    double p = probability(logit, most, temperature);
    add_token(bins, first_bin(p), p, ordered(logit));
  });
  __syncthreads();
  unsigned *to = masses + (size_t)blockIdx.y * BINS_WORDS, *words = &bins.sums[0][0];
  for (int i = threadIdx.x; i < BINS_WORDS; i += PART / 4) {
    if (words[i] == empty_word(i)) continue;
    if (i / BINS <= QUARTERS) atomicAdd(to + i, words[i]);
    else if (i / BINS == QUARTERS + 1) atomicMin(to + i, words[i]);
    else atomicMax(to + i, words[i]);
  }
}

// v3: many blocks share the first passes over a row
// Costs: two launches more, and memory for the bins. Saves: one multiprocessor of an H100 reads a row 132 times slower
// than all of them. What is left to one block are the bins, and the tokens of those that are parted again.
extern "C" __global__ void __launch_bounds__(BINS)
sample_v3(const STORE* logits, const unsigned long long* bests, const double* sums, const unsigned* masses,
               const double* draws, const int* used, int* ids, float* logprobs, int V, int N, int parts,
               double temperature, double top_p) {
  int n = blockIdx.x;
  const STORE* own = logits + (size_t)n * V;
  unsigned long long best = best_of(bests + (size_t)n * parts, parts);
  Row row = {own, V, unordered(best >> 32), temperature};
  double all = 0.0;
  for (int i = threadIdx.x; i < parts; i += BINS) {
    size_t place = (size_t)n * parts + i;
    all += sums[place] * exp((double)unordered(bests[place] >> 32) - row.most);
  }
  all = block_sum(all);
  int id = NONE - (unsigned)best;
  if (temperature > 0.0 && best != ~0ull) {
    id = draw_token(row, masses + (size_t)n * BINS_WORDS, top_p, draws[(size_t)n * N + used[n]]);
  }
  finish(n, best, id, own, all, ids, logprobs);
}
