#include "temporal_attention_layer.h"

#include <atomic>
#include <tuple>

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

// The values of a tensor in A, dense; padded for whole vectors if `width` says so.
template <class A>
struct Values {
  Tensor dense;
  std::vector<A> copy;
  const A* data;

  explicit Values(const Tensor& t, int64_t width = 0) : dense(torch::stable::contiguous(t)) {
    constexpr ScalarType kSame = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    const bool same = dense.scalar_type() == kSame && width <= dense.numel();
    if (!same) {
      copy.resize(static_cast<size_t>(std::max(width, dense.numel())));
      loader<A>(dense.scalar_type())(dense.data_ptr(), 0, dense.numel(), copy.data());
    }
    data = same ? ptr<A>(std::as_const(dense)) : copy.data();
  }
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

// Calls f(Layer) with everything but `saved` set.
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
    LayerWeights<A> w(
        call.heads, D, Dq, in.shape.F,
        {wq.data, bq.data, wk.data, bk.data, wv.data, bv.data, wo.data, bo.data, norm_weight.data, norm_bias.data},
        to_double(call.time_b, 1.0, kAttention), backward);
    f(Layer<A>{in, order, RowSource<A>(roots, Dq), w, NormDropout(call.dropout, call.seed, D), call.eps, {}});
  };
  with_problem(call.node_table.scalar_type(), call.heads, 1, call.node_table, call.edge_table, call.nbr_row,
               call.edge_row, call.dt, call.count, call.time_w, call.time_b, 1.0, kSlope, call.dropout, call.seed, run);
}

// f(memory, i) for i in [0, n), in no order: a thread that is done takes the next.
template <class Make, class F>
void shared_tasks(int64_t n, const Make& make_memory, const F& f) {
  std::atomic<int64_t> next{0};
  const int64_t workers = std::min<int64_t>(n, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    auto memory = make_memory();
    for (int64_t i = next++; i < n; i = next++) f(memory, i);
  });
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
  with_layer(call, false, [&](auto layer) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(layer.in.shape.scale)>>;
    layer.saved = {ptr<A>(logit), ptr<A>(attended), ptr<A>(out), ptr<A>(mean), ptr<A>(rstd)};
    const Store<A> store = storer<A>(dtype);
    void* to = result.data_ptr();
    shared_tasks(
        layer.order.blocks(), [&] { return LayerWork<A>(layer.in.shape, layer.w); },
        [&](LayerWork<A>& m, int64_t block) {
          layer.forward(block, m, [&](int64_t root, const A* row) { store(to, root * D, D, row); });
        });
  });
  return {result, logit, attended, out, mean, rstd};
}

// Blocks g, g + groups, ... are summed in group g: a fixed number, so that threads change no bit.
int64_t groups_of(int64_t blocks) {
  constexpr int64_t kMost = 16, kBlocks = 3;
  int64_t groups = std::min<int64_t>(blocks, 2);
  while (groups > 0 && groups < kMost && groups * 2 * kBlocks <= blocks) groups *= 2;
  return groups;
}

// The sums of all groups.
template <class A>
class GroupSums {
 public:
  GroupSums(int64_t groups, const AttentionShape<A>& a, const LayerWeights<A>& w)
      : groups_(groups),
        D_(w.D),
        width_(a.width),
        own_(round_up(w.Dq + 1, kLanes<A>)),
        out_(round_up(w.D, kLanes<A>)),
        norm_(padded(w.D)),
        size_(D_ * (2 * width_ + 2 * own_ + out_) + 2 * norm_),
        // from torch's allocator, whose statistics should tell of it
        memory_(empty({groups, size_}, std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float)) {
    for (int64_t g = 0; g < groups; ++g) std::fill_n(group(g).norm_weight, 2 * norm_, A{0});
  }

