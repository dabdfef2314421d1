// Attention of nodes over their edges, on the blocks of the temporal attention layer: no output projection, no norm,
// keys and values share the projection of the edge.
#include <tuple>

#include "temporal_attention_layer_call.h"

namespace gnnaccel {
namespace {

// The arguments that both passes share.
struct EdgeCall {
  const Tensor& node_table;
  const std::optional<Tensor>& root_table;
  const Tensor (&weights)[8];  // query, key, value, own term; each with its bias
  const Tensor& we;
  const std::optional<Tensor>& edge_table;
  const Tensor &nbr_row, &edge_row, &dt, &count, &time_w, &time_b;
  int64_t heads;
  double dropout;
  int64_t seed;
  bool time_first;

  const Tensor& roots() const { return root_table ? *root_table : node_table; }
  int64_t edge_columns() const { return edge_table ? edge_table->size(1) : 0; }
  int64_t time_columns() const { return time_w.numel(); }
  // Where the columns of edges and of times are in `we`.
  int64_t edge_at() const { return time_first ? time_columns() : 0; }
  int64_t time_at() const { return time_first ? 0 : edge_columns(); }
};

// Weights as the layer wants them: [Wq; Ws] with their biases, and [W | We] with the columns of a neighbour's row.
template <class A>
struct EdgeWeights {
  std::vector<A> own, own_bias, key, value;
  Values<A> bk, bv;

  explicit EdgeWeights(const EdgeCall& call) : bk(call.weights[3]), bv(call.weights[5]) {
    const Tensor(&t)[8] = call.weights;
    const Values<A> wq(t[0]), bq(t[1]), wk(t[2]), wv(t[4]), ws(t[6]), bs(t[7]), we(call.we);
    own.assign(wq.data, wq.data + t[0].numel());
    own.insert(own.end(), ws.data, ws.data + t[6].numel());
    own_bias.assign(bq.data, bq.data + t[1].numel());
    own_bias.insert(own_bias.end(), bs.data, bs.data + t[7].numel());
    const int64_t D = t[0].size(0), Dn = t[2].size(1), De = call.edge_columns(), T = call.time_columns();
    const auto join = [&](const Values<A>& node, std::vector<A>& joined) {
      const int64_t columns = Dn + De + T;
      joined.resize(static_cast<size_t>(D * columns));
      constexpr int64_t kRows = 16;
      parallel_chunks(D, kRows, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          A* to = std::copy_n(node.data + i * Dn, Dn, joined.data() + i * columns);
          to = std::copy_n(we.data + i * (De + T) + call.edge_at(), De, to);
          std::copy_n(we.data + i * (De + T) + call.time_at(), T, to);
        }
      });
    };
    join(wk, key);
    join(wv, value);
  }
};

// Calls f(Layer) with everything but `saved` set.
template <class F>
void with_edges(const EdgeCall& call, bool backward, const F& f) {
  const Tensor roots = with_dense_rows(call.roots()), count = torch::stable::contiguous(call.count);
  const int64_t D = call.weights[0].size(0), Dq = roots.size(1);
  const RootOrder order(ptr<int32_t>(count), count.numel());
  const auto run = [&](const auto& in) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
    const EdgeWeights<A> t(call);
    LayerWeights<A> w(call.heads, D, Dq, in.shape.F,
                      {t.own.data(), t.own_bias.data(), t.key.data(), t.bk.data, t.value.data(), t.bv.data}, backward);
    f(Layer<A>{in, order, RowSource<A>(roots, Dq), w, NormDropout(0.0, 0, D), 0.0, {}});
  };
  constexpr double kNoSlope = 1.0;
  with_problem(call.node_table.scalar_type(), call.heads, 1, call.node_table, call.edge_table, call.nbr_row,
               call.edge_row, call.dt, count, call.time_w, call.time_b,
               1.0 / std::sqrt(static_cast<double>(D / call.heads)), kNoSlope, call.dropout, call.seed, run);
}

std::tuple<Tensor, Tensor> edge_attention_cpu(const Tensor& node_table, std::optional<Tensor> root_table,
                                              const Tensor& wq, const Tensor& bq, const Tensor& wk, const Tensor& bk,
                                              const Tensor& wv, const Tensor& bv, const Tensor& ws, const Tensor& bs,
                                              const Tensor& we, std::optional<Tensor> edge_table, const Tensor& nbr_row,
                                              const Tensor& edge_row, const Tensor& dt, const Tensor& count,
                                              const Tensor& time_w, const Tensor& time_b, int64_t heads, double dropout,
                                              int64_t seed, bool time_first) {
  const Tensor weights[] = {wq, bq, wk, bk, wv, bv, ws, bs};
  const EdgeCall call{node_table, root_table, weights, we,    edge_table, nbr_row, edge_row,  dt,
                      count,      time_w,     time_b,  heads, dropout,    seed,    time_first};
  const int64_t R = count.numel();
  Tensor result = empty({R, wq.size(0)}, node_table.scalar_type()),
         logit = empty({R, heads, nbr_row.size(1)}, acc_type(node_table));
  with_edges(call, false, [&](auto layer) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(layer.in.shape.scale)>>;
    layer.saved.logit = ptr<A>(logit);
    layer_forward(layer, result);
  });
  return {result, logit};
}

