// Temporal attention with absorbed projections, one root at a time. A root's K neighbour rows [node | edge | cos(dt w +
// b)] are gathered once into a scratch of K padded rows that stays in the first-level cache; what follows (logits,
// softmax, weighted sum, and the same backwards) are dense products on that scratch. Nothing of size [R, K, F] exists.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "philox.h"
#include "simd.h"

namespace gnnaccel {

template <class A>
struct vec;
template <>
struct vec<float> {
  typedef float type __attribute__((vector_size(64)));
  typedef int32_t mask __attribute__((vector_size(64)));
  static constexpr mask lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
};
template <>
struct vec<double> {
  typedef double type __attribute__((vector_size(64)));
  typedef int64_t mask __attribute__((vector_size(64)));
  static constexpr mask lane = {0, 1, 2, 3, 4, 5, 6, 7};
};
template <class A>
using vec_t = typename vec<A>::type;
template <class A>
constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(A));

template <class A>
using mask_t = typename vec<A>::mask;

// live[i]: whether i < n.
template <class A>
GNNACCEL_INLINE void lanes_below(int64_t n, mask_t<A>& live) {
  using Int = std::remove_reference_t<decltype(live[0])>;
  live = vec<A>::lane < static_cast<Int>(n < kLanes<A> ? n : kLanes<A>);
}

template <class A>
GNNACCEL_INLINE vec_t<A>& at(A* p) {
  return *reinterpret_cast<vec_t<A>*>(p);
}
template <class A>
GNNACCEL_INLINE const vec_t<A>& at(const A* p) {
  return *reinterpret_cast<const vec_t<A>*>(p);
}

// --- dropout ---

// Word k % 4 of counter (root low, head, k / 4, root high) drops slot k. A root has words [H, per_head].
struct AttentionDropout {
  bool active;
  int64_t per_head, width, stride;  // words of a head, of a root, and between roots; whole vectors may be read
  PhiloxCounters counters;
  uint32_t threshold;  // of 2^32: words below it are dropped
  double keep;         // factor of what is kept
  PhiloxFn draw = philox_rows();

  AttentionDropout(double rate, int64_t seed, int64_t H, int64_t K)
      : active(rate > 0),
        per_head(round_up(K, 4)),
        width(H * per_head),
        stride(round_up(width, kPhiloxBlock) + 16),
        counters(seed, width / 4),
        threshold(static_cast<uint32_t>(rate * 16777216.0) << 8),
        keep(1.0 / (1.0 - rate)) {
    for (int64_t g = 0; g < width / 4; ++g) {
      counters.second[static_cast<size_t>(g)] = static_cast<uint32_t>(g / (per_head / 4));
      counters.third[static_cast<size_t>(g)] = static_cast<uint32_t>(g % (per_head / 4));
    }
  }
  // words [n, stride] of n roots
  void words(const int64_t* roots, int64_t n, uint32_t* to) const {
    if (active) draw(counters, roots, n, width, stride, to);
  }
};

// --- dense products on the scratch ---
// x: rows of `width` (a multiple of the lanes, 64-byte aligned, zero beyond F).

template <class A>
GNNACCEL_INLINE A sum_lanes(const vec_t<A>& v) {
  typedef A half __attribute__((vector_size(32)));
  typedef A quarter __attribute__((vector_size(16)));
  union {
    vec_t<A> whole;
    half halves[2];
  } h = {v};
  union {
    half whole;
    quarter quarters[2];
  } q = {h.halves[0] + h.halves[1]};
  const quarter last = q.quarters[0] + q.quarters[1];
  if constexpr (sizeof(A) == 4) return (last[0] + last[2]) + (last[1] + last[3]);
  return last[0] + last[1];
}

template <int N, int M, class A>
GNNACCEL_INLINE void dot_block(const A* x, int64_t ld, const A* q, A* out, int64_t out_stride, int64_t width) {
  using V = vec_t<A>;
  V acc[N][M] = {};
  for (int64_t f = 0; f < width; f += kLanes<A>) {
    V row[N];
    for (int i = 0; i < N; ++i) row[i] = *reinterpret_cast<const V*>(x + i * ld + f);
    for (int j = 0; j < M; ++j) {
      const V b = *reinterpret_cast<const V*>(q + j * width + f);
      for (int i = 0; i < N; ++i) acc[i][j] += row[i] * b;
    }
  }
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < M; ++j) out[j * out_stride + i] = sum_lanes<A>(acc[i][j]);
}

