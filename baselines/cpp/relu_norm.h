// y = LayerNorm(ReLU(dropout(x))) * weight + bias a few rows at a time, and its gradients. Rows stay in the first-level
// cache between the passes over them; nothing but y, the mean and the reciprocal deviation of each row is stored.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>

#include "philox.h"
#include "simd.h"

namespace gnnaccel {

constexpr uint32_t kReluNormStream = 0xEE6F726Du;  // a word that no other op's counters have in its place

struct NormDropout {
  bool active;
  PhiloxKey key;
  uint32_t threshold;  // of 2^32: words below it are dropped
  double scale;

  NormDropout(double rate, int64_t seed)
      : active(rate > 0),
        key{static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32), kReluNormStream},
        threshold(static_cast<uint32_t>(rate * 16777216.0) << 8),
        scale(1.0 / (1.0 - rate)) {}
};

// Rows go through each pass in groups: the sums of one row are long chains, and those of several rows overlap.
constexpr int64_t kNormGroup = 8;

// One thread's working memory: a group of rows of D columns, padded with zeros to `width`.
template <class A>
struct NormScratch {
  int64_t width;
  A *h, *n, *g;     // what ReLU left; centred or normalised; gradient of the normalised row
  A *x, *dy, *out;  // rows of half types in A, not padded
  uint32_t* words;

  explicit NormScratch(int64_t D) : width((D + kPhiloxBlock - 1) / kPhiloxBlock * kPhiloxBlock) {
    const int64_t size = kNormGroup * width;
    memory_.reset(new char[static_cast<size_t>(size) * 6 * sizeof(A) + static_cast<size_t>(width) * 4 + 64]());
    char* base = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
    h = reinterpret_cast<A*>(base), n = h + size, g = n + size, x = g + size, dy = x + size, out = dy + size;
    words = reinterpret_cast<uint32_t*>(out + size);
  }

 private:
  std::unique_ptr<char[]> memory_;
};

// Mean of a padded row (with b: of the products of two): sums in lanes, then of the lanes by halves, which is the same
// order whatever the vector registers.
template <class A>
GNNACCEL_INLINE A mean_of(const A* a, const A* b, int64_t D) {
  typedef A V __attribute__((vector_size(64)));
  constexpr int64_t L = 64 / static_cast<int64_t>(sizeof(A));
  V sum = {};
  for (int64_t j = 0; j < D; j += L) {
    const V v = *reinterpret_cast<const V*>(a + j);
    sum += b == nullptr ? v : v * *reinterpret_cast<const V*>(b + j);
  }
  A s[L];
  *reinterpret_cast<V*>(s) = sum;
  for (int64_t half = L / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) s[l] += s[l + half];
  return s[0] / static_cast<A>(D > 0 ? D : 1);
}

// h = relu(dropout(x)); NaN stays NaN, as in torch.
template <class A>
GNNACCEL_INLINE void rectify(const A* __restrict x, const NormDropout& dropout, int64_t row, int64_t D,
                             PhiloxRowFn draw, uint32_t* __restrict words, A* __restrict h) {
  if (!dropout.active) {
    for (int64_t j = 0; j < D; ++j) h[j] = x[j] <= 0 ? A{0} : x[j];
    return;
  }
  draw(dropout.key, row, D, words);
  const uint32_t threshold = dropout.threshold;
  const A scale = static_cast<A>(dropout.scale);
  for (int64_t j = 0; j < D; ++j) h[j] = words[j] < threshold || x[j] <= 0 ? A{0} : x[j] * scale;
}

template <class A>
GNNACCEL_INLINE void subtract(const A* __restrict a, A b, int64_t D, A* __restrict out) {
  for (int64_t j = 0; j < D; ++j) out[j] = a[j] - b;
}

template <class A>
GNNACCEL_INLINE void affine(const A* __restrict n, A scale, const A* __restrict w, const A* __restrict b, int64_t D,
                            A* __restrict y) {
  for (int64_t j = 0; j < D; ++j) y[j] = n[j] * scale * w[j] + b[j];
}

// n normalised, g = dy w; adds to dw and db.
template <class A>
GNNACCEL_INLINE void weigh(const A* __restrict dy, const A* __restrict h, A mean, A rstd, const A* __restrict w,
                           int64_t D, A* __restrict n, A* __restrict g, A* __restrict dw, A* __restrict db) {
  for (int64_t j = 0; j < D; ++j) {
    n[j] = (h[j] - mean) * rstd;
    g[j] = dy[j] * w[j];
    dw[j] += dy[j] * n[j];
    db[j] += dy[j];
  }
}

