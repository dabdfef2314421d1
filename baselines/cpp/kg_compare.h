// Query rows against candidate rows: products by matrix multiplication, distances in registers. What a task computes
// follows from the shapes alone, and tasks own what they write: the number of threads changes no bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "gemm.h"
#include "kg_moduli.h"
#include "simd.h"

namespace gnnaccel {

enum class Compare : int64_t { kDot, kL1, kL2, kModulus };

template <class A>
struct Wide {
  typedef A V __attribute__((vector_size(64)));
  using Int = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  typedef Int I __attribute__((vector_size(64)));
  static constexpr int64_t L = 64 / sizeof(A);
  static constexpr Int kSign = std::numeric_limits<Int>::min();  // the sign bit
};

// y = 1 / sqrt(s), about an ulp or two; finite for s = 0, so that s y is then 0.
template <class A>
GNNACCEL_INLINE void reciprocal_root(const typename Wide<A>::V& s, typename Wide<A>::V& y) {
  using W = Wide<A>;
  if constexpr (std::is_same_v<A, float>) {
    // a first guess from the exponent, then Newton's steps: fewer cycles than the root and the division
    const typename W::I guess = 0x5f3759df - (reinterpret_cast<typename W::I>(s) >> 1);
    const typename W::V half = 0.5f * s;
    y = reinterpret_cast<typename W::V>(guess);
    for (int step = 0; step < 3; ++step) y = y * (1.5f - (half * y) * y);
  } else {
    for (int64_t l = 0; l < W::L; ++l) y[l] = s[l] > 0 ? 1 / std::sqrt(s[l]) : (s[l] == 0 ? A(0) : s[l]);
  }
}

constexpr int kCompareRows = 4;  // queries of a register tile

// out[i, j] = gamma - distance for `rows` queries of D columns and the n candidates of a panel [D][L].
template <class A, Compare kind>
GNNACCEL_INLINE void panel_distances(int64_t D, const A* q, int64_t rows, const A* panel, int64_t n, A gamma, A* out,
                                     int64_t ldo) {
  using W = Wide<A>;
  using V = typename W::V;
  constexpr int M = kCompareRows;
  for (int64_t i0 = 0; i0 < rows; i0 += M) {
    const A* row[M];
    for (int i = 0; i < M; ++i) row[i] = q + std::min(i0 + i, rows - 1) * D;
    V acc[M] = {};
    if constexpr (kind == Compare::kL1) {
      for (int64_t k = 0; k < D; ++k) {
        V b;
        std::memcpy(&b, panel + k * W::L, sizeof(b));
        GNNACCEL_UNROLL for (int i = 0; i < M; ++i) {
          const V x = row[i][k] - b;
          acc[i] += reinterpret_cast<V>(reinterpret_cast<typename W::I>(x) & ~W::kSign);
        }
      }
    } else {
      const int64_t half = D / 2;
      for (int64_t k = 0; k < half; ++k) {
        V re, im;
        std::memcpy(&re, panel + k * W::L, sizeof(re));
        std::memcpy(&im, panel + (half + k) * W::L, sizeof(im));
        GNNACCEL_UNROLL for (int i = 0; i < M; ++i) {
          const V x = row[i][k] - re, y = row[i][half + k] - im, s = x * x + y * y;
          V root;
          reciprocal_root<A>(s, root);
          acc[i] += s * root;
        }
      }
    }
    for (int64_t i = 0; i < std::min<int64_t>(M, rows - i0); ++i)
      for (int64_t j = 0; j < n; ++j) out[(i0 + i) * ldo + j] = gamma - acc[i][j];
  }
}

constexpr int64_t kCompareColumns = 128;  // candidates whose slices and gradients stay in the L1 cache

// Gradients in slices of 2 L columns: for kL1 those of the rows, for kModulus L real and L imaginary parts. q and dq
// have rows up to a multiple of kCompareRows; `grad` [rows, N], rows ldg apart, has `zeros` [N] in place of those past
// `rows`. Adds to dq and dn.
template <class A, Compare kind>
GNNACCEL_INLINE void slice_gradients(int64_t rows, int64_t N, const A* grad, int64_t ldg, const A* zeros, const A* q,
                                     const A* n, A* dq, A* dn) {
  using W = Wide<A>;
  using V = typename W::V;
  constexpr int M = kCompareRows;
  constexpr int64_t width = 2 * W::L;
  for (int64_t j0 = 0; j0 < N; j0 += kCompareColumns) {
    const int64_t j1 = std::min(j0 + kCompareColumns, N);
    for (int64_t i0 = 0; i0 < rows; i0 += M) {
      const A* g[M];
      V a[M][2], da[M][2];
      for (int i = 0; i < M; ++i) g[i] = i0 + i < rows ? grad + (i0 + i) * ldg : zeros;
      std::memcpy(&a, q + i0 * width, sizeof(a));
      std::memcpy(&da, dq + i0 * width, sizeof(da));
      for (int64_t j = j0; j < j1; ++j) {
        V b[2], sum[2];
        std::memcpy(&b, n + j * width, sizeof(b));
        std::memcpy(&sum, dn + j * width, sizeof(sum));
        GNNACCEL_UNROLL for (int i = 0; i < M; ++i) {
          const V x = a[i][0] - b[0], y = a[i][1] - b[1], weight = g[i][j] - V{};
          V u, v;
          if constexpr (kind == Compare::kL1) {
            using I = typename W::I;
            const I w = reinterpret_cast<I>(weight);
            u = reinterpret_cast<V>((w ^ (reinterpret_cast<I>(x) & W::kSign)) & (x != 0));
            v = reinterpret_cast<V>((w ^ (reinterpret_cast<I>(y) & W::kSign)) & (y != 0));
          } else {
            const V s = x * x + y * y;
            V root;
            reciprocal_root<A>(s, root);
            root *= weight;
            u = x * root, v = y * root;
          }
          da[i][0] -= u, da[i][1] -= v;
          sum[0] += u, sum[1] += v;
        }
        std::memcpy(dn + j * width, &sum, sizeof(sum));
      }
      std::memcpy(dq + i0 * width, &da, sizeof(da));
    }
  }
}

// What a pair of rows needs: the score, or what multiplies the difference (for kDot, the other row) in the gradients.
template <class A, Compare kind>
GNNACCEL_INLINE A sum_of_terms(const A* q, const A* n, int64_t D) {
  constexpr int64_t kLanes = 16;
  const int64_t K = kind == Compare::kModulus ? D / 2 : D;
  A part[kLanes] = {};
  const auto add = [&](int64_t l, int64_t k) __attribute__((always_inline)) {
    const A x = q[k] - n[k];
    if constexpr (kind == Compare::kDot) part[l] += q[k] * n[k];
    if constexpr (kind == Compare::kL1) part[l] += std::fabs(x);
    if constexpr (kind == Compare::kL2) part[l] += x * x;
    if constexpr (kind == Compare::kModulus)
      part[l] += std::sqrt(x * x + (q[K + k] - n[K + k]) * (q[K + k] - n[K + k]));
  };
  int64_t k0 = 0;
  for (; k0 + kLanes <= K; k0 += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) add(l, k0 + l);
  for (int64_t l = 0; k0 + l < K; ++l) add(l, k0 + l);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) part[l] += part[l + half];
  return part[0];
}

