// `kg_compare`, the comparison that every model of `kg_score` ends in; products grouped by relation are in
// kg_project.cpp.
#include "kg_compare.h"
#include "kg_values.h"

namespace gnnaccel {
namespace {

constexpr int64_t kPairs = 64;  // pairs of a task

struct Shape {
  int64_t C, S, N, D;
  Shape(const Tensor& q, const Tensor& n) : C(q.size(0)), S(q.size(1)), N(n.size(1)), D(q.size(2)) {}
  bool pairs() const { return S == 1 && N == 1; }
};

// Centred rows of every chunk.
template <class A>
std::vector<Centred<A>> centre(const Shape& s, const A* q, const A* n) {
  std::vector<Centred<A>> out;
  for (int64_t c = 0; c < s.C; ++c) out.emplace_back(s.S, s.N, s.D);
  parallel_chunks(s.C, 1,
                  [&](int64_t c, int64_t) { out[static_cast<size_t>(c)].fill(q + c * s.S * s.D, n + c * s.N * s.D); });
  return out;
}

Tensor kg_compare_cpu(const Tensor& q_in, const Tensor& n_in, int64_t kind_in, double gamma_in) {
  const auto kind = static_cast<Compare>(kind_in);
  const Shape s(q_in, n_in);
  Tensor out = empty({s.C, s.S, s.N}, n_in.scalar_type());
  if (out.numel() == 0) return out;
  dispatch_floating(n_in.scalar_type(), "kg_compare", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const WideValues<A> queries(q_in);
    const WideValues<T> candidates(n_in);
    const A *q = queries.data, *n = candidates.data, gamma = static_cast<A>(gamma_in);
    T* o = ptr<T>(out);
    if (s.pairs())
      return parallel_chunks(s.C, kPairs, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          o[i] = static_cast<T>(score_of_pair(kind, q + i * s.D, n + i * s.D, s.D, gamma));
      });
    const std::vector<Centred<A>> centred = kind == Compare::kL2 ? centre(s, q, n) : std::vector<Centred<A>>();
    const bool product = kind == Compare::kDot || kind == Compare::kL2;
    const int64_t block = product ? kCompareBlock : Wide<A>::L, blocks = (s.N + block - 1) / block;
    parallel_chunks(s.C * blocks, 1, [&](int64_t task, int64_t) {
      const int64_t c = task / blocks, n0 = task % blocks * block, n1 = std::min(n0 + block, s.N), width = n1 - n0;
      const A *qc = q + c * s.S * s.D, *nc = n + c * s.N * s.D;
      T* to = o + c * s.S * s.N + n0;
      Scratch<A> tile(std::is_same_v<T, A> ? 0 : s.S * width);
      A* at = tile.get();
      int64_t ld = width;
      if constexpr (std::is_same_v<T, A>) at = to, ld = s.N;
      if (kind == Compare::kDot) {
        block_products(qc, s.S, nc, s.D, n0, n1, at, ld);
      } else if (kind == Compare::kL2) {
        block_distances<A>(centred[static_cast<size_t>(c)], qc, nc, n0, n1, at, ld, nullptr);
        for (int64_t i = 0; i < s.S; ++i)
          for (int64_t j = 0; j < width; ++j) at[i * ld + j] = gamma - at[i * ld + j];
      } else {
        Scratch<A> panel(s.D * block);
        pack_panel_transposed(nc + n0 * s.D, s.D, s.D, width, 0, block, panel.get());
        distances_of_panel(kind, s.D, qc, s.S, panel.get(), width, gamma, at, ld);
      }
      if constexpr (!std::is_same_v<T, A>)
        for (int64_t i = 0; i < s.S; ++i)
          for (int64_t j = 0; j < width; ++j) to[i * s.N + j] = static_cast<T>(at[i * ld + j]);
    });
  });
  return out;
}