template <class A>
GNNACCEL_INLINE void gate(const A* __restrict h, const A* __restrict n, const A* __restrict g, A g_mean, A gn_mean,
                          A scale, int64_t D, A* __restrict dx) {
  for (int64_t j = 0; j < D; ++j) {
    const A d = (g[j] - g_mean - n[j] * gn_mean) * scale;
    dx[j] = h[j] <= 0 ? A{0} : d;
  }
}

// The group's rows are `rows` (at most kNormGroup) from number `first`; pointers are to the first of them.
template <class A>
GNNACCEL_INLINE void normalise(const A* x, const A* w, const A* b, const NormDropout& dropout, int64_t first,
                               int64_t rows, int64_t D, double eps, PhiloxRowFn draw, NormScratch<A>& m, A* y, A* mean,
                               A* rstd) {
  const int64_t W = m.width;
  for (int64_t i = 0; i < rows; ++i) rectify(x + i * D, dropout, first + i, D, draw, m.words, m.h + i * W);
  for (int64_t i = 0; i < rows; ++i) mean[i] = mean_of<A>(m.h + i * W, nullptr, D);
  for (int64_t i = 0; i < rows; ++i) subtract(m.h + i * W, mean[i], D, m.n + i * W);
  for (int64_t i = 0; i < rows; ++i) rstd[i] = mean_of<A>(m.n + i * W, m.n + i * W, D);
  for (int64_t i = 0; i < rows; ++i) rstd[i] = 1 / std::sqrt(rstd[i] + static_cast<A>(eps));
  for (int64_t i = 0; i < rows; ++i) affine(m.n + i * W, rstd[i], w, b, D, y + i * D);
}

// Adds to dw and db.
template <class A>
GNNACCEL_INLINE void normalise_backward(const A* dy, const A* x, const A* w, const A* mean, const A* rstd,
                                        const NormDropout& dropout, int64_t first, int64_t rows, int64_t D,
                                        PhiloxRowFn draw, NormScratch<A>& m, A* dx, A* dw, A* db) {
  const int64_t W = m.width;
  const A scale = dropout.active ? static_cast<A>(dropout.scale) : A{1};
  A g_mean[kNormGroup], gn_mean[kNormGroup];
  for (int64_t i = 0; i < rows; ++i) rectify(x + i * D, dropout, first + i, D, draw, m.words, m.h + i * W);
  for (int64_t i = 0; i < rows; ++i)
    weigh(dy + i * D, m.h + i * W, mean[i], rstd[i], w, D, m.n + i * W, m.g + i * W, dw, db);
  for (int64_t i = 0; i < rows; ++i) {
    g_mean[i] = mean_of<A>(m.g + i * W, nullptr, D);
    gn_mean[i] = mean_of<A>(m.g + i * W, m.n + i * W, D);
  }
  for (int64_t i = 0; i < rows; ++i)
    gate(m.h + i * W, m.n + i * W, m.g + i * W, g_mean[i], gn_mean[i], rstd[i] * scale, D, dx + i * D);
}

#define GNNACCEL_RELU_NORM(A)                                                                                       \
  GNNACCEL_CLONES inline void relu_norm_rows(const A* x, const A* w, const A* b, const NormDropout& dropout,        \
                                             int64_t first, int64_t rows, int64_t D, double eps, PhiloxRowFn draw,  \
                                             NormScratch<A>& m, A* y, A* mean, A* rstd) {                           \
    normalise<A>(x, w, b, dropout, first, rows, D, eps, draw, m, y, mean, rstd);                                    \
  }                                                                                                                 \
  GNNACCEL_CLONES inline void relu_norm_rows_backward(                                                              \
      const A* dy, const A* x, const A* w, const A* mean, const A* rstd, const NormDropout& dropout, int64_t first, \
      int64_t rows, int64_t D, PhiloxRowFn draw, NormScratch<A>& m, A* dx, A* dw, A* db) {                          \
    normalise_backward<A>(dy, x, w, mean, rstd, dropout, first, rows, D, draw, m, dx, dw, db);                      \
  }
GNNACCEL_RELU_NORM(float)
GNNACCEL_RELU_NORM(double)
#undef GNNACCEL_RELU_NORM

}  // namespace gnnaccel
