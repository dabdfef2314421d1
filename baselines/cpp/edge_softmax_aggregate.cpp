#include "edge_softmax_aggregate.h"

#include <tuple>

#include "gather_aggregate_io.h"

namespace gnnaccel {
namespace {

constexpr const char* kOp = "edge_softmax_aggregate";

template <class In>
using Acc = std::conditional_t<std::is_same_v<In, double>, double, float>;

// What both directions read; logits in A.
template <class In>
struct Heads {
  using A = Acc<In>;
  Tensor x, src, dst;
  int64_t S, R, H, D, F, width;
  RowTable<In> rows;
  A slope;
  EdgeDropout dropout;

  Heads(const Tensor& x_in, const Tensor& src_in, const Tensor& dst_in, double negative_slope, double rate,
        int64_t seed)
      : x(torch::stable::contiguous(x_in)),
        src(as_acc<A>(src_in)),
        dst(as_acc<A>(dst_in)),
        S(x.size(0)),
        R(dst.size(0)),
        H(x.size(1)),
        D(x.size(2)),
        F(H * D),
        width(round_up(F, kLanes<A>)),
        rows(ptr<In>(static_cast<const Tensor&>(x)), S, F, F, width),
        slope(static_cast<A>(negative_slope)),
        dropout(rate, seed, H) {}
  int64_t bytes() const { return F * static_cast<int64_t>(sizeof(In)); }
  const A* src_row(int64_t u) const { return static_cast<const A*>(src.data_ptr()) + u * H; }
  const A* dst_row(int64_t r) const { return static_cast<const A*>(dst.data_ptr()) + r * H; }
};

// The softmax of one root, [n, H].
template <class A>
struct Weights {
  std::vector<const A*> src;
  std::vector<int32_t> slot;
  std::vector<A> p;
  std::vector<uint32_t> words;
  std::vector<int64_t> row_of;  // of a slot, -1 where it holds no neighbour

