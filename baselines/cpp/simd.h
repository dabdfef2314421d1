// Vectorisation by the compiler, chosen at run time: no -march flag, one binary for every x86-64 and for other
// machines.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GNNACCEL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GNNACCEL_CLONES
#endif
#define GNNACCEL_INLINE inline __attribute__((always_inline))

namespace gnnaccel {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

constexpr double kInvTwoPi = 0.15915494309189533577;

// An angle in turns, reduced to [-1/2, 1/2]. Forming and reducing it in double keeps the fraction at Unix-second
// scales.
GNNACCEL_INLINE double reduce_turns(double turns) { return turns - std::nearbyint(turns); }

// sin(2 pi g) for |g| <= 1/4: the odd minimax polynomial of degree 9, truncation below 4e-9.
GNNACCEL_INLINE float sin_turns_quarter(float g) {
  const float g2 = g * g;
  float p = 39.5367044f;
  p = p * g2 - 76.5497821f;
  p = p * g2 + 81.6010041f;
  p = p * g2 - 41.3416550f;
  p = p * g2 + 6.28318516f;
  return p * g;
}

// cos(2 pi f) and sin(2 pi f) for |f| <= 1/2, absolute error about 1e-7.
GNNACCEL_INLINE float cos_turns(float f) { return sin_turns_quarter(0.25f - std::fabs(f)); }
GNNACCEL_INLINE float sin_turns(float f) {
  const float g = 0.5f - std::fabs(f);
  const float a = std::fabs(f) < g ? std::fabs(f) : g;
  return std::copysign(sin_turns_quarter(a), f);
}

}  // namespace gnnaccel