template <class A>
GNNACCEL_INLINE A row_sum(Compare kind, const A* q, const A* n, int64_t D) {
  if (kind == Compare::kDot) return sum_of_terms<A, Compare::kDot>(q, n, D);
  if (kind == Compare::kL1) return sum_of_terms<A, Compare::kL1>(q, n, D);
  if (kind == Compare::kL2) return sum_of_terms<A, Compare::kL2>(q, n, D);
  return sum_of_terms<A, Compare::kModulus>(q, n, D);
}

// The gradients of a pair's score times g.
template <class A>
GNNACCEL_INLINE void row_gradients(Compare kind, A g, const A* q, const A* n, int64_t D, A* __restrict dq,
                                   A* __restrict dn) {
  if (kind == Compare::kDot) {
    for (int64_t k = 0; k < D; ++k) dq[k] = g * n[k], dn[k] = g * q[k];
  } else if (kind == Compare::kL1) {
    for (int64_t k = 0; k < D; ++k) {
      const A x = q[k] - n[k];
      dn[k] = x > 0 ? g : x < 0 ? -g : x * g, dq[k] = -dn[k];
    }
  } else if (kind == Compare::kL2) {
    const A d = std::sqrt(row_sum(kind, q, n, D)), w = d == 0 ? A(0) : g / d;
    for (int64_t k = 0; k < D; ++k) dn[k] = w * (q[k] - n[k]), dq[k] = -dn[k];
  } else {
    const int64_t half = D / 2;
    for (int64_t k = 0; k < half; ++k) {
      const A x = q[k] - n[k], y = q[half + k] - n[half + k], d = std::sqrt(x * x + y * y), w = d == 0 ? A(0) : g / d;
      dn[k] = w * x, dq[k] = -dn[k];
      dn[half + k] = w * y, dq[half + k] = -dn[half + k];
    }
  }
}