  LayerSums<A> group(int64_t g) {
    A *key = ptr<A>(memory_) + g * size_, *value = key + D_ * width_, *own = value + D_ * width_;
    A *output = own + 2 * D_ * own_, *norm = output + D_ * out_;
    return {key, value, own, output, norm, norm + norm_};
  }
  // Row i of a sum with `columns` columns; `sum` is that of group 0.
  std::vector<A> row(const A* sum, int64_t i, int64_t columns) const {
    std::vector<A> total(static_cast<size_t>(columns), A{0});
    for (int64_t g = 0; g < groups_; ++g) {
      const A* part = sum + g * size_ + i * round_up(columns, kLanes<A>);
      for (int64_t j = 0; j < columns; ++j) total[static_cast<size_t>(j)] += part[j];
    }
    return total;
  }

 private:
  int64_t groups_, D_, width_, own_, out_, norm_, size_;
  Tensor memory_;
};

struct LayerOutputs {
  Tensor node, root, wq, bq, wk, bk, wv, bv, wo, bo, norm_weight, norm_bias, edge, time_w, time_b;
};

// Sums over groups into the gradients of the weights.
template <class A>
void store_weights(GroupSums<A>& sums, const LayerWeights<A>& w, LayerOutputs& to) {
  const Store<A> store = storer<A>(to.wq.scalar_type());
  const LayerSums<A> all = sums.group(0);
  const int64_t D = w.D, Dq = w.Dq, T = w.T, F = w.F;
  std::vector<A> now(static_cast<size_t>(T));
  for (size_t t = 0; t < now.size(); ++t) now[t] = static_cast<A>(std::cos(w.phase[t]));
  std::vector<A> query_bias(static_cast<size_t>(D));
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
      const A bias = query_bias[static_cast<size_t>(i)] = query.back();
      query.pop_back();
      for (A phi : now) query.push_back(bias * phi);
      store(to.wq.data_ptr(), i * (Dq + T), Dq + T, query.data());
      store(to.bq.data_ptr(), i, 1, &bias);
    }
  });
  store(to.norm_weight.data_ptr(), 0, D, sums.row(all.norm_weight, 0, D).data());
  store(to.norm_bias.data_ptr(), 0, D, sums.row(all.norm_bias, 0, D).data());
}

// [groups, w and b, T] and what the query's share of phi(0) adds.
template <class A>
void store_time(const std::vector<double>& parts, const LayerWeights<A>& w, const Tensor& bq, LayerOutputs& to) {
  const int64_t T = w.T;
  std::vector<double> total(static_cast<size_t>(2 * T));
  for (size_t i = 0; i < parts.size(); ++i) total[i % total.size()] += parts[i];
  const Values<A> bias(bq);
  std::vector<A> now(static_cast<size_t>(T));
  for (int64_t i = 0; i < w.D; ++i)
    for (int64_t t = 0; t < T; ++t) now[static_cast<size_t>(t)] += bias.data[i] * w.of.wq[i * (w.Dq + T) + w.Dq + t];
  for (int64_t t = 0; t < T; ++t)
    total[static_cast<size_t>(T + t)] -=
        std::sin(w.phase[static_cast<size_t>(t)]) * static_cast<double>(now[static_cast<size_t>(t)]);
  storer<double>(to.time_w.scalar_type())(to.time_w.data_ptr(), 0, T, total.data());
  storer<double>(to.time_b.scalar_type())(to.time_b.data_ptr(), 0, T, total.data() + T);
}

