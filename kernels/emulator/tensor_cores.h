// tensor_cores.h: a warp multiplies matrices. Every lane holds a part of each matrix; the last lane to come to the
// meeting puts the parts together, multiplies, and deals the result out again.
//
// The products are exact in float and added one by one in float, from k = 0 on. A tensor core adds in another order
// and with a few more bits, so the last bits of a sum differ.
#pragma once

namespace emulator {
// D = A B + C for matrices in the hands of 32 lanes. Layout says where an element is: Layout::a(lane, i) is an index
// row * K + column into A, and so on; a, b, c, d are the lane's own elements.
template <int M, int N, int K, class Layout, class A, class B, class D> struct Product {
  const A* a;
  const B* b;
  const D* c;
  D* d;
  static void complete(void** works, unsigned lanes) {
    if (lanes != ~0u) emulator_refuse("a tensor core needs all 32 lanes; only 0x%08x take part", lanes);
    using Sum = std::conditional_t<std::is_integral_v<D>, D, float>;
    Sum ma[M * K], mb[K * N], md[M * N];
    each<Product>(works, lanes, [&](unsigned lane, Product& mine) {
      for (int i = 0; i < M * K / 32; i++) ma[Layout::a(lane, i)] = Sum(mine.a[i]);
      for (int i = 0; i < K * N / 32; i++) mb[Layout::b(lane, i)] = Sum(mine.b[i]);
      for (int i = 0; i < M * N / 32; i++) md[Layout::c(lane, i)] = Sum(mine.c[i]);
    });
    for (int m = 0; m < M; m++)
      for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++) md[m * N + n] += ma[m * K + k] * mb[k * N + n];
    each<Product>(works, lanes, [&](unsigned lane, Product& mine) {
      for (int i = 0; i < M * N / 32; i++) mine.d[i] = D(md[Layout::c(lane, i)]);
    });
  }
};
}  // namespace emulator

// ---- wmma: which lane holds which element is nobody's business ----------------------------------
// So elements are dealt out in an order of our own, and code that relies on the order of some GPU fails here.

namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };
namespace precision { struct tf32; }
template <class T> struct Stored { using type = T; };  // what an element of a fragment is
template <> struct Stored<precision::tf32> { using type = float; };
EMULATOR_INLINE float __float_to_tf32(float f) {
  return emulator::bits<float>((emulator::bits<unsigned>(f) + 0x1000u) & ~0x1fffu);
}

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
  static constexpr int rows = std::is_same_v<Use, matrix_b> ? K : M, columns = std::is_same_v<Use, matrix_a> ? K : N;
  static constexpr int num_elements = rows * columns / 32;
  typename Stored<T>::type x[num_elements];
};

// Element i of a lane, as row * columns + column. 5 has no factor in common with the number of elements.
constexpr int dealt(int lane, int i, int elements) { return (lane * (elements / 32) + i) * 5 % elements; }
template <int M, int N, int K> struct Dealt {
  static constexpr int a(int lane, int i) { return dealt(lane, i, M * K); }
  static constexpr int b(int lane, int i) { return dealt(lane, i, K * N); }
  static constexpr int c(int lane, int i) { return dealt(lane, i, M * N); }
};

template <class F> EMULATOR_INLINE unsigned offset_in_memory(int i, bool by_columns, unsigned stride) {
  const int element = dealt(emulator::lane(), i, F::rows * F::columns), row = element / F::columns,
            column = element % F::columns;
  return by_columns ? column * stride + row : row * stride + column;
}

template <class F, class P>
EMULATOR_INLINE void load(F& f, const P* from, unsigned stride, bool by_columns, emulator::Place at) {
  emulator_meet(~0u, "wmma::load_matrix_sync", [](void**, unsigned) {}, nullptr, at.file, at.line);
  for (int i = 0; i < F::num_elements; i++) f.x[i] = from[offset_in_memory<F>(i, by_columns, stride)];
}

template <class Use, int M, int N, int K, class T, class Layout, class P>
EMULATOR_INLINE void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const P* from, unsigned stride,
                                      EMULATOR_AT) {
  load(f, from, stride, std::is_same_v<Layout, col_major>, at);
}
template <int M, int N, int K, class T, class P>
EMULATOR_INLINE void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const P* from, unsigned stride,
                                      layout_t layout, EMULATOR_AT) {
  load(f, from, stride, layout == mem_col_major, at);
}
template <int M, int N, int K, class T, class P>
EMULATOR_INLINE void store_matrix_sync(P* to, const fragment<accumulator, M, N, K, T>& f, unsigned stride,
                                       layout_t layout, EMULATOR_AT) {
  emulator_meet(~0u, "wmma::store_matrix_sync", [](void**, unsigned) {}, nullptr, at.file, at.line);
  for (int i = 0; i < f.num_elements; i++)
    to[offset_in_memory<fragment<accumulator, M, N, K, T>>(i, layout == mem_col_major, stride)] = f.x[i];
}
template <class F, class T> EMULATOR_INLINE void fill_fragment(F& f, T value) {
  for (auto& x : f.x) x = value;
}
template <int M, int N, int K, class D, class C, class T, class LA, class LB>
EMULATOR_INLINE void mma_sync(fragment<accumulator, M, N, K, D>& d, const fragment<matrix_a, M, N, K, T, LA>& a,
                              const fragment<matrix_b, M, N, K, T, LB>& b, const fragment<accumulator, M, N, K, C>& c,
                              EMULATOR_AT) {
  static_assert((M == 16 && N == 16 && K == 16) || (M == 32 && N == 8 && K == 16) || (M == 8 && N == 32 && K == 16) ||
                    (M == 16 && N == 16 && K == 8 && std::is_same_v<T, precision::tf32>),
                "a shape that wmma does not have");
  fragment<accumulator, M, N, K, D> sum;
  for (int i = 0; i < c.num_elements; i++) sum.x[i] = D(c.x[i]);
  using S = typename Stored<T>::type;
  emulator::Product<M, N, K, Dealt<M, N, K>, S, S, D> mine{a.x, b.x, sum.x, sum.x};
  emulator::meet(~0u, "wmma::mma_sync", mine, at);
  d = sum;
}
}  // namespace wmma
}  // namespace nvcuda
