// y = LayerNorm(ReLU(dropout(x))) * weight + bias a few rows at a time, and its gradients. Rows stay in the first-level
// cache between the passes over them; nothing but y, the mean and the reciprocal deviation of each row is stored.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>

#include "philox.h"
#include "simd.h"

namespace gnnaccel {

constexpr uint32_t kReluNormStream = 0xEE6F726Du;  // a word that no other op's counters have in its place

struct NormDropout {
  bool active;
  PhiloxCounters counters;
  uint32_t threshold;  // of 2^32: words below it are dropped
  double scale;
  PhiloxFn draw = philox_rows();

  NormDropout(double rate, int64_t seed, int64_t D)
      : active(rate > 0),
        counters(seed, (D + 3) / 4),
        threshold(static_cast<uint32_t>(rate * 16777216.0) << 8),
        scale(1.0 / (1.0 - rate)) {
    counters.stream = kReluNormStream, counters.high_third = true;
    std::iota(counters.second.begin(), counters.second.end(), 0u);
  }
};

// Rows go through each pass in groups: the sums of one row are long chains, and those of several rows overlap.
constexpr int64_t kNormGroup = 8;

template <class A>
constexpr int64_t kNormLanes = 64 / static_cast<int64_t>(sizeof(A));

inline int64_t padded(int64_t D) { return (D + kPhiloxBlock - 1) / kPhiloxBlock * kPhiloxBlock; }

// One thread's working memory: a group of rows, zero past D up to whole vectors, so that no loop has a remainder: there
// the sign of each value would be a branch, and half of them are mispredicted.
template <class A>
struct NormScratch {
  int64_t width;
  A *h, *n, *g;  // what ReLU left; centred or normalised; gradient of the normalised row, of what ReLU left
  A* inside;     // 1 before D, then 0
  uint32_t* words;

  explicit NormScratch(int64_t D) : width(padded(D)) {
    const int64_t size = kNormGroup * width;
    memory_.reset(new char[static_cast<size_t>(3 * size + width) * sizeof(A) + static_cast<size_t>(size) * 4 + 64]());
    char* base = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
    h = reinterpret_cast<A*>(base), n = h + size, g = n + size, inside = g + size;
    words = reinterpret_cast<uint32_t*>(inside + width);
    std::fill_n(inside, D, A{1});
  }

