// Softmax over a root's neighbours and sums weighted by it, a head at a time. Per-edge arrays are [edges, H].
#pragma once

#include "gather_aggregate.h"

namespace gnnaccel {

// p = leaky_relu(src + dst), and its maximum a head.
template <class A>
GNNACCEL_INLINE void edge_logits_body(const A* const* src, const A* dst, int64_t n, int64_t H, A slope, A* p, A* top) {
  for (int64_t h = 0; h < H; ++h) top[h] = -std::numeric_limits<A>::infinity();
  for (int64_t k = 0; k < n; ++k)
    for (int64_t h = 0; h < H; ++h) {
      const A v = src[k][h] + dst[h], l = v > 0 ? v : v * slope;
      p[k * H + h] = l;
      top[h] = l > top[h] ? l : top[h];
    }
}

// p = exp(p - top), and its sum a head.
template <class A>
GNNACCEL_INLINE void edge_exp_body(int64_t n, int64_t H, const A* top, A* p, A* total) {
  for (int64_t k = 0; k < n; ++k)
    for (int64_t h = 0; h < H; ++h) p[k * H + h] -= top[h];
  for (int64_t i = 0; i < n * H; ++i) p[i] = exp_negative(p[i]);
  if (total == nullptr) return;
  for (int64_t h = 0; h < H; ++h) total[h] = 0;
  for (int64_t k = 0; k < n; ++k)
    for (int64_t h = 0; h < H; ++h) total[h] += p[k * H + h];
}

// D columns of each head in steps of a number the compiler knows.
template <class F>
GNNACCEL_INLINE void by_heads(int64_t H, int64_t D, const F& f) {
  using Eight = std::integral_constant<int64_t, 8>;
  using Sixteen = std::integral_constant<int64_t, 16>;
  using One = std::integral_constant<int64_t, 1>;
  for (int64_t h = 0; h < H; ++h) {
    int64_t d = 0;
    for (; d + 16 <= D; d += 16) f(h, h * D + d, Sixteen{});
    for (; d + 8 <= D; d += 8) f(h, h * D + d, Eight{});
    for (; d < D; ++d) f(h, h * D + d, One{});
  }
}

// out[h] += p[h] row[h]
template <class A>
GNNACCEL_INLINE void add_heads_body(const A* row, const A* p, int64_t H, int64_t D, A* out) {
  by_heads(H, D, [=](int64_t h, int64_t at, auto n) {
    for (int64_t j = 0; j < decltype(n)::value; ++j) out[at + j] += p[h] * row[at + j];
  });
}

// out[h] = a[h] . b[h], in sixteen chains
template <class A>
GNNACCEL_INLINE void dot_heads_body(const A* a, const A* b, int64_t H, int64_t D, A* out) {
  for (int64_t h = 0; h < H; ++h) {
    A sum[16] = {};
    const A *x = a + h * D, *y = b + h * D;
    int64_t d = 0;
    for (; d + 16 <= D; d += 16)
      for (int64_t j = 0; j < 16; ++j) sum[j] += x[d + j] * y[d + j];
    for (; d + 8 <= D; d += 8)
      for (int64_t j = 0; j < 8; ++j) sum[j] += x[d + j] * y[d + j];
    for (; d < D; ++d) sum[0] += x[d] * y[d];
    for (int64_t j = 0; j < 8; ++j) sum[j] += sum[j + 8];
    for (int64_t j = 0; j < 4; ++j) sum[j] += sum[j + 4];
    out[h] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
  }
}

// target_clones does not reach templates
#define GNNACCEL_EDGE_KERNELS(A)                                                                                  \
  GNNACCEL_CLONES inline void edge_logits(const A* const* src, const A* dst, int64_t n, int64_t H, A slope, A* p, \
                                          A* top) {                                                               \
    edge_logits_body(src, dst, n, H, slope, p, top);                                                              \
  }                                                                                                               \
  GNNACCEL_CLONES inline void edge_exp(int64_t n, int64_t H, const A* top, A* p, A* total) {                      \
    edge_exp_body(n, H, top, p, total);                                                                           \
  }                                                                                                               \
  GNNACCEL_CLONES inline void add_heads(const A* row, const A* p, int64_t H, int64_t D, A* out) {                 \
    add_heads_body(row, p, H, D, out);                                                                            \
  }                                                                                                               \
  GNNACCEL_CLONES inline void dot_heads(const A* a, const A* b, int64_t H, int64_t D, A* out) {                   \
    dot_heads_body(a, b, H, D, out);                                                                              \
  }
GNNACCEL_EDGE_KERNELS(float)
GNNACCEL_EDGE_KERNELS(double)
#undef GNNACCEL_EDGE_KERNELS

// Dropout masks of roots of any degree, by the words of temporal_attention. Layouts of small degrees are kept.
class EdgeDropout {
 public:
  EdgeDropout(double rate, int64_t seed, int64_t H) : rate_(rate), seed_(seed), H_(H) {
    if (active())
      for (int64_t k = 4; k <= kKept; k += 4) kept_.emplace_back(rate, seed, H, k);
  }
  bool active() const { return rate_ > 0; }

  // f(k, h, whether the weight is kept) for slots k <= last of root r
  template <class F>
  void each(int64_t r, int64_t last, std::vector<uint32_t>& words, const F& f) const {
    const int64_t K = round_up(last + 1, 4);
    if (K <= kKept) return draw(kept_[static_cast<size_t>(K / 4 - 1)], r, last, words, f);
    draw(AttentionDropout(rate_, seed_, H_, K), r, last, words, f);
  }
  double keep() const { return 1.0 / (1.0 - rate_); }

 private:
  static constexpr int64_t kKept = 64;
  template <class F>
  void draw(const AttentionDropout& d, int64_t r, int64_t last, std::vector<uint32_t>& words, const F& f) const {
    if (words.size() < static_cast<size_t>(d.stride)) words.resize(static_cast<size_t>(d.stride));
    d.words(&r, 1, words.data());
    for (int64_t k = 0; k <= last; ++k)
      for (int64_t h = 0; h < H_; ++h) f(k, h, words[static_cast<size_t>(h * d.per_head + k)] >= d.threshold);
  }

  double rate_;
  int64_t seed_, H_;
  std::vector<AttentionDropout> kept_;
};

}  // namespace gnnaccel
