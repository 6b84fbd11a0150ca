// groups.h: the part of cooperative groups that concerns a block and its warps.
#pragma once

namespace cooperative_groups {
// What all groups of the lanes of a warp have in common: a mask, and a number for each of its lanes.
template <class Group> struct WarpGroup {
  EMULATOR_INLINE unsigned mask() const { return static_cast<const Group*>(this)->lanes(); }
  EMULATOR_INLINE void sync(EMULATOR_AT) const { __syncwarp(mask(), at); }
  EMULATOR_INLINE unsigned thread_rank() const { return __popc(mask() & ((1u << emulator::lane()) - 1)); }
  EMULATOR_INLINE unsigned size() const { return __popc(mask()); }
  EMULATOR_INLINE unsigned num_threads() const { return size(); }
  EMULATOR_INLINE int any(int p, EMULATOR_AT) const { return __any_sync(mask(), p, at); }
  EMULATOR_INLINE int all(int p, EMULATOR_AT) const { return __all_sync(mask(), p, at); }
  template <class T> EMULATOR_INLINE T shfl(T v, unsigned from, EMULATOR_AT) const {
    return emulator::shuffle(mask(), "shfl", v, lane_of(from), 32, at);
  }
  // The lane with this number in the group.
  EMULATOR_INLINE unsigned lane_of(unsigned rank) const {
    unsigned rest = mask();
    for (rank %= size(); rank; rank--) rest &= rest - 1;
    return __builtin_ctz(rest);
  }
};

template <unsigned N, class Parent = void> struct thread_block_tile : WarpGroup<thread_block_tile<N, Parent>> {
  static_assert(N <= 32 && (N & (N - 1)) == 0, "a tile has a power of two of threads, up to 32");
  thread_block_tile() = default;
  template <class P> EMULATOR_INLINE thread_block_tile(const thread_block_tile<N, P>&) {}
  EMULATOR_INLINE unsigned first() const { return emulator::lane() & -N; }
  EMULATOR_INLINE unsigned lanes() const { return (N == 32 ? ~0u : (1u << N % 32) - 1) << first(); }
  EMULATOR_INLINE unsigned ballot(int p, EMULATOR_AT) const { return __ballot_sync(lanes(), p, at) >> first(); }
  EMULATOR_INLINE unsigned meta_group_rank() const { return emulator_thread_number() / N; }
  EMULATOR_INLINE unsigned meta_group_size() const { return (blockDim.x * blockDim.y * blockDim.z + N - 1) / N; }
  template <class T> EMULATOR_INLINE T shfl_up(T v, unsigned by, EMULATOR_AT) const {
    return __shfl_up_sync(lanes(), v, by, N, at);
  }
  template <class T> EMULATOR_INLINE T shfl_down(T v, unsigned by, EMULATOR_AT) const {
    return __shfl_down_sync(lanes(), v, by, N, at);
  }
  template <class T> EMULATOR_INLINE T shfl_xor(T v, unsigned with, EMULATOR_AT) const {
    return __shfl_xor_sync(lanes(), v, with, N, at);
  }
};

struct coalesced_group : WarpGroup<coalesced_group> {
  unsigned active;
  EMULATOR_INLINE unsigned lanes() const { return active; }
};
EMULATOR_INLINE coalesced_group coalesced_threads(EMULATOR_AT) {
  coalesced_group group;
  group.active = __activemask(at);
  return group;
}

struct thread_block {
  static EMULATOR_INLINE void sync(EMULATOR_AT) { __syncthreads(at); }
  static EMULATOR_INLINE unsigned thread_rank() { return emulator_thread_number(); }
  static EMULATOR_INLINE unsigned size() { return blockDim.x * blockDim.y * blockDim.z; }
  static EMULATOR_INLINE unsigned num_threads() { return size(); }
  static EMULATOR_INLINE dim3 group_index() { return blockIdx; }
  static EMULATOR_INLINE dim3 thread_index() { return threadIdx; }
  static EMULATOR_INLINE dim3 group_dim() { return blockDim; }
  static EMULATOR_INLINE dim3 dim_threads() { return blockDim; }
};
EMULATOR_INLINE thread_block this_thread_block() { return {}; }

// Any of the groups above.
struct thread_group : WarpGroup<thread_group> {
  unsigned some;  // lanes; 0: the whole block
  EMULATOR_INLINE thread_group(thread_block) : some(0) {}
  template <class Group> EMULATOR_INLINE thread_group(const WarpGroup<Group>& group) : some(group.mask()) {}
  EMULATOR_INLINE unsigned lanes() const { return some; }
  EMULATOR_INLINE unsigned size() const { return some ? __popc(some) : thread_block::size(); }
  EMULATOR_INLINE unsigned num_threads() const { return size(); }
  EMULATOR_INLINE unsigned thread_rank() const {
    return some ? WarpGroup::thread_rank() : thread_block::thread_rank();
  }
  EMULATOR_INLINE void sync(EMULATOR_AT) const { some ? __syncwarp(some, at) : __syncthreads(at); }
};

// All blocks. They run one after another, so a barrier can join one only.
struct grid_group {
  static EMULATOR_INLINE unsigned long long block_rank() {
    return (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  }
  static EMULATOR_INLINE unsigned long long num_blocks() { return 1ull * gridDim.x * gridDim.y * gridDim.z; }
  static EMULATOR_INLINE unsigned long long size() { return num_blocks() * thread_block::size(); }
  static EMULATOR_INLINE unsigned long long num_threads() { return size(); }
  static EMULATOR_INLINE unsigned long long thread_rank() {
    return block_rank() * thread_block::size() + thread_block::thread_rank();
  }
  static EMULATOR_INLINE bool is_valid() { return true; }
  static EMULATOR_INLINE void sync(EMULATOR_AT) {
    if (num_blocks() > 1) emulator_unknown(at.file, at.line, "a barrier across the blocks of a grid");
    __syncthreads(at);
  }
};
EMULATOR_INLINE grid_group this_grid() { return {}; }
template <unsigned N, class Parent> EMULATOR_INLINE thread_block_tile<N, Parent> tiled_partition(const Parent&) {
  return {};
}
EMULATOR_INLINE thread_group tiled_partition(const thread_group&, unsigned n) {
  coalesced_group tile;
  tile.active = (n == 32 ? ~0u : (1u << n) - 1) << (emulator::lane() & -n);
  return tile;
}
template <class Group> EMULATOR_INLINE void sync(const Group& group, EMULATOR_AT) { group.sync(at); }

template <class T> struct plus {
  T operator()(T a, T b) const { return a + b; }
};
template <class T> struct less {
  T operator()(T a, T b) const { return b < a ? b : a; }
};
template <class T> struct greater {
  T operator()(T a, T b) const { return a < b ? b : a; }
};
template <unsigned N, class P, class T, class Op>
EMULATOR_INLINE T reduce(const thread_block_tile<N, P>& tile, T v, Op op, EMULATOR_AT) {
  for (unsigned with = N / 2; with; with /= 2) v = op(v, tile.shfl_xor(v, with, at));
  return v;
}
template <unsigned N, class P, class T, class Op = plus<T>>
EMULATOR_INLINE T inclusive_scan(const thread_block_tile<N, P>& tile, T v, Op op = {}, EMULATOR_AT) {
  for (unsigned by = 1; by < N; by *= 2) {
    const T before = tile.shfl_up(v, by, at);
    if (tile.thread_rank() >= by) v = op(before, v);
  }
  return v;
}
template <unsigned N, class P, class T, class Op = plus<T>>
EMULATOR_INLINE T exclusive_scan(const thread_block_tile<N, P>& tile, T v, Op op = {}, EMULATOR_AT) {
  const T before = tile.shfl_up(inclusive_scan(tile, v, op, at), 1, at);
  return tile.thread_rank() ? before : T{};
}
}  // namespace cooperative_groups
