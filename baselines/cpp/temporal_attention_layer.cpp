#include <tuple>

#include "temporal_attention_layer_call.h"

namespace gnnaccel {
namespace {

// The arguments that both passes share.
struct LayerCall {
  const Tensor& node_table;
  const std::optional<Tensor>& root_table;
  const std::optional<Tensor>& root_row;
  const Tensor (&weights)[8];  // query, key, value, output; each with its bias
  const Tensor &norm_weight, &norm_bias;
  const std::optional<Tensor>& edge_table;
  const Tensor &nbr_row, &edge_row, &dt, &count, &time_w, &time_b;
  int64_t heads;
  double dropout;
  int64_t seed;
  double eps;

  const Tensor& roots() const { return root_table ? *root_table : node_table; }
};

RootOrder order_of(const LayerCall& call) {
  const int64_t R = call.count.numel(), limit = call.roots().size(0);
  std::vector<int64_t> rows(static_cast<size_t>(R));
  if (call.root_row) {
    const Tensor row = torch::stable::contiguous(*call.root_row);
    for (int64_t r = 0; r < R; ++r) rows[static_cast<size_t>(r)] = Neighbors::at(row.data_ptr(), row.scalar_type(), r);
  } else {
    std::iota(rows.begin(), rows.end(), int64_t{0});
  }
  for (int64_t row : rows)
    if (row < 0 || row >= limit)
      throw std::invalid_argument("temporal_attention_layer: root_row must be in [0, " + std::to_string(limit) + ")");
  return RootOrder(rows.data(), R, limit);
}

// The projections of a root's row, in one: the query, whose share of phi(0), one vector for all roots, is a bias; and
// the root's own term of the output.
template <class A>
struct OwnTerms {
  int64_t D, Dq, T;
  const A* wq;
  std::vector<double> phase;       // of the time encoding
  std::vector<A> now, rows, bias;  // phi(0); [2 D, Dq], [2 D]