struct EdgeGradients {
  Tensor node, root, wq, bq, wk, bk, wv, bv, ws, bs, we, edge, time_w, time_b;
};

// Sums over groups into the gradients of the weights.
template <class A>
void store_weights(GroupSums<A>& sums, const EdgeCall& call, int64_t Dq, EdgeGradients& to) {
  const Store<A> store = storer<A>(to.wq.scalar_type());
  const LayerSums<A> all = sums.group(0);
  const int64_t D = to.wq.size(0), Dn = to.wk.size(1), De = call.edge_columns(), T = call.time_columns(), E = De + T;
  constexpr int64_t kChunk = 8;
  parallel_chunks(D, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto key = sums.row(all.key, i, Dn + E + 1);
      auto value = sums.row(all.value, i, Dn + E + 1);
      const auto query = sums.row(all.own, i, Dq + 1), own = sums.row(all.own, D + i, Dq + 1);
      store(to.wk.data_ptr(), i * Dn, Dn, key.data());
      store(to.bk.data_ptr(), i, 1, &key.back());
      store(to.wv.data_ptr(), i * Dn, Dn, value.data());
      store(to.bv.data_ptr(), i, 1, &value.back());
      store(to.wq.data_ptr(), i * Dq, Dq, query.data());
      store(to.bq.data_ptr(), i, 1, &query.back());
      store(to.ws.data_ptr(), i * Dq, Dq, own.data());
      store(to.bs.data_ptr(), i, 1, &own.back());
      for (int64_t j = Dn; j < Dn + E; ++j) value[static_cast<size_t>(j)] += key[static_cast<size_t>(j)];
      store(to.we.data_ptr(), i * E + call.edge_at(), De, value.data() + Dn);
      store(to.we.data_ptr(), i * E + call.time_at(), T, value.data() + Dn + De);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
           Tensor>
edge_attention_backward_cpu(const Tensor& grad_in, const Tensor& node_table, std::optional<Tensor> root_table,
                            const Tensor& wq, const Tensor& bq, const Tensor& wk, const Tensor& bk, const Tensor& wv,
                            const Tensor& bv, const Tensor& ws, const Tensor& bs, const Tensor& we,
                            std::optional<Tensor> edge_table, const Tensor& nbr_row, const Tensor& edge_row,
                            const Tensor& dt, const Tensor& count, const Tensor& time_w, const Tensor& time_b,
                            const Tensor& logit, int64_t heads, double dropout, int64_t seed, bool time_first,
                            bool need_node, bool need_root, bool need_edge) {
  const Tensor weights[] = {wq, bq, wk, bk, wv, bv, ws, bs};
  const EdgeCall call{node_table, root_table, weights, we,    edge_table, nbr_row, edge_row,  dt,
                      count,      time_w,     time_b,  heads, dropout,    seed,    time_first};
  const Tensor grad = torch::stable::contiguous(grad_in);
  const auto like = [](const Tensor& t, bool needed = true) {
    return needed ? empty(sizes_of(t), t.scalar_type()) : empty({0}, t.scalar_type());
  };
  need_root = need_root && root_table;
  EdgeGradients to{like(node_table, need_node),
                   like(call.roots(), need_root),
                   like(wq),
                   like(bq),
                   like(wk),
                   like(bk),
                   like(wv),
                   like(bv),
                   like(ws),
                   like(bs),
                   like(we),
                   like(edge_table ? *edge_table : node_table, need_edge),
                   like(time_w),
                   like(time_b)};
  with_edges(call, true, [&](auto layer) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(layer.in.shape.scale)>>;
    layer.saved.logit = const_cast<A*>(ptr<A>(logit));
    LayerBackward<A> done(layer, grad, !root_table, to.node, need_node, to.root, need_root, to.edge, need_edge);
    store_weights(done.sums, call, layer.w.Dq, to);
    const int64_t T = call.time_columns();
    const Store<double> store = storer<double>(time_w.scalar_type());
    store(to.time_w.data_ptr(), 0, T, done.time().data());
    store(to.time_b.data_ptr(), 0, T, done.time().data() + T);
  });
  return {to.node, to.root, to.wq, to.bq, to.wk,   to.bk,     to.wv,
          to.bv,   to.ws,   to.bs, to.we, to.edge, to.time_w, to.time_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("edge_attention", TORCH_BOX(&gnnaccel::edge_attention_cpu));
  m.impl("edge_attention_backward", TORCH_BOX(&gnnaccel::edge_attention_backward_cpu));
}
