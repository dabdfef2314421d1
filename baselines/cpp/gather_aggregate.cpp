#include <tuple>

#include "gather_aggregate_io.h"

namespace gnnaccel {
namespace {

constexpr const char* kOp = "gather_aggregate";
enum Reduce : int64_t { kSum, kMean, kMax };

template <class F>
void dispatch_rows(ScalarType dtype, const F& f) {
  if (dtype == ScalarType::Char) return f(int8_t{});
  dispatch_floating_as<HalfBits, BFloat16Bits>(dtype, kOp, f);
}

// Inputs that both directions read. B is 1 where the weight has no such dimension.
template <class In, class A>
struct Inputs {
  Tensor table;
  int64_t N, F, B, width;
  RowTable<In> rows;
  std::optional<Tensor> weight_tensor, scale_tensor;
  const A* weight;
  const float* scale;

  Inputs(const Tensor& t, const Tensor& nbr, const std::optional<Tensor>& w, const std::optional<Tensor>& s)
      : table(with_dense_rows(t)),
        N(table.size(0)),
        F(table.size(1)),
        B(w && w->dim() > nbr.dim() ? w->size(nbr.dim()) : 1),
        width(round_up(F, kLanes<A>)),
        rows(ptr<In>(static_cast<const Tensor&>(table)), N, F, table.stride(0), width) {
    if (w) weight_tensor = as_acc<A>(*w);
    if (s) scale_tensor = torch::stable::contiguous(*s);
    weight = weight_tensor ? static_cast<const A*>(weight_tensor->data_ptr()) : nullptr;
    scale = scale_tensor ? static_cast<const float*>(scale_tensor->data_ptr()) : nullptr;
  }
  int64_t bytes() const { return F * static_cast<int64_t>(sizeof(In)); }
  // The factors of a neighbour: of each basis.
  GNNACCEL_INLINE void factors(const NeighborRows::Slot& s, A* to) const {
    const A step = scale == nullptr ? A{1} : static_cast<A>(scale[s.id]);
    for (int64_t b = 0; b < B; ++b) to[b] = weight == nullptr ? step : step * weight[s.at * B + b];
  }
};

// sum[b] += the rows, times w[i, b] if there are such.
template <class In, class A>
void add_rows(const RowList<In>& x, const A* w, int64_t B, A* sum) {
  if (w != nullptr) return sum_row_list(x, w, B, sum);
  if constexpr (std::is_same_v<In, int8_t> || (std::is_same_v<A, double> && !std::is_same_v<In, double>)) {
    const std::vector<A> ones(static_cast<size_t>(x.n), A{1});
    sum_row_list(x, ones.data(), B, sum);
  } else {
    sum_row_list(x, sum);
  }
}

template <class In, class A, class Out>
void reduce_rows(const Inputs<In, A>& in, const NeighborRows& nbrs, int64_t reduce, Out* out, int32_t* slot_out) {
  const bool weighted = in.weight != nullptr || in.scale != nullptr;
  const int64_t F = in.F, B = in.B, width = in.width;
  nbrs.tasks([&](int64_t first, int64_t last) {
    Gathered<In, A>& g = Gathered<In, A>::mine();
    g.begin(nbrs.between(first, last), in.bytes(), B);
    if (in.scale != nullptr)
      for (int64_t r = first; r < last; ++r)
        nbrs.each(r, [&](const NeighborRows::Slot& s) { __builtin_prefetch(in.scale + s.id, 0, 2); });
    for (int64_t r = first; r < last; ++r) {
      g.begin_root();
      nbrs.each(r, [&](const NeighborRows::Slot& s) {
        if (weighted) in.factors(s, g.factor_of_next(B));
        g.add(in.rows[s.id]);
        if (reduce == kMax) g.slot.push_back(s.k);
      });
    }
    g.finish();
    Scratch<A> sum(B * width), room(width);
    for (int64_t r = first; r < last; ++r) {
      const size_t i = static_cast<size_t>(r - first);
      const RowList<In> x = g.of(i, F, width);
      const A* factor = g.factor.data() + g.first[i] * B;
      std::fill_n(sum.get(), B * width, A{0});
      if (reduce == kMax) {
        int32_t* slot = slot_out + r * F;
        std::fill_n(slot, F, -1);
        each_row(x, room.get(), [&](int64_t k, const A* row) {
          max_row(row, weighted ? factor[k] : A{1}, g.slot[static_cast<size_t>(g.first[i] + k)], sum.get(), slot, F);
        });
      } else {
        add_rows(x, weighted ? factor : nullptr, B, sum.get());
      }
      if (reduce == kMean && x.n > 1) divide_row(sum.get(), static_cast<A>(x.n), B * width);
      for (int64_t b = 0; b < B; ++b) copy_row(sum.get() + b * width, out + (r * B + b) * F, F);
    }
  });
}

std::tuple<Tensor, Tensor> gather_aggregate_cpu(const Tensor& table, const Tensor& nbr, std::optional<Tensor> count,
                                                std::optional<Tensor> weight, std::optional<Tensor> indptr,
                                                std::optional<Tensor> scale, int64_t reduce, ScalarType dtype) {
  const NeighborRows nbrs(kOp, nbr, count, indptr, table.size(0));
  nbrs.check();
  const int64_t R = nbrs.R, F = table.size(1);
  std::vector<int64_t> shape{R, F};
  if (weight && weight->dim() > nbr.dim()) shape.insert(shape.begin() + 1, weight->size(nbr.dim()));
  Tensor out = empty(shape, dtype);
  Tensor slot = reduce == kMax ? empty({R, F}, ScalarType::Int) : empty({0}, ScalarType::Int);
  dispatch_rows(table.scalar_type(), [&](auto in_tag) {
    using In = decltype(in_tag);
    dispatch_floating_as<HalfBits, BFloat16Bits>(dtype, kOp, [&](auto out_tag) {
      using Out = decltype(out_tag);
      using A = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
      const Inputs<In, A> in(table, nbr, weight, scale);
      reduce_rows(in, nbrs, reduce, ptr<Out>(out), ptr<int32_t>(slot));
    });
  });
  return {out, slot};
}

// Gradient of the table: each row's sum over the roots it is a neighbour of, in their order.
template <class In, class A, class G, class Out>
void table_gradient(const Inputs<In, A>& in, const NeighborRows& nbrs, const RowTable<G>& grad, const G* grad_dense,
                    const std::vector<A>& share, const int32_t* slot, Out* out) {
  const Transposed edges(nbrs, in.N);
  const int64_t F = in.F, B = in.B, width = in.width, bytes = F * static_cast<int64_t>(sizeof(G));
  const bool weighted = in.weight != nullptr || !share.empty();
  edges.tasks([&](int64_t first, int64_t last) {
    Gathered<G, A>& g = Gathered<G, A>::mine();
    g.begin((edges.begin(last) - edges.begin(first)) * B, bytes);
    Scratch<A> sum(width), one(width);
    for (int64_t u = first; u < last; ++u) {
      g.begin_root();
      for (int64_t e = edges.begin(u); e < edges.end(u); ++e) {
        const Transposed::Edge edge = edges.edge.get()[e];
        const A part = share.empty() ? A{1} : share[static_cast<size_t>(edge.root)];
        for (int64_t b = 0; b < B; ++b) {
          if (weighted) *g.factor_of_next(1) = in.weight == nullptr ? part : part * in.weight[edge.at * B + b];
          g.add(grad[edge.root * B + b]);
        }
      }
    }
    g.finish();
    for (int64_t u = first; u < last; ++u) {
      const size_t i = static_cast<size_t>(u - first);
      const RowList<G> x = g.of(i, F, width);
      std::fill_n(sum.get(), width, A{0});
      if (slot != nullptr) {
        for (int64_t e = edges.begin(u); e < edges.end(u); ++e) {
          const Transposed::Edge edge = edges.edge.get()[e];
          if (e + 4 < edges.end(last - 1))
            prefetch_lines(slot + edges.edge.get()[e + 4].root * F, F * static_cast<int64_t>(sizeof(int32_t)));
          const G* row = grad_dense + edge.root * F;
          const A* value = one.get();
          if constexpr (std::is_same_v<G, A>)
            value = row;
          else
            copy_row(row, one.get(), F);
          add_where(value, slot + edge.root * F, edge.k, sum.get(), F);
        }
      } else {
        add_rows(x, weighted ? g.factor.data() + g.first[i] : nullptr, 1, sum.get());
      }
      copy_row(sum.get(), out + u * F, F);
    }
  });
}

// Gradient of the weights: the products of a root's gradient and its neighbours' rows.
template <class In, class A, class G>
void weight_gradient(const Inputs<In, A>& in, const NeighborRows& nbrs, const G* grad, const std::vector<A>& share,
                     A* out) {
  const int64_t F = in.F, B = in.B, width = in.width;
  nbrs.tasks([&](int64_t first, int64_t last) {
    Gathered<In, A>& g = Gathered<In, A>::mine();
    g.begin(nbrs.between(first, last), in.bytes());
    for (int64_t r = first; r < last; ++r) {
      g.begin_root();
      nbrs.each(r, [&](const NeighborRows::Slot& s) { g.add(in.rows[s.id]); });
    }
    g.finish();
    Scratch<A> q(B * width), room(width);
    std::fill_n(q.get(), B * width, A{0});
    std::fill_n(room.get(), width, A{0});
    std::vector<A> product;
    for (int64_t r = first; r < last; ++r) {
      const size_t i = static_cast<size_t>(r - first);
      const RowList<In> x = g.of(i, F, width);
      for (int64_t b = 0; b < B; ++b) copy_row(grad + (r * B + b) * F, q.get() + b * width, F);
      product.resize(static_cast<size_t>(x.n * B));
      each_row(x, room.get(), [&](int64_t k, const A* row) {
        const A* p = row;
        if (std::is_same_v<In, A> && F < width) {  // what lies past the row may be NaN
          std::copy_n(row, F, room.get());
          p = room.get();
        }
        for (int64_t b = 0; b < B; ++b)
          dot_row(p, q.get() + b * width, width, &product[static_cast<size_t>(k * B + b)]);
      });
      const A part = share.empty() ? A{1} : share[static_cast<size_t>(r)];
      const A* p = product.data();
      nbrs.each(r, [&](const NeighborRows::Slot& s) {
        const A factor = in.scale == nullptr ? part : part * static_cast<A>(in.scale[s.id]);
        for (int64_t b = 0; b < B; ++b) out[s.at * B + b] = *p++ * factor;
      });
    }
  });
}

std::tuple<Tensor, Tensor> gather_aggregate_backward_cpu(const Tensor& grad_in, const Tensor& table, const Tensor& nbr,
                                                         std::optional<Tensor> count, std::optional<Tensor> weight,
                                                         std::optional<Tensor> indptr, std::optional<Tensor> scale,
                                                         const Tensor& slot_in, int64_t reduce, bool need_table,
                                                         bool need_weight) {
  const NeighborRows nbrs(kOp, nbr, count, indptr, table.size(0));
  nbrs.check();
  const Tensor grad = torch::stable::contiguous(grad_in), slot = torch::stable::contiguous(slot_in);
  const int64_t N = table.size(0), F = table.size(1);
  need_weight = need_weight && weight.has_value();
  Tensor d_table = need_table ? empty({N, F}, table.scalar_type()) : empty({0}, grad.scalar_type());
  Tensor d_weight = empty({0}, grad.scalar_type());
  dispatch_rows(table.scalar_type(), [&](auto in_tag) {
    using In = decltype(in_tag);
    dispatch_floating_as<HalfBits, BFloat16Bits>(grad.scalar_type(), kOp, [&](auto grad_tag) {
      using G = decltype(grad_tag);
      using A = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<G, double>, double, float>;
      const Inputs<In, A> in(table, nbr, weight, scale);
      const G* g = ptr<G>(static_cast<const Tensor&>(grad));
      std::vector<A> share;  // of a neighbour in its root's mean
      if (reduce == kMean) {
        share.resize(static_cast<size_t>(nbrs.R));
        nbrs.tasks([&](int64_t first, int64_t last) {
          for (int64_t r = first; r < last; ++r) {
            int64_t n = 0;
            nbrs.each(r, [&](const NeighborRows::Slot&) { ++n; });
            share[static_cast<size_t>(r)] = A{1} / static_cast<A>(n > 0 ? n : 1);
          }
        });
      }
      if constexpr (!std::is_same_v<In, int8_t>)
        if (need_table) {
          const RowTable<G> grads(g, nbrs.R * in.B, F, F, in.width);
          const int32_t* won = reduce == kMax ? ptr<int32_t>(slot) : nullptr;
          table_gradient(in, nbrs, grads, g, share, won, ptr<In>(d_table));
        }
      if (need_weight) {
        constexpr ScalarType kAcc = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
        Tensor acc = empty(sizes_of(*weight), kAcc);
        std::memset(acc.data_ptr(), 0, static_cast<size_t>(acc.numel()) * sizeof(A));
        weight_gradient(in, nbrs, g, share, ptr<A>(acc));
        d_weight = from_acc<A>(acc, weight->scalar_type());
      }
    });
  });
  return {d_table, d_weight};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("gather_aggregate", TORCH_BOX(&gnnaccel::gather_aggregate_cpu));
  m.impl("gather_aggregate_backward", TORCH_BOX(&gnnaccel::gather_aggregate_backward_cpu));
}