// n rows in blocks of up to five: that many chains of sums keep the multipliers busy.
template <int M, class A>
GNNACCEL_INLINE void dot_heads(const A* x, int64_t ld, const A* q, A* out, int64_t out_stride, int64_t n,
                               int64_t width) {
  while (n > 0) {
    const int64_t rows = n <= 5 ? n : n < 10 ? (n + 1) / 2 : 5;
    switch (rows) {
      case 1: dot_block<1, M>(x, ld, q, out, out_stride, width); break;
      case 2: dot_block<2, M>(x, ld, q, out, out_stride, width); break;
      case 3: dot_block<3, M>(x, ld, q, out, out_stride, width); break;
      case 4: dot_block<4, M>(x, ld, q, out, out_stride, width); break;
      default: dot_block<5, M>(x, ld, q, out, out_stride, width);
    }
    n -= rows, x += rows * ld, out += rows;
  }
}

// out[j, i] = x_i . q_j for n rows x, which are ld apart, and m rows q.
template <class A>
GNNACCEL_INLINE void dot_rows(const A* x, int64_t ld, const A* q, A* out, int64_t out_stride, int64_t n, int64_t m,
                              int64_t width) {
  int64_t j = 0;
  for (; j + 2 <= m; j += 2) dot_heads<2>(x, ld, q + j * width, out + j * out_stride, out_stride, n, width);
  if (j < m) dot_heads<1>(x, ld, q + j * width, out + j * out_stride, out_stride, n, width);
}

template <int M, int B, class A>
GNNACCEL_INLINE void mix_block(const A* x, const A* p, A* out, int64_t p_stride, int64_t n, int64_t width, bool add) {
  using V = vec_t<A>;
  V acc[M][B] = {};
  if (add)
    for (int j = 0; j < M; ++j)
      for (int b = 0; b < B; ++b) acc[j][b] = *reinterpret_cast<const V*>(out + j * width + b * kLanes<A>);
  for (int64_t i = 0; i < n; ++i)
    for (int b = 0; b < B; ++b) {
      const V row = *reinterpret_cast<const V*>(x + i * width + b * kLanes<A>);
      for (int j = 0; j < M; ++j) acc[j][b] += row * p[j * p_stride + i];
    }
  for (int j = 0; j < M; ++j)
    for (int b = 0; b < B; ++b) *reinterpret_cast<V*>(out + j * width + b * kLanes<A>) = acc[j][b];
}

template <int M, class A>
GNNACCEL_INLINE void mix_heads(const A* x, const A* p, A* out, int64_t p_stride, int64_t n, int64_t width, bool add) {
  int64_t f = 0;
  for (; f + 4 * kLanes<A> <= width; f += 4 * kLanes<A>) mix_block<M, 4>(x + f, p, out + f, p_stride, n, width, add);
  for (; f < width; f += kLanes<A>) mix_block<M, 1>(x + f, p, out + f, p_stride, n, width, add);
}

// out[j, :] = sum_i p[j, i] x_i, or added to what is there.
template <class A>
GNNACCEL_INLINE void mix_rows(const A* x, const A* p, A* out, int64_t p_stride, int64_t n, int64_t m, int64_t width,
                              bool add = false) {
  int64_t j = 0;
  for (; j + 2 <= m; j += 2) mix_heads<2>(x, p + j * p_stride, out + j * width, p_stride, n, width, add);
  if (j < m) mix_heads<1>(x, p + j * p_stride, out + j * width, p_stride, n, width, add);
}

// --- time ---

// cos(dt w + b), and the sine if asked; w and b in turns for float, in radians for double, both padded to whole
// vectors. The sine is written in whole vectors.
GNNACCEL_INLINE void encode_time(double dt, const double* w, const double* b, float* out, float* sine, int64_t T) {
  typedef float Unaligned __attribute__((vector_size(64), aligned(4), may_alias));
  for (int64_t j = 0; j < T; j += 16) {
    alignas(64) float turns[16], cosine[16];
    for (int64_t l = 0; l < 16; ++l) turns[l] = static_cast<float>(reduce_turns(dt * w[j + l] + b[j + l]));
    for (int64_t l = 0; l < 16; ++l) cosine[l] = cos_turns(turns[l]);
    if (sine != nullptr)
      for (int64_t l = 0; l < 16; ++l) sine[j + l] = sin_turns(turns[l]);
    Unaligned& to = *reinterpret_cast<Unaligned*>(out + j);
    mask_t<float> live;
    lanes_below<float>(T - j, live);
    to = live ? at(cosine) : to;
  }
}
GNNACCEL_INLINE void encode_time(double dt, const double* w, const double* b, double* out, double* sine, int64_t T) {
  for (int64_t j = 0; j < T; ++j) {
    out[j] = std::cos(dt * w[j] + b[j]);
    if (sine != nullptr) sine[j] = std::sin(dt * w[j] + b[j]);
  }
}