  OwnTerms(const LayerCall& call, int64_t D_, int64_t Dq_, const A* wq_, const A* bq, const A* wo, const A* bo)
      : D(D_), Dq(Dq_), wq(wq_), phase(to_double(call.time_b, 1.0, kAttention)) {
    T = static_cast<int64_t>(phase.size());
    for (double angle : phase) now.push_back(static_cast<A>(std::cos(angle)));
    rows.resize(static_cast<size_t>(2 * D * Dq)), bias.resize(static_cast<size_t>(2 * D));
    for (int64_t i = 0; i < D; ++i) {
      const A* query = wq + i * (Dq + T);
      std::copy_n(query, Dq, rows.data() + i * Dq);
      std::copy_n(wo + i * (D + Dq) + D, Dq, rows.data() + (D + i) * Dq);
      A sum = bq[i];
      for (int64_t t = 0; t < T; ++t) sum += query[Dq + t] * now[static_cast<size_t>(t)];
      bias[static_cast<size_t>(i)] = sum;
      bias[static_cast<size_t>(D + i)] = bo[i];
    }
  }
};

// Calls f(Layer, OwnTerms) with everything but `saved` set.
template <class F>
void with_layer(const LayerCall& call, bool backward, const F& f) {
  const RootOrder order = order_of(call);
  const Tensor roots = with_dense_rows(call.roots());
  constexpr double kSlope = 0.2;
  const auto run = [&](const auto& in) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
    const Tensor(&t)[8] = call.weights;
    const int64_t D = t[0].size(0), Dq = roots.size(1);
    const Values<A> wq(t[0]), bq(t[1]), wk(t[2]), bk(t[3]), wv(t[4]), bv(t[5]), wo(t[6]), bo(t[7]);
    const Values<A> norm_weight(call.norm_weight, padded(D)), norm_bias(call.norm_bias, padded(D));
    const OwnTerms<A> own(call, D, Dq, wq.data, bq.data, wo.data, bo.data);
    LayerWeights<A> w(call.heads, D, Dq, in.shape.F,
                      {own.rows.data(), own.bias.data(), wk.data, bk.data, wv.data, bv.data, wo.data, D + Dq,
                       norm_weight.data, norm_bias.data},
                      backward);
    f(Layer<A>{in, order, RowSource<A>(roots, Dq), w, NormDropout(call.dropout, call.seed, D), call.eps, {}}, own);
  };
  with_problem(call.node_table.scalar_type(), call.heads, 1, call.node_table, call.edge_table, call.nbr_row,
               call.edge_row, call.dt, call.count, call.time_w, call.time_b, 1.0, kSlope, call.dropout, call.seed, run);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> layer_cpu(
    const Tensor& node_table, std::optional<Tensor> root_table, std::optional<Tensor> root_row, const Tensor& wq,
    const Tensor& bq, const Tensor& wk, const Tensor& bk, const Tensor& wv, const Tensor& bv, const Tensor& wo,
    const Tensor& bo, const Tensor& norm_weight, const Tensor& norm_bias, std::optional<Tensor> edge_table,
    const Tensor& nbr_row, const Tensor& edge_row, const Tensor& dt, const Tensor& count, const Tensor& time_w,
    const Tensor& time_b, int64_t heads, double dropout, int64_t seed, double eps) {
  const Tensor weights[] = {wq, bq, wk, bk, wv, bv, wo, bo};
  const LayerCall call{node_table, root_table, root_row, weights, norm_weight, norm_bias, edge_table, nbr_row, edge_row,
                       dt,         count,      time_w,   time_b,  heads,       dropout,   seed,       eps};
  const int64_t R = count.numel(), D = wq.size(0);
  const ScalarType dtype = node_table.scalar_type(), acc = acc_type(node_table);
  Tensor result = empty({R, D}, dtype), logit = empty({R, heads, nbr_row.size(1)}, acc), attended = empty({R, D}, acc),
         out = empty({R, D}, acc), mean = empty({R}, acc), rstd = empty({R}, acc);
  with_layer(call, false, [&](auto layer, const auto& own) {
    using A = std::remove_const_t<std::remove_pointer_t<decltype(own.wq)>>;
    layer.saved = {ptr<A>(logit), ptr<A>(attended), ptr<A>(out), ptr<A>(mean), ptr<A>(rstd)};
    layer_forward(layer, result);
  });
  return {result, logit, attended, out, mean, rstd};
}

struct LayerOutputs {
  Tensor node, root, wq, bq, wk, bk, wv, bv, wo, bo, norm_weight, norm_bias, edge, time_w, time_b;
};

// Sums over groups into the gradients of the weights.
template <class A>
void store_weights(GroupSums<A>& sums, const LayerWeights<A>& w, const OwnTerms<A>& own_terms, LayerOutputs& to) {
  const Store<A> store = storer<A>(to.wq.scalar_type());
  const LayerSums<A> all = sums.group(0);
  const int64_t D = w.D, Dq = w.Dq, T = own_terms.T, F = w.F;
  constexpr int64_t kChunk = 8;
  parallel_chunks(D, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto key = sums.row(all.key, i, F), value = sums.row(all.value, i, F);
      store(to.wk.data_ptr(), i * (F - 1), F - 1, key.data());
      store(to.bk.data_ptr(), i, 1, &key.back());
      store(to.wv.data_ptr(), i * (F - 1), F - 1, value.data());
      store(to.bv.data_ptr(), i, 1, &value.back());
      const auto attended = sums.row(all.output, i, D), own = sums.row(all.own, D + i, Dq + 1);
      store(to.wo.data_ptr(), i * (D + Dq), D, attended.data());
      store(to.wo.data_ptr(), i * (D + Dq) + D, Dq, own.data());
      store(to.bo.data_ptr(), i, 1, &own.back());
      auto query = sums.row(all.own, i, Dq + 1);
      const A bias = query.back();
      query.pop_back();
      for (A phi : own_terms.now) query.push_back(bias * phi);
      store(to.wq.data_ptr(), i * (Dq + T), Dq + T, query.data());
      store(to.bq.data_ptr(), i, 1, &bias);
    }
  });
  store(to.norm_weight.data_ptr(), 0, D, sums.row(all.norm_weight, 0, D).data());
  store(to.norm_bias.data_ptr(), 0, D, sums.row(all.norm_bias, 0, D).data());
}

