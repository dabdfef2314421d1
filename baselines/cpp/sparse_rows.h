// What a sparse optimiser does to one row of a table: sums of gradients, the penalty, the step, rounding. A row is a
// few kilobytes and stays in the first cache from one of these loops to the next.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "gather_rows.h"
#include "simd.h"

namespace gnnaccel {

constexpr uint32_t kRoundStream = 0x726F756Eu;  // a word that no other op's counters have in its place

namespace sparse {

// Sum of squares in 64-byte lanes, so that its order is that of the columns and not of the machine's vectors.
template <class A>
GNNACCEL_INLINE A sum_of_squares(const A* g, int64_t D) {
  typedef A V __attribute__((vector_size(64)));
  constexpr int64_t L = 64 / sizeof(A);
  V one = {}, two = {};
  int64_t j = 0;
  for (; j + 2 * L <= D; j += 2 * L) {
    V a, b;
    std::memcpy(&a, g + j, 64);
    std::memcpy(&b, g + j + L, 64);
    one += a * a;
    two += b * b;
  }
  A rest = 0, sum = 0;
  for (; j < D; ++j) rest += g[j] * g[j];
  one += two;
  for (int64_t l = 0; l < L; ++l) sum += one[l];
  return sum + rest;
}

// g[j] += factor w |w|^(norm - 2)
template <class A>
GNNACCEL_INLINE void penalise(const A* w, A factor, int64_t norm, A* g, int64_t D) {
  if (norm == 1) {
    for (int64_t j = 0; j < D; ++j) g[j] += w[j] > 0 ? factor : w[j] < 0 ? -factor : factor * w[j];
  } else if (norm == 2) {
    for (int64_t j = 0; j < D; ++j) g[j] += factor * w[j];
  } else if (norm == 3) {
    for (int64_t j = 0; j < D; ++j) g[j] += factor * w[j] * std::fabs(w[j]);
  } else {
    for (int64_t j = 0; j < D; ++j) {
      A power = factor * w[j];
      for (int64_t k = 2; k < norm; ++k) power *= std::fabs(w[j]);
      g[j] += power;
    }
  }
}

template <class A>
GNNACCEL_INLINE void descend(A* w, const A* g, A scale, int64_t D) {
  for (int64_t j = 0; j < D; ++j) w[j] -= scale * g[j];
}

template <class A>
GNNACCEL_INLINE void adagrad_columns(A* w, A* s, const A* g, A lr, A eps, int64_t D) {
  for (int64_t j = 0; j < D; ++j) {
    s[j] += g[j] * g[j];
    w[j] -= lr * g[j] / (std::sqrt(s[j]) + eps);
  }
}

template <class A>
struct AdamNumbers {
  A beta1, rest1, beta2, rest2;  // rest: 1 - beta
  A scale, root, eps;            // lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step)
};

template <class A>
GNNACCEL_INLINE void adam_columns(A* w, A* m, A* v, const A* g, const AdamNumbers<A>& n, int64_t D) {
  for (int64_t j = 0; j < D; ++j) {
    m[j] = n.beta1 * m[j] + n.rest1 * g[j];
    v[j] = n.beta2 * v[j] + n.rest2 * (g[j] * g[j]);
    w[j] -= n.scale * m[j] / (std::sqrt(v[j]) * n.root + n.eps);
  }
}

// Rounds up or down by a word: what the type has no bits for, plus so many random bits, carries or does not. Exact
// values and what is not finite stay as they are.
GNNACCEL_INLINE void round_by(float x, uint32_t word, BFloat16Bits* out) {
  const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu;
  from_float(bit_cast<float>(magnitude < 0x7f800000u ? (u + (word >> 16)) & 0xffff0000u : u), out);
}
GNNACCEL_INLINE void round_by(float x, uint32_t word, HalfBits* out) {
  const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu, sign = u & 0x80000000u;
  const uint32_t normal = (magnitude + (word >> 19)) & 0xffffe000u;
  // below 2^-14 halfs are multiples of 2^-24
  const float small = bit_cast<float>(magnitude < (113u << 23) ? magnitude : 0u);
  const float steps = static_cast<float>(
      static_cast<int32_t>(small * 0x1p24f + static_cast<float>(static_cast<int32_t>(word >> 19)) * 0x1p-13f));
  const uint32_t subnormal = bit_cast<uint32_t>(steps * 0x1p-24f);
  const uint32_t rounded = magnitude < (113u << 23) ? subnormal : normal;
  from_float(bit_cast<float>(magnitude < 0x7f800000u ? rounded | sign : u), out);
}

}  // namespace sparse

// target_clones does not reach templates
#define GNNACCEL_SPARSE(A)                                                                                             \
  GNNACCEL_CLONES inline A sum_of_squares(const A* g, int64_t D) { return sparse::sum_of_squares(g, D); }              \
  GNNACCEL_CLONES inline void penalise(const A* w, A factor, int64_t norm, A* g, int64_t D) {                          \
    sparse::penalise(w, factor, norm, g, D);                                                                           \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void descend(A* w, const A* g, A scale, int64_t D) { sparse::descend(w, g, scale, D); }       \
  GNNACCEL_CLONES inline void adagrad_columns(A* w, A* s, const A* g, A lr, A eps, int64_t D) {                        \
    sparse::adagrad_columns(w, s, g, lr, eps, D);                                                                      \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void adam_columns(A* w, A* m, A* v, const A* g, const sparse::AdamNumbers<A>& n, int64_t D) { \
    sparse::adam_columns(w, m, v, g, n, D);                                                                            \
  }
GNNACCEL_SPARSE(float)
GNNACCEL_SPARSE(double)
#undef GNNACCEL_SPARSE

GNNACCEL_CLONES inline void round_row(const float* row, const uint32_t* words, BFloat16Bits* out, int64_t D) {
  for (int64_t j = 0; j < D; ++j) sparse::round_by(row[j], words[j], out + j);
}
GNNACCEL_CLONES inline void round_row(const float* row, const uint32_t* words, HalfBits* out, int64_t D) {
  for (int64_t j = 0; j < D; ++j) sparse::round_by(row[j], words[j], out + j);
}

}  // namespace gnnaccel