// Products into distances, or -1 where the rows are too near for that: their number.
template <class A>
GNNACCEL_INLINE int32_t row_of_distances(A q_norm, const A* n_norm, int64_t n, A* d) {
  // below this share of the norms fewer than two digits of float32's seven would go; the notes' bound is 1e-4
  constexpr A kNear = A(1e-2);
  int32_t near = 0;
  for (int64_t j = 0; j < n; ++j) {
    const A norms = q_norm + n_norm[j], square = norms - 2 * d[j];
    const bool far = square > kNear * norms;
    near += !far;
    d[j] = far ? std::sqrt(square) : A(-1);
  }
  return near;
}

#define GNNACCEL_KG_COMPARE(A)                                                                                        \
  GNNACCEL_CLONES inline void distances_of_panel(Compare kind, int64_t D, const A* q, int64_t rows, const A* panel,   \
                                                 int64_t n, A gamma, A* out, int64_t ldo) {                           \
    if (kind == Compare::kL1)                                                                                         \
      panel_distances<A, Compare::kL1>(D, q, rows, panel, n, gamma, out, ldo);                                        \
    else if (!moduli_of_panel(D, q, rows, panel, n, gamma, out, ldo))                                                 \
      panel_distances<A, Compare::kModulus>(D, q, rows, panel, n, gamma, out, ldo);                                   \
  }                                                                                                                   \
  GNNACCEL_CLONES inline void gradients_of_slice(Compare kind, int64_t rows, int64_t N, const A* grad, int64_t ldg,   \
                                                 const A* zeros, const A* q, const A* n, A* dq, A* dn) {              \
    if (kind == Compare::kL1)                                                                                         \
      slice_gradients<A, Compare::kL1>(rows, N, grad, ldg, zeros, q, n, dq, dn);                                      \
    else                                                                                                              \
      slice_gradients<A, Compare::kModulus>(rows, N, grad, ldg, zeros, q, n, dq, dn);                                 \
  }                                                                                                                   \
  GNNACCEL_CLONES inline int32_t distances_of_row(A q_norm, const A* n_norm, int64_t n, A* d) {                       \
    return row_of_distances<A>(q_norm, n_norm, n, d);                                                                 \
  }                                                                                                                   \
  GNNACCEL_CLONES inline A score_of_pair(Compare kind, const A* q, const A* n, int64_t D, A gamma) {                  \
    const A sum = row_sum<A>(kind, q, n, D);                                                                          \
    return kind == Compare::kDot ? sum : gamma - (kind == Compare::kL2 ? std::sqrt(sum) : sum);                       \
  }                                                                                                                   \
  GNNACCEL_CLONES inline void gradients_of_pair(Compare kind, A g, const A* q, const A* n, int64_t D, A* dq, A* dn) { \
    row_gradients<A>(kind, g, q, n, D, dq, dn);                                                                       \
  }
GNNACCEL_KG_COMPARE(float)
GNNACCEL_KG_COMPARE(double)
#undef GNNACCEL_KG_COMPARE

template <class A>
int64_t slices_of(Compare kind, int64_t D) {
  const int64_t columns = kind == Compare::kModulus ? D / 2 : D, each = kind == Compare::kModulus ? 1 : 2;
  return (columns + each * Wide<A>::L - 1) / (each * Wide<A>::L);
}

// A slice of the columns of dq [S, D] and dn [N, D], from grad [S, N].
template <class A>
void slice_task(Compare kind, int64_t slice, int64_t S, int64_t N, int64_t D, const A* grad, const A* zeros, const A* q,
                const A* n, A* dq, A* dn) {
  constexpr int64_t width = 2 * Wide<A>::L;
  const int64_t parts = kind == Compare::kModulus ? 2 : 1, each = width / parts, columns = D / parts;
  const int64_t k0 = slice * each, count = std::min(each, columns - k0), rows = round_up(S, kCompareRows);
  Scratch<A> memory(2 * (rows + N) * width);
  A *sq = memory.get(), *sdq = sq + rows * width, *sn = sdq + rows * width, *sdn = sn + N * width;
  std::fill_n(sq, 2 * (rows + N) * width, A(0));
  const auto copy = [&](int64_t n_rows, auto* whole, A* part, const auto& move) {
    for (int64_t i = 0; i < n_rows; ++i)
      for (int64_t p = 0; p < parts; ++p) move(whole + i * D + p * columns + k0, part + i * width + p * each);
  };
  const auto in = [&](const A* from, A* to) { std::copy_n(from, count, to); };
  const auto back = [&](A* to, const A* from) { std::copy_n(from, count, to); };
  copy(S, q, sq, in);
  copy(N, n, sn, in);
  gradients_of_slice(kind, S, N, grad, N, zeros, sq, sn, sdq, sdn);
  copy(S, dq, sdq, back);
  copy(N, dn, sdn, back);
}