// Gradients of sums of distances: each task has a slice of the columns of a chunk, and all its rows.
template <class A>
void distance_gradients(Compare kind, const Shape& s, const A* g, const A* q, const A* n, A* dq, A* dn) {
  const int64_t slices = slices_of<A>(kind, s.D);
  const std::vector<A> zeros(static_cast<size_t>(s.N), A(0));
  parallel_chunks(s.C * slices, 1, [&](int64_t task, int64_t) {
    const int64_t c = task / slices, a = c * s.S * s.D, b = c * s.N * s.D;
    slice_task(kind, task % slices, s.S, s.N, s.D, g + c * s.S * s.N, zeros.data(), q + a, n + b, dq + a, dn + b);
  });
}

// Gradients of sums of products.
template <class A>
void dot_gradients(const Shape& s, const A* g, const A* q, const A* n, A* dq, A* dn) {
  const int64_t panels = panels_of(s.D, tile_set<A>().nr);
  parallel_chunks(s.C * panels, 1, [&](int64_t task, int64_t) {
    const int64_t c = task / panels, a = c * s.S * s.D, b = c * s.N * s.D;
    product_gradients(g + c * s.S * s.N, q + a, n + b, s.S, s.N, s.D, task % panels, dq + a, dn + b);
  });
}

// w = g / w in rows of n, ld apart.
template <class A>
GNNACCEL_INLINE void divide_block(const A* g, int64_t rows, int64_t n, int64_t ld, A* w) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; ++j) w[i * ld + j] = g[i * ld + j] / w[i * ld + j];
}

template <class A>
GNNACCEL_INLINE void column_sums_of(const A* w, int64_t rows, int64_t n, int64_t ld, A* sums) {
  for (int64_t j = 0; j < n; ++j) sums[j] = 0;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; ++j) sums[j] += w[i * ld + j];
}

// In sixteen chains.
template <class A>
GNNACCEL_INLINE A row_sum_of(const A* w, int64_t n) {
  A sum[16] = {};
  int64_t j = 0;
  for (; j + 16 <= n; j += 16)
    for (int64_t l = 0; l < 16; ++l) sum[l] += w[j + l];
  for (; j < n; ++j) sum[0] += w[j];
  for (int64_t half = 8; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) sum[l] += sum[l + half];
  return sum[0];
}

// d -= rows * sums in columns of rows that are D apart.
template <class A>
GNNACCEL_INLINE void subtract_scaled(const A* rows, const A* sums, int64_t count, int64_t columns, int64_t D, A* d) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t k = 0; k < columns; ++k) d[i * D + k] -= rows[i * D + k] * sums[i];
}

#define GNNACCEL_ROOT_GRADIENTS(A)                                                                           \
  GNNACCEL_CLONES void divide(const A* g, int64_t rows, int64_t n, int64_t ld, A* w) {                       \
    divide_block<A>(g, rows, n, ld, w);                                                                      \
  }                                                                                                          \
  GNNACCEL_CLONES void sum_columns(const A* w, int64_t rows, int64_t n, int64_t ld, A* sums) {               \
    column_sums_of<A>(w, rows, n, ld, sums);                                                                 \
  }                                                                                                          \
  GNNACCEL_CLONES A sum_row(const A* w, int64_t n) { return row_sum_of<A>(w, n); }                           \
  GNNACCEL_CLONES void less(const A* rows, const A* sums, int64_t count, int64_t columns, int64_t D, A* d) { \
    subtract_scaled<A>(rows, sums, count, columns, D, d);                                                    \
  }
GNNACCEL_ROOT_GRADIENTS(float)
GNNACCEL_ROOT_GRADIENTS(double)
#undef GNNACCEL_ROOT_GRADIENTS