// The gradient of a table: of what roots point at (by_row, or null), and of neighbours' rows (source, or null). By
// slices of columns, each added up in the order of the roots, so that hubs cost no balance and threads change no bit.
template <class A>
void add_table(const Layer<A>& layer, const A* by_row, int64_t by_row_ld, const TableSource<A>* source,
               const A* coefficients, Tensor& grad) {
  const int64_t U = grad.size(0), dim = grad.size(1), H = layer.in.shape.H, K = layer.in.shape.K, L = kLanes<A>,
                slots = layer.in.shape.slots;
  const RootOrder& order = layer.order;
  const Store<A> store = storer<A>(grad.scalar_type());
  void* to = grad.data_ptr();
  parallel_chunks((dim + L - 1) / L, 1, [&](int64_t s, int64_t) {
    const int64_t columns = std::min(L, dim - s * L);
    Scratch<A> memory(U * L);
    A* slice = memory.get();
    std::fill_n(slice, U * L, A{0});
    int64_t distinct = -1;
    for (int64_t p = 0; p < order.R(); ++p) {
      const bool new_row = order.new_row(p);
      distinct += new_row;
      if (by_row != nullptr && new_row) {
        A* row = slice + order.row[static_cast<size_t>(p)] * L;
        for (int64_t j = 0; j < L; ++j) row[j] += by_row[distinct * by_row_ld + s * L + j];
      }
      if (source == nullptr) continue;
      const int64_t n = layer.in.nbrs.count[order.root[static_cast<size_t>(p)]];
      add_to_slice(source->row + p * K, n, source->dz + (s * order.R() + p) * H * L,
                   source->u + (s * order.rows() + distinct) * H * L, coefficients + p * 2 * H * slots, H, slots,
                   slice);
    }
    for (int64_t i = 0; i < U; ++i) store(to, i * dim + s * L, columns, slice + i * L);
  });
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
  with_layer(call, true, [&](auto layer) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(layer.in.shape.scale)>>;
    const AttentionShape<A>& a = layer.in.shape;
    const RootOrder& order = layer.order;
    const ScalarType acc = acc_type(node_table);
    const int64_t R = order.R(), T = layer.w.T, blocks = order.blocks(), groups = groups_of(blocks);
    layer.saved = {const_cast<A*>(ptr<A>(logit)), const_cast<A*>(ptr<A>(attended)), const_cast<A*>(ptr<A>(out)),
                   const_cast<A*>(ptr<A>(mean)), const_cast<A*>(ptr<A>(rstd))};
    const int64_t row_ld = round_up(layer.w.Dq, kLanes<A>);
    Tensor by_row = empty({order.rows(), row_ld}, acc), coefficients = empty({R, 2 * heads, a.slots}, acc);
    LayerGradients<A> gradients{
        grad.data_ptr(), loader<A>(grad.scalar_type()), ptr<A>(by_row), ptr<A>(coefficients), {}};
    std::vector<Tensor> kept;
    const auto add_source = [&](bool edges, int64_t column, int64_t columns) {
      const int64_t slices = (columns + kLanes<A> - 1) / kLanes<A>;
      kept.push_back(empty({slices, R, heads, kLanes<A>}, acc));
      kept.push_back(empty({slices, order.rows(), heads, kLanes<A>}, acc));
      kept.push_back(empty({R, a.K}, ScalarType::Long));
      const auto n = kept.size();
      gradients.tables.push_back(
          {edges, column, columns, ptr<A>(kept[n - 3]), ptr<A>(kept[n - 2]), ptr<int64_t>(kept[n - 1])});
    };
    if (need_node) add_source(false, 0, a.Dn);
    if (need_edge) add_source(true, a.Dn, a.De);

    GroupSums<A> sums(groups, a, layer.w);
    std::vector<double> time(static_cast<size_t>(groups * 2 * T));
    shared_tasks(
        groups, [&] { return LayerWork<A>(a, layer.w); },
        [&](LayerWork<A>& m, int64_t g) {
          std::fill_n(m.scratch.grad_w, T, 0.0);
          std::fill_n(m.scratch.grad_b, T, 0.0);
          for (int64_t block = g; block < blocks; block += groups)
            layer.backward(block, m, gradients, sums.group(g), block == g);
          std::copy_n(m.scratch.grad_w, T, time.data() + g * 2 * T);
          std::copy_n(m.scratch.grad_b, T, time.data() + g * 2 * T + T);
        });
    store_weights(sums, layer.w, to);
    store_time(time, layer.w, to.bq, to);
    const TableSource<A>* sources = gradients.tables.data();
    const A *rows = ptr<A>(by_row), *c = ptr<A>(coefficients);
    if (need_node) add_table(layer, root_table ? nullptr : rows, row_ld, sources++, c, to.node);
    if (need_edge) add_table<A>(layer, nullptr, 0, sources, c, to.edge);
    if (need_root && root_table) add_table<A>(layer, rows, row_ld, nullptr, c, to.root);
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