// --- one root ---

template <class A>
struct AttentionShape {
  AttentionDropout dropout;
  int64_t K, H, Dn, De, T, F, width, slots;  // width: F padded; slots: K padded
  A scale, slope;
  const double *w, *b;
};

// One thread's working memory. Rows are padded and zero beyond F; per-slot arrays are [H, slots].
template <class A>
struct AttentionScratch {
  A *x, *sine;                   // [K, width], [K, T padded]
  A* wave;                       // [2 H, T padded]
  A *q, *dz, *z;                 // [H, width]; z is the output: z, or du in the backward pass
  A *p, *e, *logit, *mask;       // [H, slots]
  A *c, *s, *ds, *dc;            // [H]
  double *dt, *grad_w, *grad_b;  // [K], [T], [T]
  A* value = nullptr;            // [H, width] or null
  bool add = false;              // whether z is added to what is there

  explicit AttentionScratch(const AttentionShape<A>& a) {
    const int64_t row = a.H * a.width, slot = a.H * a.slots, head = round_up(a.H, kLanes<A>);
    const int64_t waves = round_up(a.T, kLanes<A>);
    const int64_t n = a.K * (a.width + waves) + 2 * a.H * waves + 3 * row + 4 * slot + 4 * head;
    const int64_t bytes = n * static_cast<int64_t>(sizeof(A)) + (a.slots + 2 * waves) * 8 + 64;
    memory_.reset(new char[static_cast<size_t>(bytes)]());
    char* base = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
    A* next = reinterpret_cast<A*>(base);
    const auto take = [&next](int64_t size) { return (next += size) - size; };
    x = take(a.K * a.width), sine = take(a.K * waves), wave = take(2 * a.H * waves);
    q = take(row), dz = take(row), z = take(row);
    p = take(slot), e = take(slot), logit = take(slot), mask = take(slot);
    c = take(head), s = take(head), ds = take(head), dc = take(head);
    dt = reinterpret_cast<double*>(next), grad_w = dt + a.slots, grad_b = grad_w + waves;
  }

 private:
  std::unique_ptr<char[]> memory_;
};

