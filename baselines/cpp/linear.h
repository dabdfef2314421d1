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
    gemm_panels<A>(n, left_rows(x + begin * K, K), B, 0, panels, out + begin * N, N, epilogue);
  } else {
    Scratch<A> scratch(n * (K + N));
    A *a = scratch.get(), *c = a + n * K;
    for (int64_t i = 0; i < n * K; ++i) a[i] = static_cast<A>(x[begin * K + i]);
    gemm_panels<A>(n, left_rows<A>(a, K), B, 0, panels, c, N, epilogue);
    for (int64_t i = 0; i < n * N; ++i) out[begin * N + i] = static_cast<S>(c[i]);
  }
}

// Rows of a block, for the weight gradient.
template <class A>
struct LinearBlock {
  RowBuffer<A> x;
  Columns<A> grad;
  LinearBlock(int64_t rows, int64_t K, int64_t N) : x(rows, K), grad(rows, N) {}
};

// Rows [begin, end) of x and grad into a block whose row 0 is row `first`.
template <class S, class A>
void linear_load_rows(const S* x, const S* grad, int64_t K, int64_t N, int64_t first, int64_t begin, int64_t end,
                      LinearBlock<A>& block) {
  for (int64_t u = begin; u < end; ++u) std::copy_n(x + u * K, K, block.x.row(u - first));
  // all but the last row as they lie: groups of columns are read whole, into the next row
  const int64_t mr = tile_set<A>().mr;
  if constexpr (std::is_same_v<S, A>)
    if (N >= mr) {
      block.grad.set_rows(begin - first, end - 1 - begin, N, grad + begin * N, N);
      begin = end - 1;
    }
  Scratch<A> row(N + mr);
  for (int64_t u = begin; u < end; ++u) {
    std::copy_n(grad + u * N, N, row.get());
    block.grad.set_rows(u - first, 1, N, row.get(), N);
  }
}

constexpr int64_t kLinearOut = 48;  // outputs of a task; a multiple of every tile's rows

// What `depth` rows of a block add to dW[N, K]: outputs by kLinearOut and panels of K.
template <class A>
void linear_weight_task(int64_t task, LinearBlock<A>& block, int64_t depth, int64_t N, int64_t K, bool fresh, A* dw) {
  const int64_t panels = block.x.panels(), p = task % panels, n0 = task / panels * kLinearOut;
  gemm_panels<A>(std::min(kLinearOut, N - n0), block.grad.view(n0), block.x.view(depth), p, p + 1, dw + n0 * K, K,
                 {nullptr, 0, true, fresh});
}

constexpr int64_t kBiasColumns = 64;  // of a task: some whole cache lines of a row

// sum[j] += row[j] for n columns
template <class S, class A>
void add_row(const S* row, int64_t n, A* __restrict sum) {
  if (n == kBiasColumns)
    for (int64_t j = 0; j < kBiasColumns; ++j) sum[j] += static_cast<A>(row[j]);
  else
    for (int64_t j = 0; j < n; ++j) sum[j] += static_cast<A>(row[j]);
}

}  // namespace gnnaccel
