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

// One side of a sum of two products: x[., K] times B, packed [K, N].
template <class S, class A>
struct LinearSide {
  const S* x;
  const Packed<A>& B;
};

// out rows [begin, end) = a.x a.B + bias + b.x b.B, negative ones 0 if `relu`; bias may be null.
template <class S, class A>
void dual_linear_rows(const LinearSide<S, A>& a, const LinearSide<S, A>& b, const A* bias, bool relu, int64_t begin,
                      int64_t end, S* out) {
  const int64_t N = a.B.N, n = end - begin, panels = panels_of(N, tile_set<A>().nr);
  Scratch<A> scratch(std::is_same_v<S, A> ? 0 : n * (std::max(a.B.K, b.B.K) + N));
  A* c = scratch.get();
  if constexpr (std::is_same_v<S, A>) c = out + begin * N;
  A* rows = scratch.get() + n * N;
  for (const LinearSide<S, A>* side : {&a, &b}) {
    const int64_t K = side->B.K;
    const S* x = side->x + begin * K;
    const Epilogue<A> epilogue = {side == &a ? bias : nullptr, 0, side == &b};
    if constexpr (std::is_same_v<S, A>) {
      gemm_panels<A>(n, left_rows(x, K), side->B, 0, panels, c, N, epilogue);
    } else {
      for (int64_t i = 0; i < n * K; ++i) rows[i] = static_cast<A>(x[i]);
      gemm_panels<A>(n, left_rows<A>(rows, K), side->B, 0, panels, c, N, epilogue);
    }
  }
  if (relu)
    for (int64_t i = 0; i < n * N; ++i) c[i] = c[i] < A(0) ? A(0) : c[i];  // keeps NaN
  if constexpr (!std::is_same_v<S, A>)
    for (int64_t i = 0; i < n * N; ++i) out[begin * N + i] = static_cast<S>(c[i]);
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

template <class S, class A>
void masked_row(const S* __restrict grad, const S* __restrict output, int64_t N, A* __restrict to) {
  for (int64_t j = 0; j < N; ++j) {
    const A value = static_cast<A>(grad[j]);  // read in any case: a select, not a branch that nobody predicts
    to[j] = static_cast<A>(output[j]) > A(0) ? value : A(0);
  }
}

// Rows [begin, end) of grad, 0 where `output` (of a ReLU; may be null) is not above 0, in rows of `width` in `to`.
template <class S, class A>
void masked_rows(const S* grad, const S* output, int64_t N, int64_t begin, int64_t end, int64_t width, A* to) {
  for (int64_t u = begin; u < end; ++u, to += width) {
    if (output == nullptr) {
      std::copy_n(grad + u * N, N, to);
    } else {
      masked_row(grad + u * N, output + u * N, N, to);
    }
  }
}

// Rows of a block, for the weight gradients of two sides.
template <class A>
struct DualBlock {
  RowBuffer<A> x, other;
  Columns<A> grad;
  DualBlock(int64_t rows, int64_t K, int64_t L, int64_t N) : x(rows, K), other(rows, L), grad(rows, N) {}
  int64_t panels() const { return x.panels() + other.panels(); }
};

constexpr int64_t kLinearOut = 48;  // outputs of a task; a multiple of every tile's rows

// What `depth` rows of a block add to dW[N, K]: outputs by kLinearOut and panels of K.
template <class A>
void linear_weight_task(int64_t task, LinearBlock<A>& block, int64_t depth, int64_t N, int64_t K, bool fresh, A* dw) {
  const int64_t panels = block.x.panels(), p = task % panels, n0 = task / panels * kLinearOut;
  gemm_panels<A>(std::min(kLinearOut, N - n0), block.grad.view(n0), block.x.view(depth), p, p + 1, dw + n0 * K, K,
                 {nullptr, 0, true, fresh});
}

// The same for two sides: the tasks of x, then those of `other`.
template <class A>
void dual_weight_task(int64_t task, DualBlock<A>& block, int64_t depth, int64_t N, int64_t K, int64_t L, bool fresh,
                      A* dw, A* other_dw) {
  const int64_t panels = block.panels(), p = task % panels, n0 = task / panels * kLinearOut, first = block.x.panels();
  const bool own = p < first;
  const int64_t width = own ? K : L, at = own ? p : p - first;
  gemm_panels<A>(std::min(kLinearOut, N - n0), block.grad.view(n0), (own ? block.x : block.other).view(depth), at,
                 at + 1, (own ? dw : other_dw) + n0 * width, width, {nullptr, 0, true, fresh});
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