// `total`, of frequencies and phases, and what the query's share of phi(0) adds.
template <class A>
void store_time(std::vector<double>& total, const OwnTerms<A>& own, const Tensor& bq, LayerOutputs& to) {
  const int64_t T = own.T;
  const Values<A> bias(bq);
  std::vector<A> now(static_cast<size_t>(T));
  for (int64_t i = 0; i < own.D; ++i)
    for (int64_t t = 0; t < T; ++t) now[static_cast<size_t>(t)] += bias.data[i] * own.wq[i * (own.Dq + T) + own.Dq + t];
  for (int64_t t = 0; t < T; ++t)
    total[static_cast<size_t>(T + t)] -=
        std::sin(own.phase[static_cast<size_t>(t)]) * static_cast<double>(now[static_cast<size_t>(t)]);
  storer<double>(to.time_w.scalar_type())(to.time_w.data_ptr(), 0, T, total.data());
  storer<double>(to.time_b.scalar_type())(to.time_b.data_ptr(), 0, T, total.data() + T);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
           Tensor, Tensor>
layer_backward_cpu(const Tensor& grad_in, const Tensor& node_table, std::optional<Tensor> root_table,
                   std::optional<Tensor> root_row, const Tensor& wq, const Tensor& bq, const Tensor& wk,
                   const Tensor& bk, const Tensor& wv, const Tensor& bv, const Tensor& wo, const Tensor& bo,
                   const Tensor& norm_weight, const Tensor& norm_bias, std::optional<Tensor> edge_table,
                   const Tensor& nbr_row, const Tensor& edge_row, const Tensor& dt, const Tensor& count,
                   const Tensor& time_w, const Tensor& time_b, const Tensor& logit, const Tensor& attended,
                   const Tensor& out, const Tensor& mean, const Tensor& rstd, int64_t heads, double dropout,
                   int64_t seed, double eps, bool need_node, bool need_root, bool need_edge) {
  const Tensor weights[] = {wq, bq, wk, bk, wv, bv, wo, bo};
  const LayerCall call{node_table, root_table, root_row, weights, norm_weight, norm_bias, edge_table, nbr_row, edge_row,
                       dt,         count,      time_w,   time_b,  heads,       dropout,   seed,       eps};
  const Tensor grad = torch::stable::contiguous(grad_in);
  const auto like = [](const Tensor& t, bool needed = true) {
    return needed ? empty(sizes_of(t), t.scalar_type()) : empty({0}, t.scalar_type());
  };
  LayerOutputs to{like(node_table, need_node),
                  like(call.roots(), need_root && root_table),
                  like(wq),
                  like(bq),
                  like(wk),
                  like(bk),
                  like(wv),
                  like(bv),
                  like(wo),
                  like(bo),
                  like(norm_weight),
                  like(norm_bias),
                  like(edge_table ? *edge_table : node_table, need_edge),
                  like(time_w),
                  like(time_b)};
  with_layer(call, true, [&](auto layer, const auto& own) {
    using A = std::remove_const_t<std::remove_pointer_t<decltype(own.wq)>>;
    layer.saved = {const_cast<A*>(ptr<A>(logit)), const_cast<A*>(ptr<A>(attended)), const_cast<A*>(ptr<A>(out)),
                   const_cast<A*>(ptr<A>(mean)), const_cast<A*>(ptr<A>(rstd))};
    LayerBackward<A> done(layer, grad, !root_table, to.node, need_node, to.root, need_root && root_table, to.edge,
                          need_edge);
    store_weights(done.sums, layer.w, own, to);
    store_time(done.time(), own, to.bq, to);
  });
  return {to.node, to.root, to.wq,          to.bq,        to.wk,   to.bk,     to.wv,    to.bv,
          to.wo,   to.bo,   to.norm_weight, to.norm_bias, to.edge, to.time_w, to.time_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("temporal_attention_layer", TORCH_BOX(&gnnaccel::layer_cpu));
  m.impl("temporal_attention_layer_backward", TORCH_BOX(&gnnaccel::layer_backward_cpu));
}