// exp(x) for x <= 0, relative error below 2e-7; 0 below -87.
GNNACCEL_INLINE float exp_negative(float x) {
  const float n = std::nearbyint(std::max(x, -87.0f) * 1.44269504f);
  const float r = (std::max(x, -87.0f) - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : p * power;
}
GNNACCEL_INLINE double exp_negative(double x) { return std::exp(x); }

template <class A>
GNNACCEL_INLINE A max_lanes(const vec_t<A>& v) {
  typedef A half __attribute__((vector_size(32)));
  typedef A quarter __attribute__((vector_size(16)));
  const half h0 = reinterpret_cast<const half*>(&v)[0], h1 = reinterpret_cast<const half*>(&v)[1];
  const half h = h0 > h1 ? h0 : h1;
  const quarter q0 = reinterpret_cast<const quarter*>(&h)[0], q1 = reinterpret_cast<const quarter*>(&h)[1];
  const quarter q = q0 > q1 ? q0 : q1;
  A top = q[0];
  for (int i = 1; i < kLanes<A> / 4; ++i) top = top > q[i] ? top : q[i];
  return top;
}

// p [slots] from n logits u . x + c; zero past n.
template <class A>
GNNACCEL_INLINE void softmax(const AttentionShape<A>& a, const A* logit, A* p, int64_t n) {
  using V = vec_t<A>;
  constexpr int64_t L = kLanes<A>;
  const V none = V{} - std::numeric_limits<A>::infinity();
  V top = none;
  for (int64_t k = 0; k < n; k += L) {
    mask_t<A> live;
    lanes_below<A>(n - k, live);
    const V scaled = a.scale * at(logit + k), v = live ? (scaled > 0 ? scaled : a.slope * scaled) : none;
    at(p + k) = v;
    top = top > v ? top : v;
  }
  const A most = max_lanes<A>(top);
  V total = {};
  for (int64_t k = 0; k < n; k += L) {
    for (int64_t l = 0; l < L; ++l) p[k + l] = exp_negative(p[k + l] - most);
    total += at(p + k);
  }
  const A inverse = 1 / sum_lanes<A>(total);
  for (int64_t k = 0; k < n; k += L) at(p + k) *= inverse;
}

template <class A>
GNNACCEL_INLINE A sum_slots(const A* p, int64_t n) {
  vec_t<A> total = {};
  for (int64_t k = 0; k < n; k += kLanes<A>) total += *reinterpret_cast<const vec_t<A>*>(p + k);
  return sum_lanes<A>(total);
}

// mask [slots] = 0 or 1 / (1 - rate), from the words of a head.
template <class A>
GNNACCEL_INLINE void dropout_mask(const AttentionDropout& dropout, const uint32_t* words, int64_t n, A* mask) {
  const A keep = dropout.active ? static_cast<A>(dropout.keep) : A{1};
  const uint32_t threshold = dropout.threshold;
  for (int64_t k = 0; k < n; k += kLanes<A>) {
    if (!dropout.active) {
      at(mask + k) = vec_t<A>{} + keep;
      continue;
    }
    for (int64_t l = k; l < k + kLanes<A>; ++l) mask[l] = words[l] < threshold ? A{0} : keep;
  }
}

// Needs x (node and edge parts), dt, q = u, c, and with dropout the root's words; leaves z, s, logit.
template <class A>
GNNACCEL_INLINE void attend(const AttentionShape<A>& a, AttentionScratch<A>& m, const uint32_t* words, int64_t n) {
  for (int64_t k = 0; k < n; ++k)
    encode_time(m.dt[k], a.w, a.b, m.x + k * a.width + a.Dn + a.De, static_cast<A*>(nullptr), a.T);
  dot_rows(m.x, a.width, m.q, m.logit, a.slots, n, a.H, a.width);
  for (int64_t h = 0; h < a.H; ++h) {
    A *p = m.p + h * a.slots, *logit = m.logit + h * a.slots;
    for (int64_t k = 0; k < n; k += kLanes<A>) at(logit + k) += m.c[h];
    softmax(a, logit, p, n);
    if (a.dropout.active) {
      dropout_mask(a.dropout, words + h * a.dropout.per_head, n, m.mask);
      for (int64_t k = 0; k < n; k += kLanes<A>) at(p + k) *= at(m.mask + k);
    }
    m.s[h] = sum_slots(p, n);
  }
  mix_rows(m.x, m.p, m.z, a.slots, n, a.H, a.width);
}

// to[lane] -= v[lane] in double
template <class A>
GNNACCEL_INLINE void subtract_exactly(const vec_t<A>& v, double* to) {
  typedef A piece __attribute__((vector_size(8 * sizeof(A))));
  for (int i = 0; i < kLanes<A> / 8; ++i)
    at(to + 8 * i) -= __builtin_convertvector(reinterpret_cast<const piece*>(&v)[i], vec_t<double>);
}

// Adds the gradients in w and b, given what attend_backward has left in the scratch.
template <class A>
GNNACCEL_INLINE void time_backward(const AttentionShape<A>& a, AttentionScratch<A>& m, int64_t n) {
  using V = vec_t<A>;
  constexpr int64_t L = kLanes<A>;
  const int64_t t0 = a.Dn + a.De, wave = round_up(a.T, L);
  for (int64_t h = 0; h < a.H; ++h) {
    // the columns of dz and u that meet the time encoding, moved to aligned memory
    std::copy_n(m.dz + h * a.width + t0, a.T, m.wave + 2 * h * wave);
    std::copy_n(m.q + h * a.width + t0, a.T, m.wave + (2 * h + 1) * wave);
  }
  for (int64_t j = 0; j < wave; j += L) {
    V sum_b = {}, sum_w = {};
    for (int64_t k = 0; k < n; ++k) {
      V g = {};
      for (int64_t h = 0; h < a.H; ++h) {
        const A* row = m.wave + 2 * h * wave + j;
        g += m.p[h * a.slots + k] * *reinterpret_cast<const V*>(row);
        g += m.e[h * a.slots + k] * *reinterpret_cast<const V*>(row + wave);
      }
      g *= *reinterpret_cast<const V*>(m.sine + k * wave + j);
      sum_b += g;
      sum_w += g * static_cast<A>(m.dt[k]);
    }
    subtract_exactly<A>(sum_b, m.grad_b + j);
    subtract_exactly<A>(sum_w, m.grad_w + j);
  }
}

// Needs x, dt, q = u, logit, dz, ds, and with dropout the root's words; leaves z = du, dc, and p (after dropout) and e
// (of the logits) such that dx_k = sum_h p_hk dz_h + e_hk u_h; and, where asked, value = z of the forward pass. Adds to
// grad_w and grad_b. z may be the memory of q, and value that of dz.
template <class A>
GNNACCEL_INLINE void attend_backward(const AttentionShape<A>& a, AttentionScratch<A>& m, const uint32_t* words,
                                     int64_t n) {
  using V = vec_t<A>;
  constexpr int64_t L = kLanes<A>;
  const int64_t t0 = a.Dn + a.De, wave = round_up(a.T, L);
  for (int64_t k = 0; k < n; ++k) encode_time(m.dt[k], a.w, a.b, m.x + k * a.width + t0, m.sine + k * wave, a.T);
  dot_rows(m.x, a.width, m.dz, m.e, a.slots, n, a.H, a.width);
  for (int64_t h = 0; h < a.H; ++h) {
    A *p = m.p + h * a.slots, *e = m.e + h * a.slots;
    const A* logit = m.logit + h * a.slots;
    softmax(a, logit, p, n);
    dropout_mask(a.dropout, words + h * a.dropout.per_head, n, m.mask);
    V sum = {};
    for (int64_t k = 0; k < n; k += L) {
      mask_t<A> live;
      lanes_below<A>(n - k, live);
      at(e + k) = live ? (at(e + k) + m.ds[h]) * at(m.mask + k) : V{};
      sum += at(p + k) * at(e + k);
    }
    const A mean = sum_lanes<A>(sum);
    for (int64_t k = 0; k < n; k += L) {
      const V scaled = a.scale * at(logit + k), one = V{} + 1;
      at(e + k) = at(p + k) * (at(e + k) - mean) * a.scale * (scaled > 0 ? one : a.slope * one);
      at(p + k) *= at(m.mask + k);
    }
    m.dc[h] = sum_slots(e, n);
  }
  time_backward(a, m, n);
  mix_rows(m.x, m.e, m.z, a.slots, n, a.H, a.width, m.add);
  if (m.value) mix_rows(m.x, m.p, m.value, a.slots, n, a.H, a.width);
}

// table[row_k, :] += sum_j weight[j, k] source_j for the n neighbours whose row is in [first, last): one root's share
// of the gradient of some columns of a table. source [m, columns], weight [m, K].
template <class A>
GNNACCEL_INLINE void scatter(A* table, int64_t stride, const int64_t* row, int64_t n, const A* source, const A* weight,
                             int64_t K, int64_t m, int64_t columns) {
  for (int64_t k = 0; k < n; ++k) {
    A* out = table + row[k] * stride;
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) {
      const A *s0 = source + i * columns, *s1 = s0 + columns, *s2 = s1 + columns, *s3 = s2 + columns;
      const A *w = weight + i * K + k, w0 = w[0], w1 = w[K], w2 = w[2 * K], w3 = w[3 * K];
      for (int64_t j = 0; j < columns; ++j) out[j] += (w0 * s0[j] + w1 * s1[j]) + (w2 * s2[j] + w3 * s3[j]);
    }
    for (; i < m; ++i)
      for (int64_t j = 0; j < columns; ++j) out[j] += weight[i * K + k] * source[i * columns + j];
  }
}