// Gradients of sums of root distances: with W = G / d, dq = W n - q (row sums of W), dn = W^T q - n (column sums). Near
// pairs are left out of W and added by themselves.
template <class A>
void root_gradients(const Shape& s, const A* g, const A* q, const A* n, A* dq, A* dn) {
  const std::vector<Centred<A>> centred = centre(s, q, n);
  const int64_t blocks = (s.N + kCompareBlock - 1) / kCompareBlock, panels = panels_of(s.D, tile_set<A>().nr);
  std::vector<std::vector<Near<A>>> near(static_cast<size_t>(s.C * blocks));
  Scratch<A> w(s.C * s.S * s.N), row_sums(s.C * s.S), column_sums(s.C * s.N);
  parallel_chunks(s.C * blocks, 1, [&](int64_t task, int64_t) {
    const int64_t c = task / blocks, n0 = task % blocks * kCompareBlock, n1 = std::min(n0 + kCompareBlock, s.N);
    auto& pairs = near[static_cast<size_t>(task)];
    A* wc = w.get() + c * s.S * s.N;
    const A* gc = g + c * s.S * s.N;
    block_distances(centred[static_cast<size_t>(c)], q + c * s.S * s.D, n + c * s.N * s.D, n0, n1, wc + n0, s.N,
                    &pairs);
    divide(gc + n0, s.S, n1 - n0, s.N, wc + n0);
    for (const Near<A>& pair : pairs) wc[pair.i * s.N + pair.j] = A(0);
    sum_columns(wc + n0, s.S, n1 - n0, s.N, column_sums.get() + c * s.N + n0);
  });
  parallel_chunks(s.C * s.S, kPairs, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row_sums.get()[i] = sum_row(w.get() + i * s.N, s.N);
  });
  parallel_chunks(s.C * panels, 1, [&](int64_t task, int64_t) {
    const int64_t c = task / panels, p = task % panels, nr = tile_set<A>().nr, k0 = p * nr, k1 = std::min(k0 + nr, s.D);
    const Centred<A>& m = centred[static_cast<size_t>(c)];
    A *dqc = dq + c * s.S * s.D, *dnc = dn + c * s.N * s.D;
    product_gradients(w.get() + c * s.S * s.N, m.q.get(), m.n.get(), s.S, s.N, s.D, p, dqc, dnc);
    less(m.q.get() + k0, row_sums.get() + c * s.S, s.S, k1 - k0, s.D, dqc + k0);
    less(m.n.get() + k0, column_sums.get() + c * s.N, s.N, k1 - k0, s.D, dnc + k0);
    for (int64_t b = 0; b < blocks; ++b)
      for (const Near<A>& pair : near[static_cast<size_t>(c * blocks + b)]) {
        if (pair.distance == 0) continue;
        const A weight = g[(c * s.S + pair.i) * s.N + pair.j] / pair.distance;
        const A *a = q + (c * s.S + pair.i) * s.D, *to = n + (c * s.N + pair.j) * s.D;
        for (int64_t k = k0; k < k1; ++k) {
          const A x = weight * (a[k] - to[k]);
          dqc[pair.i * s.D + k] -= x;
          dnc[pair.j * s.D + k] += x;
        }
      }
  });
}

std::tuple<Tensor, Tensor> kg_compare_backward_cpu(const Tensor& grad_in, const Tensor& q_in, const Tensor& n_in,
                                                   int64_t kind_in) {
  const auto kind = static_cast<Compare>(kind_in);
  const Shape s(q_in, n_in);
  Tensor dq = empty(sizes_of(q_in), q_in.scalar_type()), dn = empty(sizes_of(n_in), n_in.scalar_type());
  dispatch_floating(n_in.scalar_type(), "kg_compare", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const WideValues<A> queries(q_in);
    const WideValues<T> candidates(n_in), gradient(grad_in);
    const A *q = queries.data, *n = candidates.data, *g = gradient.data;
    WideResult<T> result(dn);
    A *to_q = ptr<A>(dq), *to_n = result.data;
    if (s.pairs())
      parallel_chunks(s.C, kPairs, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          gradients_of_pair(kind, g[i], q + i * s.D, n + i * s.D, s.D, to_q + i * s.D, to_n + i * s.D);
      });
    else if (kind == Compare::kDot)
      dot_gradients(s, g, q, n, to_q, to_n);
    else if (kind == Compare::kL2)
      root_gradients(s, g, q, n, to_q, to_n);
    else
      distance_gradients(kind, s, g, q, n, to_q, to_n);
    result.finish();
  });
  return {dq, dn};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("kg_compare", TORCH_BOX(&gnnaccel::kg_compare_cpu));
  m.impl("kg_compare_backward", TORCH_BOX(&gnnaccel::kg_compare_backward_cpu));
}