  // keep(i, h, whether it is kept) for each weight
  template <class F>
  void mask(const EdgeDropout& dropout, int64_t r, const F& keep) {
    if (!dropout.active() || slot.empty()) return;
    const int64_t last = slot.back();
    row_of.assign(static_cast<size_t>(last) + 1, -1);
    for (size_t i = 0; i < slot.size(); ++i) row_of[static_cast<size_t>(slot[i])] = static_cast<int64_t>(i);
    dropout.each(r, last, words, [&](int64_t k, int64_t h, bool kept) {
      if (row_of[static_cast<size_t>(k)] >= 0) keep(row_of[static_cast<size_t>(k)], h, kept);
    });
  }
  void collect(const NeighborRows& nbrs, int64_t r, const A* logits, int64_t H) {
    src.clear(), slot.clear();
    nbrs.each(r, [&](const NeighborRows::Slot& s) {
      src.push_back(logits + s.id * H);
      slot.push_back(s.k);
    });
    p.resize(src.size() * static_cast<size_t>(H));
  }
};

template <class In, class Out>
void attend(const Heads<In>& in, const NeighborRows& nbrs, Out* out, Acc<In>* stat) {
  using A = Acc<In>;
  const int64_t H = in.H, F = in.F;
  nbrs.tasks([&](int64_t first, int64_t last) {
    Gathered<In, A>& g = Gathered<In, A>::mine();
    g.begin(nbrs.between(first, last), in.bytes());
    for (int64_t r = first; r < last; ++r) {
      g.begin_root();
      nbrs.each(r, [&](const NeighborRows::Slot& s) {
        __builtin_prefetch(in.src_row(s.id));
        g.add(in.rows[s.id]);
      });
    }
    g.finish();
    Weights<A> w;
    Scratch<A> sum(in.width), room(in.width);
    for (int64_t r = first; r < last; ++r) {
      const RowList<In> x = g.of(static_cast<size_t>(r - first), F, in.width);
      A *top = stat + r * 2 * H, *total = top + H;
      w.collect(nbrs, r, in.src_row(0), H);
      A* p = w.p.data();
      edge_logits(w.src.data(), in.dst_row(r), x.n, H, in.slope, p, top);
      edge_exp(x.n, H, top, p, total);
      if (x.n == 0) std::fill_n(top, H, A{0});
      for (int64_t i = 0; i < x.n; ++i)
        for (int64_t h = 0; h < H; ++h) p[i * H + h] /= total[h];
      const A keep = static_cast<A>(in.dropout.keep());
      w.mask(in.dropout, r, [&](int64_t i, int64_t h, bool kept) { p[i * H + h] *= kept ? keep : A{0}; });
      std::fill_n(sum.get(), in.width, A{0});
      each_row(x, room.get(), [&](int64_t i, const A* row) { add_heads(row, p + i * H, H, in.D, sum.get()); });
      copy_row(sum.get(), out + r * F, F);
    }
  });
}

std::tuple<Tensor, Tensor> edge_softmax_aggregate_cpu(const Tensor& x, const Tensor& src, const Tensor& dst,
                                                      const Tensor& nbr, std::optional<Tensor> count,
                                                      std::optional<Tensor> indptr, double negative_slope,
                                                      double dropout, int64_t seed) {
  const NeighborRows nbrs(kOp, nbr, count, indptr, x.size(0));
  nbrs.check();
  const int64_t R = nbrs.R, H = x.size(1);
  const ScalarType acc = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor out = empty({R, H, x.size(2)}, x.scalar_type()), stat = empty({R, 2, H}, acc);
  dispatch_floating_as<HalfBits, BFloat16Bits>(x.scalar_type(), kOp, [&](auto tag) {
    using In = decltype(tag);
    const Heads<In> in(x, src, dst, negative_slope, dropout, seed);
    attend(in, nbrs, ptr<In>(out), ptr<Acc<In>>(stat));
  });
  return {out, stat};
}

// weight[at, h]: the softmax of every edge, with the sign bit where it was dropped. node[r]: the logits of r, and the
// mean over its weights of the gradient by them, [2, H].
template <class In>
void weights_again(const Heads<In>& in, const NeighborRows& nbrs, const In* grad, const Acc<In>* out,
                   const Acc<In>* stat, Acc<In>* weight, Acc<In>* node) {
  using A = Acc<In>;
  const int64_t H = in.H, F = in.F;
  nbrs.tasks([&](int64_t first, int64_t last) {
    Weights<A> w;
    std::vector<A> top(static_cast<size_t>(H));
    Scratch<A> room(F);
    for (int64_t r = first; r < last; ++r) {
      w.collect(nbrs, r, in.src_row(0), H);
      const int64_t n = static_cast<int64_t>(w.src.size());
      A* p = w.p.data();
      const A* total = stat + r * 2 * H + H;
      edge_logits(w.src.data(), in.dst_row(r), n, H, in.slope, p, top.data());
      edge_exp(n, H, stat + r * 2 * H, p, static_cast<A*>(nullptr));
      for (int64_t i = 0; i < n; ++i)
        for (int64_t h = 0; h < H; ++h) p[i * H + h] /= total[h];
      w.mask(in.dropout, r, [&](int64_t i, int64_t h, bool kept) { p[i * H + h] *= kept ? A{1} : A{-1}; });
      int64_t i = 0;
      nbrs.each(r, [&](const NeighborRows::Slot& s) { std::copy_n(p + i++ * H, H, weight + s.at * H); });
      std::copy_n(in.dst_row(r), H, node + r * 2 * H);
      copy_row(grad + r * F, room.get(), F);
      dot_heads(room.get(), out + r * F, H, in.D, node + r * 2 * H + H);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> edge_softmax_aggregate_backward_cpu(
    const Tensor& grad_in, const Tensor& x, const Tensor& src, const Tensor& dst, const Tensor& nbr,
    std::optional<Tensor> count, std::optional<Tensor> indptr, const Tensor& out_in, const Tensor& stat_in,
    double negative_slope, double dropout, int64_t seed) {
  const NeighborRows nbrs(kOp, nbr, count, indptr, x.size(0));
  nbrs.check();
  const Tensor grad = torch::stable::contiguous(grad_in), stat = torch::stable::contiguous(stat_in);
  const ScalarType acc = stat.scalar_type();
  const int64_t S = x.size(0), R = nbrs.R, H = x.size(1);
  Tensor d_x = empty(sizes_of(x), x.scalar_type()), d_src = empty({S, H}, acc), d_dst = empty({R, H}, acc);
  Tensor weight = empty({nbrs.slots(), H}, acc), node = empty({R, 2, H}, acc);
  dispatch_floating_as<HalfBits, BFloat16Bits>(x.scalar_type(), kOp, [&](auto tag) {
    using In = decltype(tag);
    using A = Acc<In>;
    const Heads<In> in(x, src, dst, negative_slope, dropout, seed);
    const int64_t D = in.D, F = in.F, bytes = in.bytes();
    const In* g_rows = ptr<In>(grad);
    Tensor out = torch::stable::contiguous(out_in);
    if (!std::is_same_v<In, A>) {  // what was rounded to half precision is a poor mean
      Tensor again = empty(sizes_of(out), acc), same = empty(sizes_of(stat), acc);
      attend(in, nbrs, ptr<A>(again), ptr<A>(same));
      out = again;
    }
    A *const w = ptr<A>(weight), *const of_root = ptr<A>(node);
    weights_again(in, nbrs, g_rows, static_cast<const A*>(out.data_ptr()), ptr<A>(stat), w, of_root);

    const Transposed edges(nbrs, S);
    const RowTable<In> grads(g_rows, R, F, F, in.width);
    const A keep = in.dropout.active() ? static_cast<A>(in.dropout.keep()) : A{1};
    edges.tasks([&](int64_t first, int64_t last) {
      Gathered<In, A>& g = Gathered<In, A>::mine();
      g.begin(edges.begin(last) - edges.begin(first), bytes);
      for (int64_t u = first; u < last; ++u) {
        g.begin_root();
        for (int64_t e = edges.begin(u); e < edges.end(u); ++e) {
          __builtin_prefetch(w + edges.edge.get()[e].at * H);
          __builtin_prefetch(of_root + edges.edge.get()[e].root * 2 * H);
          g.add(grads[edges.edge.get()[e].root]);
        }
      }
      g.finish();
      Scratch<A> sum(in.width), room(in.width), own(F);
      std::vector<A> kept(static_cast<size_t>(H)), dp(static_cast<size_t>(H));
      for (int64_t u = first; u < last; ++u) {
        A* total = ptr<A>(d_src) + u * H;
        const A* logit = in.src_row(u);
        std::fill_n(total, H, A{0});
        std::fill_n(sum.get(), F, A{0});
        copy_row(in.rows[u], own.get(), F);
        const int64_t begin = edges.begin(u);
        each_row(g.of(static_cast<size_t>(u - first), F, in.width), room.get(), [&](int64_t i, const A* row) {
          const Transposed::Edge edge = edges.edge.get()[begin + i];
          A* p = w + edge.at * H;
          const A *dst_logit = of_root + edge.root * 2 * H, *mean = dst_logit + H;
          dot_heads(row, own.get(), H, D, dp.data());
          for (size_t h = 0; h < static_cast<size_t>(H); ++h) {
            const A weight = std::fabs(p[h]), mask = std::signbit(p[h]) ? A{0} : keep;
            const A slope = logit[h] + dst_logit[h] > 0 ? A{1} : in.slope;
            kept[h] = weight * mask;
            p[h] = weight * (dp[h] * mask - mean[h]) * slope;
            total[h] += p[h];
          }
          add_heads(row, kept.data(), H, D, sum.get());
        });
        copy_row(sum.get(), ptr<In>(d_x) + u * F, F);
      }
    });
    nbrs.tasks([&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        A* total = ptr<A>(d_dst) + r * H;
        std::fill_n(total, H, A{0});
        nbrs.each(r, [&](const NeighborRows::Slot& s) {
          for (int64_t h = 0; h < H; ++h) total[h] += w[s.at * H + h];
        });
      }
    });
    d_src = from_acc<A>(d_src, src.scalar_type());
    d_dst = from_acc<A>(d_dst, dst.scalar_type());
  });
  return {d_x, d_src, d_dst};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("edge_softmax_aggregate", TORCH_BOX(&gnnaccel::edge_softmax_aggregate_cpu));
  m.impl("edge_softmax_aggregate_backward", TORCH_BOX(&gnnaccel::edge_softmax_aggregate_backward_cpu));
}