constexpr int64_t kCompareBlock = 96;  // candidates of a product task; a multiple of every tile's columns

// Rows of a chunk less their common centre, and their squared norms: |q - n|^2 = |q|^2 + |n|^2 - 2 q n keeps the more
// digits the smaller the norms are.
template <class A>
struct Centred {
  int64_t S, N, D;
  Scratch<A> q, n, q_norm, n_norm;
  Centred(int64_t S_, int64_t N_, int64_t D_) : S(S_), N(N_), D(D_), q(S * D), n(N * D), q_norm(S), n_norm(N) {}

  void fill(const A* queries, const A* candidates) {
    std::vector<A> centre(static_cast<size_t>(D), A(0));
    for (int64_t j = 0; j < N; ++j)
      for (int64_t k = 0; k < D; ++k) centre[static_cast<size_t>(k)] += candidates[j * D + k];
    for (A& x : centre) x /= static_cast<A>(std::max<int64_t>(N, 1));
    subtract(queries, S, centre.data(), q.get(), q_norm.get());
    subtract(candidates, N, centre.data(), n.get(), n_norm.get());
  }

 private:
  void subtract(const A* from, int64_t rows, const A* centre, A* to, A* norm) const {
    const std::vector<A> zero(static_cast<size_t>(D), A(0));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < D; ++k) to[i * D + k] = from[i * D + k] - centre[k];
      const A d = -score_of_pair(Compare::kL2, to + i * D, zero.data(), D, A(0));
      norm[i] = d * d;
    }
  }
};

// A pair too near for the difference of its norms.
template <class A>
struct Near {
  int64_t i, j;
  A distance;
};

// out[S, n1 - n0] with row stride ldo: products of all queries with candidates [n0, n1).
template <class A>
void block_products(const A* q, int64_t S, const A* n, int64_t D, int64_t n0, int64_t n1, A* out, int64_t ldo) {
  Panels<A> panels(D, n1 - n0);
  for (int64_t p = 0; p < panels.count(); ++p) panels.pack_transposed(n + n0 * D, D, p);
  gemm_panels<A>(S, left_rows(q, D), panels.view(), 0, panels.count(), out, ldo, {});
}

// As block_products, distances. `q` and `n` are the rows before they were centred: near pairs are formed from those.
template <class A>
void block_distances(const Centred<A>& m, const A* q, const A* n, int64_t n0, int64_t n1, A* out, int64_t ldo,
                     std::vector<Near<A>>* near) {
  block_products(m.q.get(), m.S, m.n.get(), m.D, n0, n1, out, ldo);
  for (int64_t i = 0; i < m.S; ++i) {
    A* row = out + i * ldo;
    if (distances_of_row(m.q_norm.get()[i], m.n_norm.get() + n0, n1 - n0, row) == 0) continue;
    for (int64_t j = n0; j < n1; ++j) {
      A& d = row[j - n0];
      if (d >= 0) continue;
      d = -score_of_pair(Compare::kL2, q + i * m.D, n + j * m.D, m.D, A(0));
      if (near) near->push_back({i, j, d});
    }
  }
}

// Columns [k0, k1) of dq = G n and dn = G^T q, G [S, N], all rows D apart.
template <class A>
void product_gradients(const A* g, const A* q, const A* n, int64_t S, int64_t N, int64_t D, int64_t p, A* dq, A* dn) {
  const int64_t nr = tile_set<A>().nr, mr = tile_set<A>().mr, k0 = p * nr, width = std::min(nr, D - k0);
  Scratch<A> panel(std::max(S, N) * nr);
  pack_panel(n, D, N, D, p, nr, panel.get());
  gemm_panels<A>(S, left_rows(g, N), Packed<A>{panel.get(), N, width, 0, nr}, 0, 1, dq + k0, D, {});
  pack_panel(q, D, S, D, p, nr, panel.get());
  gemm_panels<A>(N, Left<A>{g, 1, N, mr}, Packed<A>{panel.get(), S, width, 0, nr}, 0, 1, dn + k0, D, {});
}

}  // namespace gnnaccel
