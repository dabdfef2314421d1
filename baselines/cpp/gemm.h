// Matrix products whose bits depend on nothing but the operands of each element.
//
// Every element of C is one chain of multiply-adds over k in ascending order, cut at fixed places: whatever the number
// of threads, the number of rows in the call, or the place of a row among them. Vendor BLAS changes kernels with the
// shape (MKL: up to 8 rows) and splits long sums between threads.
//
// B is packed into column panels [k][nr], so that a panel's slice of kDepth rows stays in the L1 cache. A is read in
// place through two strides (row-major or transposed). Instruction set chosen at run time;
// GNNACCEL_SIMD=portable|avx2|avx512 lowers it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "simd.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GNNACCEL_X86 1
#include <immintrin.h>
#endif

namespace gnnaccel {

// C = A B, or C = init + A B (init_stride = 0 broadcasts a bias row; init may be C), or C += (A B) with the sum in the
// parentheses taken first, kDepth terms at a time; `fresh`: as if C were zero before.
template <class T>
struct Epilogue {
  const T* init = nullptr;
  int64_t init_stride = 0;
  bool add = false;
  bool fresh = false;
};

// One register tile: C[M, columns] from A (element (i, k) at A[i * si + k * sk]) and a panel slice B[K][.] with row
// stride ldb. The tile computes whole vectors; C and init are touched in `columns` columns, which end in the last
// vector.
template <class T>
using TileFn = void (*)(int64_t K, const T* A, int64_t si, int64_t sk, const T* B, int64_t ldb, T* C, int64_t ldc,
                        int64_t columns, const Epilogue<T>& e);

constexpr int kMaxRows = 8, kMaxVectors = 3;

template <class T>
struct TileSet {
  int64_t mr, nr, lanes;                // rows and columns of the full tile; columns come in multiples of lanes
  TileFn<T> fn[kMaxRows][kMaxVectors];  // [rows - 1][columns / lanes - 1]
  const char* name;
};

// 16-byte vectors: SSE2, NEON, or whatever the compiler makes of them.
template <class T, int M, int V>
void tile_portable(int64_t K, const T* A, int64_t si, int64_t sk, const T* B, int64_t ldb, T* C, int64_t ldc,
                   int64_t columns, const Epilogue<T>& e) {
  typedef T Vec __attribute__((vector_size(16)));
  constexpr int L = 16 / sizeof(T);
  const size_t bytes = static_cast<size_t>(columns) * sizeof(T);
  Vec acc[M][V] = {};
  if (e.init)
    for (int i = 0; i < M; ++i) std::memcpy(&acc[i], e.init + i * e.init_stride, bytes);
  for (int64_t k = 0; k < K; ++k, A += sk, B += ldb) {
    Vec b[V];
    std::memcpy(&b, B, sizeof(b));
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < V; ++v) acc[i][v] += A[i * si] * b[v];
  }
  for (int i = 0; i < M; ++i) {
    if (e.add)
      for (int64_t j = 0; j < columns; ++j) C[i * ldc + j] += acc[i][j / L][j % L];
    else
      std::memcpy(C + i * ldc, &acc[i], bytes);
  }
}

// Without this the accumulators of a tile live in memory: the compiler would unroll only after it has placed arrays.
#define GNNACCEL_UNROLL _Pragma("GCC unroll 8")

#ifdef GNNACCEL_X86
template <int M, int V>
__attribute__((target("avx512f"))) void tile_avx512(int64_t K, const float* A, int64_t si, int64_t sk, const float* B,
                                                    int64_t ldb, float* C, int64_t ldc, int64_t columns,
                                                    const Epilogue<float>& e) {
  const auto last = static_cast<__mmask16>(0xFFFFu >> (16 * V - columns));
  __m512 acc[M][V];
  GNNACCEL_UNROLL for (int i = 0; i < M; ++i) GNNACCEL_UNROLL for (int v = 0; v < V; ++v) {
    const __mmask16 mask = v == V - 1 ? last : static_cast<__mmask16>(0xFFFFu);
    acc[i][v] = e.init ? _mm512_maskz_loadu_ps(mask, e.init + i * e.init_stride + 16 * v) : _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < K; ++k, A += sk, B += ldb) {
    __m512 b[V];
    GNNACCEL_UNROLL for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_ps(B + 16 * v);
    GNNACCEL_UNROLL for (int i = 0; i < M; ++i) {
      const __m512 a = _mm512_set1_ps(A[i * si]);
      GNNACCEL_UNROLL for (int v = 0; v < V; ++v) acc[i][v] = _mm512_fmadd_ps(a, b[v], acc[i][v]);
    }
  }
  GNNACCEL_UNROLL for (int i = 0; i < M; ++i) GNNACCEL_UNROLL for (int v = 0; v < V; ++v) {
    const __mmask16 mask = v == V - 1 ? last : static_cast<__mmask16>(0xFFFFu);
    float* c = C + i * ldc + 16 * v;
    if (e.add) acc[i][v] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), acc[i][v]);
    _mm512_mask_storeu_ps(c, mask, acc[i][v]);
  }
}