// --- run-time dispatch ---

#define GNNACCEL_ATTENTION(A)                                                                                         \
  GNNACCEL_CLONES inline void attend_root(const AttentionShape<A>& a, AttentionScratch<A>& m, const uint32_t* words,  \
                                          int64_t n) {                                                                \
    attend(a, m, words, n);                                                                                           \
  }                                                                                                                   \
  GNNACCEL_CLONES inline void attend_root_backward(const AttentionShape<A>& a, AttentionScratch<A>& m,                \
                                                   const uint32_t* words, int64_t n) {                                \
    attend_backward(a, m, words, n);                                                                                  \
  }                                                                                                                   \
  GNNACCEL_CLONES inline void scatter_root(A* table, int64_t stride, const int64_t* row, int64_t n, const A* source,  \
                                           const A* weight, int64_t K, int64_t m, int64_t columns) {                  \
    scatter(table, stride, row, n, source, weight, K, m, columns);                                                    \
  }                                                                                                                   \
  GNNACCEL_CLONES inline void dot_products(const A* x, int64_t ld, const A* q, A* out, int64_t out_stride, int64_t n, \
                                           int64_t m, int64_t width) {                                                \
    dot_rows(x, ld, q, out, out_stride, n, m, width);                                                                 \
  }
GNNACCEL_ATTENTION(float)
GNNACCEL_ATTENTION(double)
#undef GNNACCEL_ATTENTION

}  // namespace gnnaccel
