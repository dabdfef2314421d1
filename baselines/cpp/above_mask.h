// Which of up to 64 values are above a threshold, as bits: what a selection reads when it is full and few values
// matter.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace gnnaccel {

constexpr int64_t kMaskBits = 64;

// Bit j: s[j] > t, for j in [first, n). NaN is above nothing.
template <class A>
inline uint64_t above_from(const A* s, int64_t first, int64_t n, A t) {
  uint64_t mask = 0;
  for (int64_t j = first; j < n; ++j) mask |= static_cast<uint64_t>(s[j] > t) << j;
  return mask;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx512f"))) inline uint64_t above_avx512(const float* s, int64_t n, float t) {
  uint64_t mask = 0;
  int64_t j = 0;
  for (; j + 16 <= n; j += 16)
    mask |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_loadu_ps(s + j), _mm512_set1_ps(t), _CMP_GT_OQ)) << j;
  return mask | above_from(s, j, n, t);
}
__attribute__((target("avx512f"))) inline uint64_t above_avx512(const double* s, int64_t n, double t) {
  uint64_t mask = 0;
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    mask |= static_cast<uint64_t>(_mm512_cmp_pd_mask(_mm512_loadu_pd(s + j), _mm512_set1_pd(t), _CMP_GT_OQ)) << j;
  return mask | above_from(s, j, n, t);
}
__attribute__((target("avx2"))) inline uint64_t above_avx2(const float* s, int64_t n, float t) {
  uint64_t mask = 0;
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) {
    const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(s + j), _mm256_set1_ps(t), _CMP_GT_OQ);
    mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(above))) << j;
  }
  return mask | above_from(s, j, n, t);
}
__attribute__((target("avx2"))) inline uint64_t above_avx2(const double* s, int64_t n, double t) {
  uint64_t mask = 0;
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const __m256d above = _mm256_cmp_pd(_mm256_loadu_pd(s + j), _mm256_set1_pd(t), _CMP_GT_OQ);
    mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_pd(above))) << j;
  }
  return mask | above_from(s, j, n, t);
}

inline const int kMaskLevel = __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx2") ? 1 : 0;

// Bit j: s[j] > t, for j in [0, n), n <= kMaskBits.
template <class A>
inline uint64_t above_mask(const A* s, int64_t n, A t) {
  return kMaskLevel == 2 ? above_avx512(s, n, t) : kMaskLevel == 1 ? above_avx2(s, n, t) : above_from(s, 0, n, t);
}
#else
template <class A>
inline uint64_t above_mask(const A* s, int64_t n, A t) {
  return above_from(s, 0, n, t);
}
#endif

}  // namespace gnnaccel
