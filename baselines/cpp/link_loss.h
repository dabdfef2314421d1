// Loss of a link decoder and all its gradients in one pass: a block of events goes through both projections, the
// scores, the cross-entropy and back while it is in cache. Rows of h: sources, destinations, then the candidates of
// each event.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "gemm.h"
#include "simd.h"

namespace gnnaccel {

constexpr int64_t kLinkEvents = 32, kLinkRows = 96;  // most events of a block, and rows that it aims at
constexpr int64_t kLinkLanes = 16;

struct LinkShape {
  int64_t events, candidates, dim, hidden;
  int64_t rows() const { return events * (2 + candidates); }
  int64_t block() const { return std::clamp<int64_t>(kLinkRows / (2 + candidates), 1, kLinkEvents); }
};

// Slabs of events sum on their own; how many follows from the events alone.
inline int64_t link_slabs(int64_t events) {
  constexpr int64_t kMost = 16, kPair = 256;
  return std::min({events, kMost, 2 * ((events + kPair - 1) / kPair)});
}

template <class A>
struct LinkWeights {
  Packed<A> src, dst;            // [dim, hidden], for the projections
  Packed<A> src_back, dst_back;  // [hidden, dim], for their gradients
  const A* bias;                 // [hidden]
  const A* out;                  // [hidden], then zeros up to a multiple of kLinkLanes
  A out_bias;
};

// What a slab sums: its share of the loss, and of the gradients of the weights.
template <class A>
struct LinkSums {
  A *w_src, *w_dst;               // [hidden, dim]
  std::vector<A> bias, out, row;  // [padded hidden]; `row` is a source's gradient
  double loss = 0, out_bias = 0;
  bool fresh = true;

