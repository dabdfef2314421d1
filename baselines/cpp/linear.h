// y = x W^T + b with bits that depend on the row alone, and its gradients.
#pragma once

#include "gemm.h"

namespace gnnaccel {

constexpr int64_t kLinearTile = 64;  // most rows of a tile; a divisor of kDepth

// out rows [begin, end) = x[., K] B + bias; B packed [K, N]; bias may be null. `tile` converts S to A and back.
template <class S, class A>
void linear_rows(const S* x, const Packed<A>& B, const A* bias, int64_t begin, int64_t end, S* out) {
  const int64_t K = B.K, N = B.N, n = end - begin, panels = panels_of(N, tile_set<A>().nr);
  const Epilogue<A> epilogue = {bias, 0, false};
  if constexpr (std::is_same_v<S, A>) {
    gemm_panels<A>(n, x + begin * K, K, 1, B, 0, panels, out + begin * N, N, epilogue);
  } else {
    Scratch<A> scratch(n * (K + N));
    A *a = scratch.get(), *c = a + n * K;
    for (int64_t i = 0; i < n * K; ++i) a[i] = static_cast<A>(x[begin * K + i]);
    gemm_panels<A>(n, a, K, 1, B, 0, panels, c, N, epilogue);
    for (int64_t i = 0; i < n * N; ++i) out[begin * N + i] = static_cast<S>(c[i]);
  }
}

// Rows [begin, end) of x and grad, as A, into a block whose row 0 is row `first`.
template <class S, class A>
void linear_load_rows(const S* x, const S* grad, int64_t K, int64_t N, int64_t first, int64_t begin, int64_t end,
                      Rows<A>& xs, Rows<A>& gs) {
  for (int64_t u = begin; u < end; ++u) {
    A *to = xs.row(u - first), *g = gs.row(u - first);
    for (int64_t j = 0; j < K; ++j) to[j] = static_cast<A>(x[u * K + j]);
    for (int64_t j = 0; j < N; ++j) g[j] = static_cast<A>(grad[u * N + j]);
  }
}

// Rows [n0, n1) and panel p of dW[N, K] += g^T x, over `depth` rows of a block.
template <class A>
void linear_weight_tile(Rows<A>& gs, Rows<A>& xs, int64_t depth, int64_t K, int64_t p, int64_t n0, int64_t n1, A* dw) {
  gemm_panels<A>(n1 - n0, gs.row(0) + n0, 1, gs.ld(), xs.view(depth), p, p + 1, dw + n0 * K, K, {nullptr, 0, true});
}

}  // namespace gnnaccel
