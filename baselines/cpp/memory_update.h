// Memory of nodes after their mail: x = [mail | cos(dt w + b)], h' = cell(x, h), cell GRU (gates r, z, n) or tanh RNN.
//
// Rows are gathered and encoded into a tile that stays in cache, multiplied, and passed through the gates while still
// there: [U, Dm + T] never exists. Backward rebuilds the same tiles from the tables. Each row's bits depend on that row
// alone.
#pragma once

#include <vector>

#include "gemm.h"
#include "time_encode.h"

namespace gnnaccel {

// Activations.

// e^x, relative error about 1e-7 (Cephes expf); written so that compilers vectorise it.
GNNACCEL_INLINE float exp_fast(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // the sum's low bits are the nearest integer
  const float n = shifted - 12582912.0f;
  const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits - 0x4B400000 + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

// Of two at the price of one division.
GNNACCEL_INLINE void sigmoids(float x, float y, float& of_x, float& of_y) {
  const float a = 1.0f + exp_fast(-x), b = 1.0f + exp_fast(-y), both = 1.0f / (a * b);
  of_x = both * b;
  of_y = both * a;
}
GNNACCEL_INLINE void sigmoids(double x, double y, double& of_x, double& of_y) {
  of_x = 1.0 / (1.0 + std::exp(-x));
  of_y = 1.0 / (1.0 + std::exp(-y));
}

GNNACCEL_INLINE float tanh_of(float x) {
  const float x2 = x * x;
  float p = -5.70498872745e-3f;  // Cephes tanhf below 0.625, where 1 - 2 / (1 + e^2x) cancels
  p = p * x2 + 2.06390887954e-2f;
  p = p * x2 - 5.37397155531e-2f;
  p = p * x2 + 1.33314422036e-1f;
  p = p * x2 - 3.33332819422e-1f;
  const float small = p * x2 * x + x;
  const float large = std::copysign(1.0f - 2.0f / (1.0f + exp_fast(2.0f * std::fabs(x))), x);
  return std::fabs(x) < 0.625f ? small : large;
}
GNNACCEL_INLINE double tanh_of(double x) { return std::tanh(x); }

// Cells: one row of width D. Saved for backward: GRU [r | z | n | W_hn h + b_hn], RNN [h']. In vectors of L columns;
// the last one overlaps its neighbour (a scalar rest would cost as much as several vectors), so nothing is written in
// place.

#if defined(__GNUC__) && !defined(__clang__)
#define GNNACCEL_NO_ALIAS _Pragma("GCC ivdep")
#else
#define GNNACCEL_NO_ALIAS
#endif

template <int L, class A>
GNNACCEL_INLINE void gru_row(const A* gi, const A* gh, const A* h, A* out, A* saved, int64_t D) {
  for (int64_t v = 0; v < D; v += L) {
    const int64_t first = v + L <= D ? v : D - L;
    GNNACCEL_NO_ALIAS
    for (int64_t j = first; j < first + L; ++j) {
      sigmoids(gi[j] + gh[j], gi[D + j] + gh[D + j], saved[j], saved[D + j]);
    }
  }
  // a loop of its own: the processor can overlap short chains of operations better than long ones
  for (int64_t v = 0; v < D; v += L) {
    const int64_t first = v + L <= D ? v : D - L;
    GNNACCEL_NO_ALIAS
    for (int64_t j = first; j < first + L; ++j) {
      const A hn = gh[2 * D + j];
      const A n = tanh_of(gi[2 * D + j] + saved[j] * hn);
      out[j] = n + saved[D + j] * (h[j] - n);
      saved[2 * D + j] = n;
      saved[3 * D + j] = hn;
    }
  }
}

template <int L, class A>
GNNACCEL_INLINE void rnn_row(const A* gi, const A* gh, A* out, A* saved, int64_t D) {
  for (int64_t v = 0; v < D; v += L) {
    const int64_t first = v + L <= D ? v : D - L;
    GNNACCEL_NO_ALIAS
    for (int64_t j = first; j < first + L; ++j) out[j] = saved[j] = tanh_of(gi[j] + gh[j]);
  }
}

// Gradients: GRU d = [r | z | n | hn] before the activations and dh = the direct part of dL/dh; RNN d = [h'].
template <int L, class A>
GNNACCEL_INLINE void gru_grad_row(const A* g, const A* saved, const A* h, A* d, A* dh, int64_t D) {
  for (int64_t v = 0; v < D; v += L) {
    const int64_t first = v + L <= D ? v : D - L;
    GNNACCEL_NO_ALIAS
    for (int64_t j = first; j < first + L; ++j) {
      const A r = saved[j], z = saved[D + j], n = saved[2 * D + j], hn = saved[3 * D + j];
      const A dn = g[j] * (A(1) - z) * (A(1) - n * n);
      d[j] = dn * hn * r * (A(1) - r);
      d[D + j] = g[j] * (h[j] - n) * z * (A(1) - z);
      d[2 * D + j] = dn;
      d[3 * D + j] = dn * r;
      dh[j] = g[j] * z;
    }
  }
}

template <int L, class A>
GNNACCEL_INLINE void rnn_grad_row(const A* g, const A* saved, A* d, A* dh, int64_t D) {
  for (int64_t v = 0; v < D; v += L) {
    const int64_t first = v + L <= D ? v : D - L;
    GNNACCEL_NO_ALIAS
    for (int64_t j = first; j < first + L; ++j) {
      d[j] = g[j] * (A(1) - saved[j] * saved[j]);
      dh[j] = A(0);
    }
  }
}

template <int L, class A>
GNNACCEL_INLINE void any_cell_rows(bool gru, int64_t n, const A* gi, const A* gh, int64_t ldg, const A* h, int64_t ldh,
                                   A* out, int64_t ldo, A* saved, int64_t lds, int64_t D) {
  for (; n > 0; --n, gi += ldg, gh += ldg, h += ldh, out += ldo, saved += lds) {
    if (gru)
      gru_row<L>(gi, gh, h, out, saved, D);
    else
      rnn_row<L>(gi, gh, out, saved, D);
  }
}

template <int L, class A>
GNNACCEL_INLINE void any_cell_grad_rows(bool gru, int64_t n, const A* g, int64_t ldg, const A* saved, int64_t lds,
                                        const A* h, int64_t ldh, A* d, int64_t ldd, A* dh, int64_t ldo, int64_t D) {
  for (; n > 0; --n, g += ldg, saved += lds, h += ldh, d += ldd, dh += ldo) {
    if (gru)
      gru_grad_row<L>(g, saved, h, d, dh, D);
    else
      rnn_grad_row<L>(g, saved, d, dh, D);
  }
}

// n rows with row strides, by the widest vectors of the machine for float.
#define GNNACCEL_CELL_ROWS(CLONES, A)                                                                               \
  CLONES inline void cell_rows(bool gru, int64_t n, const A* gi, const A* gh, int64_t ldg, const A* h, int64_t ldh, \
                               A* out, int64_t ldo, A* saved, int64_t lds, int64_t D) {                             \
    if (D >= 16)                                                                                                    \
      any_cell_rows<16>(gru, n, gi, gh, ldg, h, ldh, out, ldo, saved, lds, D);                                      \
    else                                                                                                            \
      any_cell_rows<1>(gru, n, gi, gh, ldg, h, ldh, out, ldo, saved, lds, D);                                       \
  }                                                                                                                 \
  CLONES inline void cell_grad_rows(bool gru, int64_t n, const A* g, int64_t ldg, const A* saved, int64_t lds,      \
                                    const A* h, int64_t ldh, A* d, int64_t ldd, A* dh, int64_t ldo, int64_t D) {    \
    if (D >= 16)                                                                                                    \
      any_cell_grad_rows<16>(gru, n, g, ldg, saved, lds, h, ldh, d, ldd, dh, ldo, D);                               \
    else                                                                                                            \
      any_cell_grad_rows<1>(gru, n, g, ldg, saved, lds, h, ldh, d, ldd, dh, ldo, D);                                \
  }                                                                                                                 \
  CLONES inline void add_columns(const A* rows, int64_t ld, int64_t n, int64_t columns, double* sum) {              \
    for (int64_t i = 0; i < n; ++i)                                                                                 \
      for (int64_t j = 0; j < columns; ++j) sum[j] += static_cast<double>(rows[i * ld + j]);                        \
  }
GNNACCEL_CELL_ROWS(GNNACCEL_CLONES, float)
GNNACCEL_CELL_ROWS(, double)
#undef GNNACCEL_CELL_ROWS

// Rows of the call.

// S is the dtype of the tensors, A of the arithmetic.
template <class S, class A>
struct MemoryInputs {
  const S* mail;  // [N, Dm], row stride ld_mail
  const S* memory;
  int64_t ld_mail, ld_memory;
  const int64_t* rows;       // of the tables, [U], or null: row u
  const int64_t* places;     // of the result and its gradient, [U], or null: row u
  const double *dt, *w, *b;  // w and b as time_encode_rows wants them
  int64_t U, Dm, T, D;
  bool gru;
  // Whether a GRU's message starts with the memory itself. Then the gates r and z see it once, by the sum of both
  // weights, which have the same gradient.
  bool own_first = false;

  int64_t row(int64_t u) const { return rows ? rows[u] : u; }
  int64_t place(int64_t u) const { return places ? places[u] : u; }
  int64_t gates() const { return gru ? 3 : 1; }
  int64_t saved_width() const { return gru ? 4 * D : D; }
  void load_x(int64_t u, A* x) const {
    const S* m = mail + row(u) * ld_mail;
    std::copy_n(m, Dm, x);
    time_encode_rows(dt + u, w, b, x + Dm, 1, T);
  }
  void load_h(int64_t u, A* h) const {
    const S* m = memory + row(u) * ld_memory;
    std::copy_n(m, D, h);
  }
};

// Brings mail and memory of rows [first, end) nearer: a few cache lines at each call.
template <class S, class A>
class FetchRows {
 public:
  FetchRows(const MemoryInputs<S, A>& in, int64_t first, int64_t end) : in_(in), row_(2 * first), end_(2 * end) {
    // pages first, many at once: looking one up can take longer than the line
    for (int64_t row = row_; row < end_; ++row) {
      start(row);
      if (at_ < stop_) __builtin_prefetch(at_), __builtin_prefetch(stop_ - 1);
    }
    at_ = stop_;
  }
  void operator()() {
    for (int i = 0; i < kLines; ++i, at_ += kLine) {
      while (at_ >= stop_) {
        if (row_ >= end_) return;
        start(row_++);
      }
      __builtin_prefetch(at_);
    }
  }

 private:
  static constexpr int kLines = 10, kLine = 64;

  // Mail of row u at 2 u, its memory at 2 u + 1.
  void start(int64_t row) {
    const int64_t u = in_.row(row / 2);
    const bool mail = row % 2 == 0;
    const S* from = mail ? in_.mail + u * in_.ld_mail : in_.memory + u * in_.ld_memory;
    at_ = reinterpret_cast<const char*>(from);
    stop_ = reinterpret_cast<const char*>(from + (mail ? in_.Dm : in_.D));
  }

  const MemoryInputs<S, A>& in_;
  int64_t row_, end_;
  const char *at_ = nullptr, *stop_ = nullptr;
};

constexpr int64_t kRowTile = 32;   // most rows of a tile of x, h and gates
constexpr int64_t kGradTile = 16;  // rows of a tile backwards, and of a partial sum

// Rows [begin, end), at most kRowTile. W_ih^T and W_hh^T packed, the latter for the gate n alone if `own_first`; biases
// [G D]; saved may be null.
template <class S, class A>
void memory_update_tile(const MemoryInputs<S, A>& in, const Packed<A>& w_ih, const Packed<A>& w_hh, const A* b_ih,
                        const A* b_hh, int64_t begin, int64_t end, S* out, A* saved) {
  const int64_t D = in.D, X = in.Dm + in.T, G = in.gates() * D, n = end - begin;
  const int64_t ldx = round_up(X, 16), ldh = round_up(D, 16), ldg = round_up(G, 16), lds = in.saved_width();
  Scratch<A> scratch(kRowTile * (ldx + 2 * ldh + 2 * ldg) + (saved ? 0 : lds));
  A *x = scratch.get(), *h = x + kRowTile * ldx, *o = h + kRowTile * ldh, *gi = o + kRowTile * ldh,
    *gh = gi + kRowTile * ldg;
  for (int64_t i = 0; i < n; ++i) {
    in.load_x(begin + i, x + i * ldx);
    in.load_h(begin + i, h + i * ldh);
  }
  FetchRows<S, A> next(in, end, std::min(end + n, in.U));
  gemm_panels<A>(n, left_rows(x, ldx), w_ih, 0, panels_of(G, tile_set<A>().nr), gi, ldg, {b_ih, 0, false}, next);
  const int64_t seen = in.own_first ? 2 * D : 0;  // gates without a hidden part
  for (int64_t i = 0; i < n && seen > 0; ++i) std::copy_n(b_hh, seen, gh + i * ldg);
  gemm_panels<A>(n, left_rows(h, ldh), w_hh, 0, panels_of(G - seen, tile_set<A>().nr), gh + seen, ldg,
                 {b_hh + seen, 0, false});
  // rows nobody asked to save all go to one place
  A* s = saved ? saved + begin * lds : gh + kRowTile * ldg;
  cell_rows(in.gru, n, gi, gh, ldg, h, ldh, o, ldh, s, saved ? lds : 0, D);
  for (int64_t i = 0; i < n; ++i) {
    S* to = out + in.place(begin + i) * D;
    for (int64_t j = 0; j < D; ++j) to[j] = static_cast<S>(o[i * ldh + j]);
  }
}

// What backward wants, and where it goes. Null: not wanted.
template <class A>
struct MemoryGrads {
  A* x_mail = nullptr;  // [U, Dm]
  A* h = nullptr;       // [U, D]
  bool time = false;
  bool weights = false;
};

// Rows of a block, for the weight gradients.
template <class A>
struct MemoryBlock {
  RowBuffer<A> x, h;          // [rows, Dm + T], [rows, D]
  std::vector<Columns<A>> d;  // gate gradients, [rows, D] each
  std::vector<double> sums;   // of each tile: [d | time_w | time_b]

  MemoryBlock(int64_t rows, int64_t X, int64_t D, int64_t width, int64_t T)
      : x(rows, X), h(rows, D), sums(static_cast<size_t>((rows + kGradTile - 1) / kGradTile * (width + 2 * T))) {
    for (int64_t gate = 0; gate < (D ? width / D : 0); ++gate) d.emplace_back(rows, D);
  }
};

// Gate gradients of rows [begin, end), at most kGradTile, and what follows from them row by row. They and x and h go to
// the block, whose row 0 is row `first` of the call.
template <class S, class A>
void memory_update_grad_tile(const MemoryInputs<S, A>& in, const S* grad, const A* saved, const Packed<A>& w_mail,
                             const Packed<A>& w_time, const Packed<A>& w_hh, int64_t first, int64_t begin, int64_t end,
                             MemoryBlock<A>& block, const MemoryGrads<A>& want) {
  const int64_t D = in.D, T = in.T, n = end - begin, at = begin - first, width = in.saved_width(), G = in.gates() * D;
  const int64_t ldh = block.h.ld(), ldd = round_up(width, 16), nr = tile_set<A>().nr;
  // Columns::set_rows reads up to a whole tile of columns
  Scratch<A> scratch(kGradTile * (2 * ldh + ldd + T) + tile_set<A>().mr);
  A *g = scratch.get(), *dh = g + kGradTile * ldh, *d = dh + kGradTile * ldh, *dphi = d + kGradTile * ldd;
  A* h = block.h.row(at);
  for (int64_t i = 0; i < n; ++i) {
    in.load_h(begin + i, h + i * ldh);
    if (want.weights) in.load_x(begin + i, block.x.row(at + i));
    const S* from = grad + in.place(begin + i) * D;
    for (int64_t j = 0; j < D; ++j) g[i * ldh + j] = static_cast<A>(from[j]);
  }
  cell_grad_rows(in.gru, n, g, ldh, saved + begin * width, width, h, ldh, d, ldd, dh, ldh, D);
  double* sums = block.sums.data() + at / kGradTile * (width + 2 * T);
  std::fill_n(sums, width + 2 * T, 0.0);
  if (want.weights) {
    add_columns(d, ldd, n, width, sums);
    for (size_t gate = 0; gate < block.d.size(); ++gate)
      block.d[gate].set_rows(at, n, D, d + static_cast<int64_t>(gate) * D, ldd);
  }
  const Left<A> left = left_rows<A>(d, ldd);
  if (want.time) {
    FetchRows<S, A> next(in, end, std::min(end + n, in.U));
    gemm_panels<A>(n, left, w_time, 0, panels_of(T, nr), dphi, T, {}, next);
    time_encode_grad_rows(in.dt + begin, in.w, in.b, dphi, sums + width, sums + width + T, n, T);
  }
  if (want.x_mail) gemm_panels<A>(n, left, w_mail, 0, panels_of(in.Dm, nr), want.x_mail + begin * in.Dm, in.Dm, {});
  if (want.h) {
    // the n gate's hidden part has its own gradient: its rows of W_hh follow those of r and z
    A* to = want.h + begin * D;
    Packed<A> head = w_hh;
    head.K = in.gru ? 2 * D : G;
    gemm_panels<A>(n, left, head, 0, panels_of(D, nr), to, D, {dh, ldh, false});
    if (in.gru) {
      Packed<A> tail = w_hh;
      tail.data += head.K * tail.ld;
      tail.K = D;
      gemm_panels<A>(n, left_rows<A>(d + 3 * D, ldd), tail, 0, panels_of(D, nr), to, D, {to, D, false});
    }
  }
}

// What `depth` rows of a block add to a slab's sums, in 1 + gates * (panels of x and of h) tasks: the sums over tiles,
// or one gate and panel of W_ih or W_hh.
template <class A>
void memory_update_sum_task(int64_t task, int64_t D, int64_t X, int64_t depth, bool own_first, MemoryBlock<A>& block,
                            bool fresh, A* w_ih, A* w_hh, double* sums, int64_t sums_width) {
  if (task == 0) {
    for (int64_t tile = 0; tile * kGradTile < depth; ++tile)
      for (int64_t j = 0; j < sums_width; ++j) sums[j] += block.sums[static_cast<size_t>(tile * sums_width + j)];
    return;
  }
  const int64_t x_panels = block.x.panels(), panels = x_panels + block.h.panels();
  const int64_t gate = (task - 1) / panels, p = (task - 1) % panels, q = p - x_panels;
  if (p < x_panels) {
    const Left<A> d = block.d[static_cast<size_t>(gate)].view();
    gemm_panels<A>(D, d, block.x.view(depth), p, p + 1, w_ih + gate * D * X, X, {nullptr, 0, true, fresh});
  } else if (!own_first || gate == 2) {
    const Left<A> d = block.d[static_cast<size_t>(gate == 2 ? 3 : gate)].view();
    gemm_panels<A>(D, d, block.h.view(depth), q, q + 1, w_hh + gate * D * D, D, {nullptr, 0, true, fresh});
  }
}

// table[rows[u], c0:c1] += values[u, c0:c1] in ascending u: the caller splits columns, never rows, so no two add at
// once.
template <class A>
void scatter_add_columns(const A* values, const int64_t* rows, int64_t U, int64_t D, int64_t c0, int64_t c1, A* table) {
  for (int64_t u = 0; u < U; ++u) {
    A* to = table + rows[u] * D;
    for (int64_t j = c0; j < c1; ++j) to[j] += values[u * D + j];
  }
}

}  // namespace gnnaccel