template <int M, int V>
__attribute__((target("avx2,fma"))) void tile_avx2(int64_t K, const float* A, int64_t si, int64_t sk, const float* B,
                                                   int64_t ldb, float* C, int64_t ldc, int64_t columns,
                                                   const Epilogue<float>& e) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), all = _mm256_set1_epi32(-1);
  const __m256i last = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(columns) - 8 * (V - 1)), lane);
  __m256 acc[M][V];
  GNNACCEL_UNROLL for (int i = 0; i < M; ++i) GNNACCEL_UNROLL for (int v = 0; v < V; ++v) acc[i][v] =
      e.init ? _mm256_maskload_ps(e.init + i * e.init_stride + 8 * v, v == V - 1 ? last : all) : _mm256_setzero_ps();
  for (int64_t k = 0; k < K; ++k, A += sk, B += ldb) {
    __m256 b[V];
    GNNACCEL_UNROLL for (int v = 0; v < V; ++v) b[v] = _mm256_loadu_ps(B + 8 * v);
    GNNACCEL_UNROLL for (int i = 0; i < M; ++i) {
      const __m256 a = _mm256_broadcast_ss(A + i * si);
      GNNACCEL_UNROLL for (int v = 0; v < V; ++v) acc[i][v] = _mm256_fmadd_ps(a, b[v], acc[i][v]);
    }
  }
  GNNACCEL_UNROLL for (int i = 0; i < M; ++i) GNNACCEL_UNROLL for (int v = 0; v < V; ++v) {
    const __m256i mask = v == V - 1 ? last : all;
    float* c = C + i * ldc + 8 * v;
    if (e.add) acc[i][v] = _mm256_add_ps(_mm256_maskload_ps(c, mask), acc[i][v]);
    _mm256_maskstore_ps(c, mask, acc[i][v]);
  }
}
#endif

// clang-format off
#define GNNACCEL_TILES3(f) {{f<1, 1>, f<1, 2>, f<1, 3>}, {f<2, 1>, f<2, 2>, f<2, 3>}, {f<3, 1>, f<3, 2>, f<3, 3>}, \
  {f<4, 1>, f<4, 2>, f<4, 3>}, {f<5, 1>, f<5, 2>, f<5, 3>}, {f<6, 1>, f<6, 2>, f<6, 3>}, {f<7, 1>, f<7, 2>, f<7, 3>}, \
  {f<8, 1>, f<8, 2>, f<8, 3>}}
#define GNNACCEL_TILES2(f) {{f<1, 1>, f<1, 2>}, {f<2, 1>, f<2, 2>}, {f<3, 1>, f<3, 2>}, {f<4, 1>, f<4, 2>}, \
  {f<5, 1>, f<5, 2>}, {f<6, 1>, f<6, 2>}}
#define GNNACCEL_TILES_PORTABLE(T) {{tile_portable<T, 1, 1>, tile_portable<T, 1, 2>}, \
  {tile_portable<T, 2, 1>, tile_portable<T, 2, 2>}, {tile_portable<T, 3, 1>, tile_portable<T, 3, 2>}, \
  {tile_portable<T, 4, 1>, tile_portable<T, 4, 2>}}
// clang-format on

template <class T>
const TileSet<T>& tile_set();

template <>
inline const TileSet<double>& tile_set<double>() {
  static const TileSet<double> portable = {4, 4, 2, GNNACCEL_TILES_PORTABLE(double), "portable"};
  return portable;
}

template <>
inline const TileSet<float>& tile_set<float>() {
  static const TileSet<float> portable = {4, 8, 4, GNNACCEL_TILES_PORTABLE(float), "portable"};
#ifdef GNNACCEL_X86
  static const TileSet<float> avx2 = {6, 16, 8, GNNACCEL_TILES2(tile_avx2), "avx2"};
  static const TileSet<float> avx512 = {8, 48, 16, GNNACCEL_TILES3(tile_avx512), "avx512"};
  static const TileSet<float>& chosen = []() -> const TileSet<float>& {
    const char* wish = std::getenv("GNNACCEL_SIMD");
    const auto capped = [&](const char* level) { return wish != nullptr && std::strcmp(wish, level) == 0; };
    if (capped("portable")) return portable;
    if (__builtin_cpu_supports("avx512f") && !capped("avx2")) return avx512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2 : portable;
  }();
  return chosen;
#else
  return portable;
#endif
}

