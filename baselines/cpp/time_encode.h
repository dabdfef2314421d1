// phi(dt) = cos(dt * w + b), rows of T frequencies; and its gradient in w and b.
#pragma once

#include "simd.h"

namespace gnnaccel {

// w and b in turns (divided by 2 pi), double. out[n, T].
GNNACCEL_CLONES
inline void time_encode_rows(const double* dt, const double* w, const double* b, float* out, int64_t n, int64_t T) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = dt[i];
    float* o = out + i * T;
    for (int64_t j = 0; j < T; ++j) o[j] = cos_turns(static_cast<float>(reduce_turns(x * w[j] + b[j])));
  }
}

inline void time_encode_rows(const double* dt, const double* w, const double* b, double* out, int64_t n, int64_t T) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < T; ++j) out[i * T + j] = std::cos(dt[i] * w[j] + b[j]);
}

// Adds one chunk's sums to grad_w and grad_b (double, zeroed by the caller).
GNNACCEL_CLONES
inline void time_encode_grad_rows(const double* dt, const double* w, const double* b, const float* grad, double* grad_w,
                                  double* grad_b, int64_t n, int64_t T) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = dt[i];
    const float* g = grad + i * T;
    for (int64_t j = 0; j < T; ++j) {
      const double d = -static_cast<double>(sin_turns(static_cast<float>(reduce_turns(x * w[j] + b[j]))) * g[j]);
      grad_b[j] += d;
      grad_w[j] += d * x;
    }
  }
}

inline void time_encode_grad_rows(const double* dt, const double* w, const double* b, const double* grad,
                                  double* grad_w, double* grad_b, int64_t n, int64_t T) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < T; ++j) {
      const double d = -std::sin(dt[i] * w[j] + b[j]) * grad[i * T + j];
      grad_b[j] += d;
      grad_w[j] += d * dt[i];
    }
}

}  // namespace gnnaccel