 private:
  std::unique_ptr<char[]> memory_;
};

// f(j) for the columns of a padded row, in whole vectors; no two columns share memory.
template <class A, class F>
GNNACCEL_INLINE void columns(int64_t D, const F& f) {
  for (int64_t first = 0; first < D; first += kNormLanes<A>) {
#pragma GCC ivdep
    for (int64_t lane = 0; lane < kNormLanes<A>; ++lane) f(first + lane);
  }
}

template <class S, class T>
GNNACCEL_INLINE void copy_row(const S* __restrict from, int64_t D, T* __restrict to) {
  int64_t j = 0;
  for (; j + 16 <= D; j += 16)
    for (int64_t lane = 0; lane < 16; ++lane) to[j + lane] = static_cast<T>(from[j + lane]);
  for (; j < D; ++j) to[j] = static_cast<T>(from[j]);
}

// Mean of a padded row (with b: of the products of two): sums in lanes, then of the lanes by halves, which is the same
// order whatever the vector registers.
template <class A>
GNNACCEL_INLINE A mean_of(const A* a, const A* b, int64_t D) {
  typedef A V __attribute__((vector_size(64)));
  constexpr int64_t L = kNormLanes<A>;
  V sum = {};
  for (int64_t j = 0; j < D; j += L) {
    const V v = *reinterpret_cast<const V*>(a + j);
    sum += b == nullptr ? v : v * *reinterpret_cast<const V*>(b + j);
  }
  typedef A Half __attribute__((vector_size(32)));
  typedef A Quarter __attribute__((vector_size(16)));
  const Half half = reinterpret_cast<const Half*>(&sum)[0] + reinterpret_cast<const Half*>(&sum)[1];
  const Quarter s = reinterpret_cast<const Quarter*>(&half)[0] + reinterpret_cast<const Quarter*>(&half)[1];
  A total = s[0] + s[1];
  if constexpr (L == 16) total += s[2] + s[3];
  return total / static_cast<A>(D > 0 ? D : 1);
}

// h = relu(dropout(h)); NaN stays NaN, as in torch.
template <class A>
GNNACCEL_INLINE void rectify(const NormDropout& dropout, const uint32_t* words, int64_t D, A* h) {
  if (!dropout.active) return columns<A>(D, [=](int64_t j) { h[j] = h[j] <= 0 ? A{0} : h[j]; });
  const uint32_t threshold = dropout.threshold;
  const A scale = static_cast<A>(dropout.scale);
  columns<A>(D, [=](int64_t j) {
    const A kept = words[j] < threshold ? A{0} : h[j] * scale;
    h[j] = kept <= 0 ? A{0} : kept;
  });
}

// `rows` rows (at most kNormGroup) with these numbers, in m.h; y goes to m.n. w and b are padded.
template <class A>
GNNACCEL_INLINE void normalise(const A* w, const A* b, const NormDropout& dropout, const int64_t* numbers, int64_t rows,
                               int64_t D, double eps, NormScratch<A>& m, A* mean, A* rstd) {
  const int64_t W = m.width;
  if (dropout.active) dropout.draw(dropout.counters, numbers, rows, D, W, m.words);
  for (int64_t i = 0; i < rows; ++i) {
    rectify(dropout, m.words + i * W, D, m.h + i * W);
    mean[i] = mean_of<A>(m.h + i * W, nullptr, D);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const A *h = m.h + i * W, *inside = m.inside, mu = mean[i];
    A* n = m.n + i * W;
    columns<A>(D, [=](int64_t j) { n[j] = (h[j] - mu) * inside[j]; });
    rstd[i] = mean_of<A>(n, n, D);
  }
  for (int64_t i = 0; i < rows; ++i) rstd[i] = 1 / std::sqrt(rstd[i] + static_cast<A>(eps));
  for (int64_t i = 0; i < rows; ++i) {
    const A r = rstd[i];
    A* n = m.n + i * W;
    columns<A>(D, [=](int64_t j) { n[j] = n[j] * r * w[j] + b[j]; });
  }
}

// x in m.h, the gradient of y in m.g; the gradient of x goes to m.g. Adds to dw and db, padded.
template <class A>
GNNACCEL_INLINE void normalise_backward(const A* w, const A* mean, const A* rstd, const NormDropout& dropout,
                                        const int64_t* numbers, int64_t rows, int64_t D, NormScratch<A>& m, A* dw,
                                        A* db) {
  const int64_t W = m.width;
  const A keep = dropout.active ? static_cast<A>(dropout.scale) : A{1};
  A g_mean[kNormGroup], gn_mean[kNormGroup];
  if (dropout.active) dropout.draw(dropout.counters, numbers, rows, D, W, m.words);
  for (int64_t i = 0; i < rows; ++i) {
    const A mu = mean[i], r = rstd[i];
    A *h = m.h + i * W, *n = m.n + i * W, *g = m.g + i * W;
    rectify(dropout, m.words + i * W, D, h);
    columns<A>(D, [=](int64_t j) {
      n[j] = (h[j] - mu) * r;
      dw[j] += g[j] * n[j];
      db[j] += g[j];
      g[j] *= w[j];
    });
  }
  for (int64_t i = 0; i < rows; ++i) {
    // the padding of n is not zero, but that of g is
    g_mean[i] = mean_of<A>(m.g + i * W, nullptr, D);
    gn_mean[i] = mean_of<A>(m.g + i * W, m.n + i * W, D);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const A *h = m.h + i * W, *n = m.n + i * W, a = g_mean[i], b = gn_mean[i], scale = rstd[i] * keep;
    A* g = m.g + i * W;
    columns<A>(D, [=](int64_t j) {
      const A d = (g[j] - a - n[j] * b) * scale;
      g[j] = h[j] <= 0 ? A{0} : d;
    });
  }
}

#define GNNACCEL_RELU_NORM(A)                                                                                     \
  GNNACCEL_CLONES inline void relu_norm_rows(const A* w, const A* b, const NormDropout& dropout,                  \
                                             const int64_t* numbers, int64_t rows, int64_t D, double eps,         \
                                             NormScratch<A>& m, A* mean, A* rstd) {                               \
    normalise<A>(w, b, dropout, numbers, rows, D, eps, m, mean, rstd);                                            \
  }                                                                                                               \
  GNNACCEL_CLONES inline void relu_norm_rows_backward(const A* w, const A* mean, const A* rstd,                   \
                                                      const NormDropout& dropout, const int64_t* numbers,         \
                                                      int64_t rows, int64_t D, NormScratch<A>& m, A* dw, A* db) { \
    normalise_backward<A>(w, mean, rstd, dropout, numbers, rows, D, m, dw, db);                                   \
  }                                                                                                               \
  GNNACCEL_CLONES inline void copy_rows(const A* from, int64_t rows, int64_t D, int64_t from_stride, A* to,       \
                                        int64_t to_stride) {                                                      \
    for (int64_t i = 0; i < rows; ++i) copy_row(from + i * from_stride, D, to + i * to_stride);                   \
  }
GNNACCEL_RELU_NORM(float)
GNNACCEL_RELU_NORM(double)
#undef GNNACCEL_RELU_NORM

}  // namespace gnnaccel