// Scratch on cache lines, not initialised.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) : p_(static_cast<T*>(::operator new(bytes(n), std::align_val_t{64}))) {}
  ~Scratch() { ::operator delete(p_, std::align_val_t{64}); }
  Scratch(Scratch&& other) noexcept : p_(other.p_) { other.p_ = nullptr; }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return p_; }

 private:
  static size_t bytes(int64_t n) { return static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(T); }
  T* p_;
};

// The left operand: element (i, k) at data[i / mr * group + i % mr * si + k * sk].
template <class T>
struct Left {
  const T* data;
  int64_t si, sk, group;
};

// Rows that are ld apart.
template <class T>
Left<T> left_rows(const T* rows, int64_t ld) {
  return {rows, ld, 1, ld * tile_set<T>().mr};
}

// A [K, N] matrix as panels of nr columns: packed, or in place (panel_stride = nr), where a row's last panel is read up
// to the next multiple of `lanes`.
template <class T>
struct Packed {
  const T* data;
  int64_t K, N;
  int64_t panel_stride;  // elements between panels
  int64_t ld;            // elements between rows of a panel
};

inline int64_t panels_of(int64_t N, int64_t nr) { return (N + nr - 1) / nr; }

// to[k * ldt + j] = from[j * ldf + k] for 4 x 4 elements.
template <class T>
GNNACCEL_INLINE void transpose_4x4(const T* from, int64_t ldf, T* to, int64_t ldt) {
  typedef T Vec __attribute__((vector_size(4 * sizeof(T))));
  Vec r[4];
  for (int j = 0; j < 4; ++j) std::memcpy(&r[j], from + j * ldf, sizeof(Vec));
  const Vec a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5),
            c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
  for (int k = 0; k < 4; ++k) std::memcpy(to + k * ldt, &r[k], sizeof(Vec));
}

// Panel p of B[K, N] = W^T where W is [N, K] with row stride ldw (a weight as torch's Linear keeps it). kAhead: W comes
// from memory and the next panel's rows are fetched meanwhile; so many rows side by side are more than the hardware
// foresees.
template <bool kAhead = false, class S, class T>
void pack_panel_transposed(const S* W, int64_t ldw, int64_t K, int64_t N, int64_t p, int64_t nr, T* out) {
  const int64_t n0 = p * nr, n = std::min(nr, N - n0);
  constexpr int64_t kTile = 16;  // of k: whole cache lines of W
  for (int64_t k0 = 0; k0 < K; k0 += kTile) {
    const int64_t k1 = std::min(k0 + kTile, K);
    int64_t j = 0;
    if constexpr (std::is_same_v<S, T>)
      if (k1 - k0 == kTile)
        for (; j + 4 <= n; j += 4) {
          if constexpr (kAhead)
            for (int64_t i = 0; i < 4; ++i) __builtin_prefetch(W + (n0 + j + i + nr) * ldw + k0, 0, 2);
          for (int64_t k = k0; k < k1; k += 4) transpose_4x4(W + (n0 + j) * ldw + k, ldw, out + k * nr + j, nr);
        }
    for (; j < n; ++j) {
      const S* w = W + (n0 + j) * ldw;
      for (int64_t k = k0; k < k1; ++k) out[k * nr + j] = static_cast<T>(w[k]);
    }
    for (int64_t k = k0; k < k1; ++k) std::fill(out + k * nr + n, out + (k + 1) * nr, T(0));
  }
}

// Panel p of B[K, N] with row stride ldb.
template <class S, class T>
void pack_panel(const S* B, int64_t ldb, int64_t K, int64_t N, int64_t p, int64_t nr, T* out) {
  const int64_t n0 = p * nr, n = std::min(nr, N - n0);
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t j = 0; j < n; ++j) out[k * nr + j] = static_cast<T>(B[k * ldb + n0 + j]);
    std::fill(out + k * nr + n, out + (k + 1) * nr, T(0));
  }
}

// Owns a [K, N] matrix in panels.
template <class T>
class Panels {
 public:
  Panels(int64_t K, int64_t N)
      : K_(K), N_(N), nr_(tile_set<T>().nr), count_(panels_of(N, nr_)), data_(count_ * K * nr_) {}
  int64_t K() const { return K_; }
  int64_t N() const { return N_; }
  int64_t count() const { return count_; }
  int64_t nr() const { return nr_; }
  T* panel(int64_t p) { return data_.get() + p * K_ * nr_; }
  // The first `depth` rows, all by default.
  Packed<T> view(int64_t depth = -1) { return {data_.get(), depth < 0 ? K_ : depth, N_, K_ * nr_, nr_}; }

