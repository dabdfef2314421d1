// Sums of moduli of complex differences, written for AVX-512.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "gemm.h"

namespace gnnaccel {

constexpr int kModuliRows = 4;  // queries of a register tile

#ifdef GNNACCEL_X86
// Sums of moduli as panel_distances of kg_compare.h: the root from a reciprocal of 14 bits and one step, d = g + g (1 -
// g y) / 2 where g = s y, whose two parts are summed by themselves. About an ulp; 1e-19 for no distance.
__attribute__((target("avx512f"))) inline void moduli_of_panel_avx512(int64_t D, const float* q, int64_t rows,
                                                                      const float* panel, int64_t n, float gamma,
                                                                      float* out, int64_t ldo) {
  constexpr int M = kModuliRows, L = 16;
  const int64_t half = D / 2;
  const __m512 tiny = _mm512_set1_ps(std::numeric_limits<float>::min()), one = _mm512_set1_ps(1.0f);
  const auto mask = static_cast<__mmask16>(0xFFFFu >> (L - n));
  for (int64_t i0 = 0; i0 < rows; i0 += M) {
    const float* row[M];
    for (int i = 0; i < M; ++i) row[i] = q + std::min(i0 + i, rows - 1) * D;
    __m512 sum[M], rest[M];
    for (int i = 0; i < M; ++i) sum[i] = rest[i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < half; ++k) {
      const __m512 re = _mm512_loadu_ps(panel + k * L), im = _mm512_loadu_ps(panel + (half + k) * L);
      GNNACCEL_UNROLL for (int i = 0; i < M; ++i) {
        const __m512 x = _mm512_sub_ps(re, _mm512_set1_ps(row[i][k]));
        const __m512 y = _mm512_sub_ps(im, _mm512_set1_ps(row[i][half + k]));
        const __m512 s = _mm512_fmadd_ps(x, x, _mm512_fmadd_ps(y, y, tiny));
        // with a mask because GCC 12 warns of its own header otherwise
        const __m512 root = _mm512_maskz_rsqrt14_ps(0xFFFF, s), g = _mm512_mul_ps(s, root);
        sum[i] = _mm512_add_ps(sum[i], g);
        rest[i] = _mm512_fmadd_ps(g, _mm512_fnmadd_ps(g, root, one), rest[i]);
      }
    }
    for (int i = 0; i < std::min<int64_t>(M, rows - i0); ++i) {
      const __m512 d = _mm512_fmadd_ps(_mm512_set1_ps(0.5f), rest[i], sum[i]);
      _mm512_mask_storeu_ps(out + (i0 + i) * ldo, mask, _mm512_sub_ps(_mm512_set1_ps(gamma), d));
    }
  }
}
#endif

// Whether there is a kernel for these moduli on this machine; then they are made.
template <class A>
bool moduli_of_panel(int64_t D, const A* q, int64_t rows, const A* panel, int64_t n, A gamma, A* out, int64_t ldo) {
#ifdef GNNACCEL_X86
  if constexpr (std::is_same_v<A, float>) {
    static const bool has = __builtin_cpu_supports("avx512f");
    if (has) moduli_of_panel_avx512(D, q, rows, panel, n, gamma, out, ldo);
    return has;
  }
#endif
  return false;
}

}  // namespace gnnaccel