  LinkSums(A* src, A* dst, int64_t hidden) : w_src(src), w_dst(dst) {
    for (auto* v : {&bias, &out, &row}) v->assign(static_cast<size_t>(round_up(hidden, kLinkLanes)), A{0});
  }
};

// sum_j relu(a_j + b_j) w_j over whole groups of lanes
template <class A>
GNNACCEL_INLINE A link_score(const A* a, const A* b, const A* w, int64_t width) {
  A part[kLinkLanes] = {};
  for (int64_t j = 0; j < width; j += kLinkLanes)
    for (int64_t l = 0; l < kLinkLanes; ++l) {
      const A sum = a[j + l] + b[j + l];
      part[l] += (sum <= 0 ? A{0} : sum) * w[j + l];  // NaN stays NaN
    }
  for (int64_t half = kLinkLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) part[l] += part[l + half];
  return part[0];
}

// b becomes the gradient g w [a + b > 0] of the sum; `row` and `out` take what it adds to a's and to w's.
template <class A>
GNNACCEL_INLINE void link_score_back(A g, const A* a, A* __restrict b, const A* w, int64_t width, A* __restrict row,
                                     A* __restrict out) {
  for (int64_t j = 0; j < width; ++j) {
    const A sum = a[j] + b[j], d = sum <= 0 ? A{0} : g * w[j];
    out[j] += sum <= 0 ? A{0} : g * sum;
    row[j] += d;
    b[j] = d;
  }
}

// Scores and losses of n events whose projections are P; with `grads` P becomes their gradient.
template <class A>
GNNACCEL_INLINE void link_events_any(int64_t n, const LinkShape& shape, const LinkWeights<A>& w, RowBuffer<A>& P,
                                     bool grads, LinkSums<A>& sums) {
  const int64_t C = shape.candidates, width = P.ld();
  const double pos_weight = 1.0 / static_cast<double>(shape.events), neg_weight = pos_weight / static_cast<double>(C);
  for (int64_t i = 0; i < n; ++i) {
    std::fill(sums.row.begin(), sums.row.end(), A{0});
    for (int64_t c = -1; c < C; ++c) {
      A* other = P.row(c < 0 ? n + i : 2 * n + i * C + c);
      const double sign = c < 0 ? -1 : 1, weight = c < 0 ? pos_weight : neg_weight;
      const double x = sign * static_cast<double>(link_score(P.row(i), other, w.out, width) + w.out_bias);
      const double e = std::exp(-std::fabs(x));
      sums.loss += weight * (std::max(x, 0.0) + std::log1p(e));
      if (!grads) continue;
      const double g = sign * weight * (x > 0 ? 1 : e) / (1 + e);
      sums.out_bias += g;
      link_score_back(static_cast<A>(g), P.row(i), other, w.out, width, sums.row.data(), sums.out.data());
    }
    if (!grads) continue;
    std::copy_n(sums.row.data(), width, P.row(i));
    for (int64_t j = 0; j < width; ++j) sums.bias[static_cast<size_t>(j)] += sums.row[static_cast<size_t>(j)];
  }
}

GNNACCEL_CLONES inline void link_events(int64_t n, const LinkShape& shape, const LinkWeights<float>& w,
                                        RowBuffer<float>& P, bool grads, LinkSums<float>& sums) {
  link_events_any(n, shape, w, P, grads, sums);
}
GNNACCEL_CLONES inline void link_events(int64_t n, const LinkShape& shape, const LinkWeights<double>& w,
                                        RowBuffer<double>& P, bool grads, LinkSums<double>& sums) {
  link_events_any(n, shape, w, P, grads, sums);
}

// Rows of h into X: n of sources, n of destinations, n * C of candidates, from event `first` on; or of dh out of it.
template <class F>
void link_each_row(int64_t first, int64_t n, const LinkShape& shape, const F& f) {
  const int64_t C = shape.candidates;
  for (int64_t i = 0; i < n; ++i) f(i, first + i);
  for (int64_t i = 0; i < n; ++i) f(n + i, shape.events + first + i);
  for (int64_t i = 0; i < n * C; ++i) f(2 * n + i, 2 * shape.events + first * C + i);
}

// Events [begin, end) of h, into `sums` and, with `grads`, dh.
template <class S, class A>
void link_slab(const S* h, int64_t begin, int64_t end, const LinkShape& shape, const LinkWeights<A>& w,
               LinkSums<A>& sums, bool grads, S* dh) {
  const int64_t C = shape.candidates, D = shape.dim, N = shape.hidden, most = std::min(shape.block(), end - begin);
  const auto panels = [](const Packed<A>& B) { return panels_of(B.N, tile_set<A>().nr); };
  RowBuffer<A> X(most * (2 + C), D), P(most * (2 + C), N);
  for (int64_t first = begin; first < end; first += most) {
    const int64_t n = std::min(most, end - first), others = n * (1 + C);
    link_each_row(first, n, shape, [&](int64_t to, int64_t from) {
      for (int64_t j = 0; j < D; ++j) X.row(to)[j] = static_cast<A>(h[from * D + j]);
    });
    gemm_panels<A>(n, left_rows<A>(X.row(0), X.ld()), w.src, 0, panels(w.src), P.row(0), P.ld(), {w.bias, 0, false});
    gemm_panels<A>(others, left_rows<A>(X.row(n), X.ld()), w.dst, 0, panels(w.dst), P.row(n), P.ld(), {});
    link_events(n, shape, w, P, grads, sums);
    if (!grads) continue;

    // the gradients of the weights read X, then X makes room for that of h
    const auto weight = [&](int64_t row, int64_t rows, A* dw) {
      const int64_t nr = tile_set<A>().nr;
      gemm_panels<A>(N, {P.row(row), 1, P.ld(), tile_set<A>().mr}, {X.row(row), rows, D, nr, X.ld()}, 0,
                     panels_of(D, nr), dw, D, {nullptr, 0, true, sums.fresh});
    };
    weight(0, n, sums.w_src);
    weight(n, others, sums.w_dst);
    sums.fresh = false;
    gemm_panels<A>(n, left_rows<A>(P.row(0), P.ld()), w.src_back, 0, panels(w.src_back), X.row(0), X.ld(), {});
    gemm_panels<A>(others, left_rows<A>(P.row(n), P.ld()), w.dst_back, 0, panels(w.dst_back), X.row(n), X.ld(), {});
    link_each_row(first, n, shape, [&](int64_t from, int64_t to) {
      for (int64_t j = 0; j < D; ++j) dh[to * D + j] = static_cast<S>(X.row(from)[j]);
    });
  }
}

}  // namespace gnnaccel