  // This panel of W^T, W [N, K]; or of B [K, N].
  template <class S>
  void pack_transposed(const S* W, int64_t ldw, int64_t p) {
    pack_panel_transposed(W, ldw, K_, N_, p, nr_, panel(p));
  }
  template <class S>
  void pack(const S* B, int64_t ldb, int64_t p) {
    pack_panel(B, ldb, K_, N_, p, nr_, panel(p));
  }

 private:
  int64_t K_, N_, nr_, count_;
  Scratch<T> data_;
};

// Owns rows that are written once and multiplied as they lie.
template <class T>
class RowBuffer {
 public:
  RowBuffer(int64_t rows, int64_t N) : N_(N), ld_(round_up(N, kPad)), data_(rows * ld_) {
    // the padding takes part in products that nobody keeps: what lay in memory could be slow to multiply
    for (int64_t k = 0; k < rows; ++k) std::fill(row(k) + N_, row(k) + ld_, T(0));
  }
  T* row(int64_t k) { return data_.get() + k * ld_; }
  int64_t ld() const { return ld_; }
  int64_t panels() const { return panels_of(N_, tile_set<T>().nr); }
  Packed<T> view(int64_t K) { return {data_.get(), K, N_, tile_set<T>().nr, ld_}; }

 private:
  static constexpr int64_t kPad = 16;
  int64_t N_, ld_;
  Scratch<T> data_;
};

constexpr int64_t kDepth = 128;  // k in an L1-resident panel slice; where `add` sums are cut

// Owns a matrix [K, M] that multiplies from the left, transposed, in groups of mr columns [k][mr]: the rows of C that
// one tile makes, and what it reads of them, lie together.
template <class T>
class Columns {
 public:
  Columns(int64_t K, int64_t M) : K_(K), mr_(tile_set<T>().mr), data_(panels_of(M, mr_) * K * mr_) {}
  // Rows [k, k + n) of M columns, from rows that are ld apart and can be read up to the next multiple of mr.
  void set_rows(int64_t k, int64_t n, int64_t M, const T* rows, int64_t ld) {
    constexpr int64_t kUsual = 8;
    for (int64_t i = 0; i < M; i += mr_) {
      T* to = data_.get() + i * K_ + k * mr_;
      const T* from = rows + i;
      if (mr_ == kUsual)
        for (int64_t r = 0; r < n; ++r, to += kUsual, from += ld) std::memcpy(to, from, kUsual * sizeof(T));
      else
        for (int64_t r = 0; r < n; ++r, to += mr_, from += ld) std::copy_n(from, mr_, to);
    }
  }
  Left<T> view(int64_t first_column = 0) const { return {data_.get() + first_column * K_, 1, mr_, K_ * mr_}; }

 private:
  int64_t K_, mr_;
  Scratch<T> data_;
};

struct Nothing {
  void operator()() const {}
};

// C[m, columns of panels p0..p1) from A[m, K] and B; C and e.init point at column 0 of the whole matrix. One thread,
// which calls `meanwhile` after each tile, some hundred nanoseconds: to fetch what it needs next.
template <class T, class Meanwhile = Nothing>
void gemm_panels(int64_t m, const Left<T>& A, const Packed<T>& B, int64_t p0, int64_t p1, T* C, int64_t ldc,
                 Epilogue<T> e, Meanwhile&& meanwhile = {}) {
  const TileSet<T>& tiles = tile_set<T>();
  const int64_t mr = tiles.mr, nr = tiles.nr;
  for (int64_t k0 = 0; k0 < B.K || k0 == 0; k0 += kDepth) {
    const int64_t depth = std::min(kDepth, B.K - k0);
    const bool add = e.add && !(e.fresh && k0 == 0);
    if (k0 > 0 && !e.add) e = {C, ldc, false};
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t n0 = p * nr, n = std::min(nr, B.N - n0);
      const int64_t vectors = (n + tiles.lanes - 1) / tiles.lanes;
      const T* panel = B.data + p * B.panel_stride + k0 * B.ld;
      const T* a = A.data + k0 * A.sk;
      for (int64_t i = 0; i < m; i += mr, a += A.group) {
        const int64_t rows = std::min(mr, m - i);
        const Epilogue<T> tile_e = {e.init ? e.init + i * e.init_stride + n0 : nullptr, e.init_stride, add};
        tiles.fn[rows - 1][vectors - 1](depth, a, A.si, A.sk, panel, B.ld, C + i * ldc + n0, ldc, n, tile_e);
        meanwhile();
      }
    }
  }
}

}  // namespace gnnaccel
