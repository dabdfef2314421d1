#include "temporal_attention.h"

#include <cstring>
#include <optional>
#include <tuple>

#include "common.h"

namespace gnnaccel {
namespace {

constexpr const char* kOp = "temporal_attention";
constexpr int64_t kChunkEdges =
    256;  // neighbours a task, about; fixed, so that sums do not depend on the number of threads

std::vector<double> to_double(const Tensor& t, double factor) {
  std::vector<double> out(static_cast<size_t>(t.numel()));
  dispatch_floating(t.scalar_type(), kOp, [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(t);
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<double>(p[i]) * factor;
  });
  return out;
}

// Copies n values of any dtype into A, resp. A into any dtype.
template <class A>
using Load = void (*)(const void* from, int64_t offset, int64_t n, A* to);
template <class A>
using Store = void (*)(void* to, int64_t offset, int64_t n, const A* from);

template <class A>
Load<A> loader(ScalarType dtype) {
  Load<A> load = nullptr;
  dispatch_floating(dtype, kOp, [&](auto tag) {
    load = [](const void* from, int64_t offset, int64_t n, A* to) {
      const auto* p = static_cast<const decltype(tag)*>(from) + offset;
      if constexpr (std::is_same_v<decltype(tag), A>) {
        std::memcpy(to, p, static_cast<size_t>(n) * sizeof(A));
      } else {
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(p[i]);
      }
    };
  });
  return load;
}

template <class A>
Store<A> storer(ScalarType dtype) {
  Store<A> store = nullptr;
  dispatch_floating(dtype, kOp, [&](auto tag) {
    store = [](void* to, int64_t offset, int64_t n, const A* from) {
      auto* p = static_cast<decltype(tag)*>(to) + offset;
      if constexpr (std::is_same_v<decltype(tag), A>) {
        std::memcpy(p, from, static_cast<size_t>(n) * sizeof(A));
      } else {
        for (int64_t i = 0; i < n; ++i) p[i] = static_cast<decltype(tag)>(from[i]);
      }
    };
  });
  return store;
}

// A read-only [R, H, n] or [U, n] tensor whose last dimension is dense.
template <class A>
struct Rows {
  const void* data;
  int64_t stride0, stride1, item;
  Load<A> load;

  Rows(const Tensor& t, int64_t n)
      : data(t.data_ptr()),
        stride0(t.dim() > 0 ? t.stride(0) : 0),
        stride1(t.dim() > 1 ? t.stride(1) : 0),
        item(static_cast<int64_t>(t.element_size())),
        load(loader<A>(t.scalar_type())),
        n_(n) {}

  void get(int64_t i, int64_t j, A* to) const { load(data, i * stride0 + j * stride1, n_, to); }
  void get_row(int64_t i, A* to) const { load(data, i * stride0, n_, to); }
  void get_part(int64_t i, int64_t j, int64_t first, int64_t n, A* to) const {
    load(data, i * stride0 + j * stride1 + first, n, to);
  }
  void prefetch(int64_t i) const {
    const char* p = static_cast<const char*>(data) + i * stride0 * item;
    for (int64_t b = 0; b < n_ * item; b += 64) __builtin_prefetch(p + b, 0, 3);
  }

 private:
  int64_t n_;
};

struct Neighbors {
  int64_t R, K;
  std::vector<int64_t> chunk;  // roots [chunk[i], chunk[i + 1]) are task i
  const int32_t* count;
  const void *node, *edge, *dt;
  ScalarType node_type, edge_type, dt_type;

  static int64_t at(const void* ids, ScalarType type, int64_t i) {
    return type == ScalarType::Int ? static_cast<const int32_t*>(ids)[i] : static_cast<const int64_t*>(ids)[i];
  }
  int64_t node_row(int64_t r, int64_t k) const { return at(node, node_type, r * K + k); }
  int64_t edge_row(int64_t r, int64_t k) const { return at(edge, edge_type, r * K + k); }
  double time(int64_t r, int64_t k) const {
    const int64_t i = r * K + k;
    if (dt_type == ScalarType::Long) return static_cast<double>(static_cast<const int64_t*>(dt)[i]);
    return dt_type == ScalarType::Double ? static_cast<const double*>(dt)[i] : static_cast<const float*>(dt)[i];
  }

  Neighbors(const Tensor& nbr_row, const Tensor& edges, const Tensor& times, const Tensor& counts, int64_t num_nodes,
            int64_t num_edges)
      : R(nbr_row.size(0)),
        K(nbr_row.size(1)),
        count(ptr<int32_t>(counts)),
        node(nbr_row.data_ptr()),
        edge(edges.data_ptr()),
        dt(times.data_ptr()),
        node_type(nbr_row.scalar_type()),
        edge_type(edges.scalar_type()),
        dt_type(times.scalar_type()) {
    // as unsigned, so that negative rows are too large as well
    const auto too_large = [](int64_t row, int64_t size) {
      return static_cast<uint64_t>(row) >= static_cast<uint64_t>(size);
    };
    bool bad_count = false, bad_node = false, bad_edge = false;
    int64_t work = kChunkEdges;
    for (int64_t r = 0; r < R; ++r) {
      if (work >= kChunkEdges) {
        chunk.push_back(r);
        work = 0;
      }
      work += count[r] + 1;
      if (count[r] < 0 || count[r] > K) {
        bad_count = true;
        break;
      }
      for (int64_t k = 0; k < count[r]; ++k) bad_node |= too_large(node_row(r, k), num_nodes);
      if (num_edges >= 0)
        for (int64_t k = 0; k < count[r]; ++k) bad_edge |= too_large(edge_row(r, k), num_edges);
    }
    chunk.push_back(R);
    const std::string op = kOp;
    if (bad_count) throw std::runtime_error(op + ": count must be in [0, K]");
    const auto range = [](int64_t size) { return " must be in [0, " + std::to_string(size) + ") before count"; };
    if (bad_node) throw std::runtime_error(op + ": nbr_row" + range(num_nodes));
    if (bad_edge) throw std::runtime_error(op + ": edge_row" + range(num_edges));
  }

  int64_t tasks() const { return static_cast<int64_t>(chunk.size()) - 1; }
};

// The op's inputs, and what both passes do first for a root: gather.
template <class A>
struct Problem {
  AttentionShape<A> shape;
  const Neighbors& nbrs;
  Rows<A> u, node, edge;
  bool has_edge;

  void gather(AttentionScratch<A>& m, int64_t r, int64_t n) const {
    const AttentionShape<A>& a = shape;
    for (int64_t k = 0; k < n; ++k) {
      node.get_row(nbrs.node_row(r, k), m.x + k * a.width);
      if (has_edge) edge.get_row(nbrs.edge_row(r, k), m.x + k * a.width + a.Dn);
      m.dt[k] = nbrs.time(r, k);
    }
    for (int64_t h = 0; h < a.H; ++h) u.get(r, h, m.q + h * a.width);
    // the next root's edge rows; node rows are few and stay in the cache
    if (has_edge && r + 1 < nbrs.R)
      for (int64_t k = 0; k < nbrs.count[r + 1]; ++k) edge.prefetch(nbrs.edge_row(r + 1, k));
  }
};

Tensor dense_last(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

// Calls f(Problem<A>) with contiguous inputs.
template <class F>
void with_problem(const Tensor& u_in, const Tensor& node_in, const std::optional<Tensor>& edge_in, const Tensor& nbr_in,
                  const Tensor& edge_row_in, const Tensor& dt_in, const Tensor& count_in, const Tensor& w_in,
                  const Tensor& b_in, double scale, double slope, double dropout, int64_t seed, const F& f) {
  const Tensor u = dense_last(u_in), node = dense_last(node_in), edge = edge_in ? dense_last(*edge_in) : node;
  const Tensor nbr = torch::stable::contiguous(nbr_in), edge_row = torch::stable::contiguous(edge_row_in);
  const Tensor dt = torch::stable::contiguous(dt_in), count = torch::stable::contiguous(count_in);
  const Tensor w = torch::stable::contiguous(w_in), b = torch::stable::contiguous(b_in);
  const bool has_edge = edge_in.has_value();
  const Neighbors nbrs(nbr, edge_row, dt, count, node.size(0), has_edge ? edge.size(0) : -1);
  const auto run = [&](auto tag) {
    using A = decltype(tag);
    const double unit = std::is_same_v<A, double> ? 1.0 : kInvTwoPi;
    const auto wd = to_double(w, unit), bd = to_double(b, unit);
    const int64_t Dn = node.size(1), De = has_edge ? edge.size(1) : 0, T = w.numel(), F_ = Dn + De + T;
    AttentionShape<A> a;
    a.K = nbrs.K, a.H = u.size(1), a.Dn = Dn, a.De = De, a.T = T, a.F = F_;
    a.width = round_up(F_, kLanes<A>), a.slots = round_up(nbrs.K, 16);
    a.scale = static_cast<A>(scale), a.slope = static_cast<A>(slope), a.w = wd.data(), a.b = bd.data();
    a.dropout.key0 = static_cast<uint32_t>(seed);
    a.dropout.key1 = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
    a.dropout.threshold = static_cast<uint32_t>(dropout * 16777216.0);
    a.dropout.keep_scale = 1.0 / (1.0 - dropout);
    f(Problem<A>{a, nbrs, Rows<A>(u, F_), Rows<A>(node, Dn), Rows<A>(edge, De), has_edge});
  };
  if (u.scalar_type() == ScalarType::Double) return run(double{});
  run(float{});
}

ScalarType acc_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

std::tuple<Tensor, Tensor, Tensor> temporal_attention_cpu(const Tensor& u, const Tensor& c_in, const Tensor& node_table,
                                                          std::optional<Tensor> edge_table, const Tensor& nbr_row,
                                                          const Tensor& edge_row, const Tensor& dt, const Tensor& count,
                                                          const Tensor& time_w, const Tensor& time_b, double scale,
                                                          double slope, double dropout, int64_t seed, bool) {
  const int64_t R = u.size(0), H = u.size(1), F_ = u.size(2), K = nbr_row.size(1);
  const Tensor c = dense_last(c_in);
  Tensor z = empty({R, H, F_}, u.scalar_type()), s = empty({R, H}, u.scalar_type()),
         logit = empty({R, H, K}, acc_type(u));
  with_problem(u, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, scale, slope, dropout, seed,
               [&](const auto& in) {
                 using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
                 const AttentionShape<A>& a = in.shape;
                 const Rows<A> c_rows(c, H);
                 const Store<A> store = storer<A>(u.scalar_type());
                 void *z_out = z.data_ptr(), *s_out = s.data_ptr();
                 A* logit_out = ptr<A>(logit);

                 torch::stable::parallel_for(0, in.nbrs.tasks(), 1, [&](int64_t first, int64_t last) {
                   AttentionScratch<A> m(a);
                   for (int64_t r = in.nbrs.chunk[static_cast<size_t>(first)];
                        r < in.nbrs.chunk[static_cast<size_t>(last)]; ++r) {
                     const int64_t n = in.nbrs.count[r];
                     if (n > 0) {
                       in.gather(m, r, n);
                       c_rows.get_row(r, m.c);
                       attend_root(a, m, r, n);
                     } else {
                       std::fill_n(m.z, H * a.width, A{0});
                       std::fill_n(m.s, H, A{0});
                     }
                     for (int64_t h = 0; h < H; ++h) {
                       A* out = logit_out + (r * H + h) * K;
                       std::copy_n(m.logit + h * a.slots, n, out);
                       std::fill_n(out + n, K - n, A{0});
                       store(z_out, (r * H + h) * F_, F_, m.z + h * a.width);
                     }
                     store(s_out, r * H, H, m.s);
                   }
                 });
               });
  return {z, s, logit};
}

// Gradient of the columns [column, column + dim) of x by table row. The work is divided by columns: each thread adds up
// all contributions to its columns in the order of the roots, so hubs cost no balance and any division gives the same
// bits.
template <class A, class RowOf>
Tensor table_gradient(const Problem<A>& in, const Rows<A>& dz, const std::vector<A>& weight, ScalarType dtype,
                      int64_t rows, int64_t column, int64_t dim, const RowOf& row_of) {
  const int64_t H = in.shape.H, K = in.nbrs.K;
  const bool direct = dtype == (std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float);
  Tensor grad = empty({rows, dim}, dtype);
  Tensor sum = direct ? grad : empty({rows, dim}, std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float);
  torch::stable::parallel_for(0, (dim + kLanes<A> - 1) / kLanes<A>, 1, [&](int64_t first, int64_t last) {
    const int64_t c0 = first * kLanes<A>, columns = std::min(dim, last * kLanes<A>) - c0;
    std::vector<A> source(static_cast<size_t>(2 * H * columns));
    std::vector<int64_t> row(static_cast<size_t>(K));
    A* out = ptr<A>(sum) + c0;
    for (int64_t i = 0; i < rows; ++i) std::fill_n(out + i * dim, columns, A{0});
    for (int64_t r = 0; r < in.nbrs.R; ++r) {
      const int64_t n = in.nbrs.count[r];
      if (n == 0) continue;
      for (int64_t h = 0; h < H; ++h) {
        dz.get_part(r, h, column + c0, columns, source.data() + h * columns);
        in.u.get_part(r, h, column + c0, columns, source.data() + (H + h) * columns);
      }
      for (int64_t k = 0; k < n; ++k) row[static_cast<size_t>(k)] = row_of(r, k);
      scatter_root(out, dim, row.data(), n, source.data(), weight.data() + r * 2 * H * K, K, 2 * H, columns);
    }
  });
  if (!direct) {
    const Store<A> store = storer<A>(dtype);
    parallel_chunks(rows * dim, 1 << 14, [&](int64_t begin, int64_t end) {
      store(grad.data_ptr(), begin, end - begin, ptr<A>(sum) + begin);
    });
  }
  return grad;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> temporal_attention_backward_cpu(
    const Tensor& grad_z, const Tensor& grad_s, const Tensor& u, const Tensor& node_table,
    std::optional<Tensor> edge_table, const Tensor& nbr_row, const Tensor& edge_row, const Tensor& dt,
    const Tensor& count, const Tensor& time_w, const Tensor& time_b, const Tensor& logit_in, double scale, double slope,
    double dropout, int64_t seed, bool, bool need_node, bool need_edge) {
  const int64_t R = u.size(0), H = u.size(1), F_ = u.size(2), K = nbr_row.size(1), T = time_w.numel();
  const Tensor dz_in = dense_last(grad_z), ds_in = dense_last(grad_s), logits = torch::stable::contiguous(logit_in);
  Tensor du = empty({R, H, F_}, u.scalar_type()), dc = empty({R, H}, u.scalar_type());
  Tensor grad_w = empty({T}, time_w.scalar_type()), grad_b = empty({T}, time_b.scalar_type());
  Tensor grad_node = empty({0}, node_table.scalar_type());
  Tensor grad_edge = empty({0}, edge_table ? edge_table->scalar_type() : node_table.scalar_type());
  with_problem(u, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, scale, slope, dropout, seed,
               [&](const auto& in) {
                 using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
                 const AttentionShape<A>& a = in.shape;
                 const Rows<A> dz(dz_in, F_), ds(ds_in, H);
                 const Store<A> store = storer<A>(u.scalar_type());
                 void *du_out = du.data_ptr(), *dc_out = dc.data_ptr();
                 const A* logit_data = ptr<A>(logits);

                 const bool scatters = need_node || need_edge;
                 // row weights for the table gradients, [R, 2 H, K]
                 std::vector<A> weight(static_cast<size_t>(scatters ? R * 2 * H * K : 0));
                 std::vector<double> partial(static_cast<size_t>(in.nbrs.tasks() * 2 * T));
                 torch::stable::parallel_for(0, in.nbrs.tasks(), 1, [&](int64_t first, int64_t last) {
                   AttentionScratch<A> m(a);
                   for (int64_t task = first; task < last; ++task) {
                     std::fill_n(m.grad_w, T, 0.0);
                     std::fill_n(m.grad_b, T, 0.0);
                     for (int64_t r = in.nbrs.chunk[static_cast<size_t>(task)];
                          r < in.nbrs.chunk[static_cast<size_t>(task) + 1]; ++r) {
                       const int64_t n = in.nbrs.count[r];
                       if (n > 0) {
                         in.gather(m, r, n);
                         for (int64_t h = 0; h < H; ++h) {
                           dz.get(r, h, m.dz + h * a.width);
                           std::copy_n(logit_data + (r * H + h) * K, n, m.logit + h * a.slots);
                         }
                         ds.get_row(r, m.ds);
                         attend_root_backward(a, m, r, n);
                         if (scatters)
                           for (int64_t h = 0; h < H; ++h) {
                             std::copy_n(m.p + h * a.slots, n, weight.data() + (r * 2 * H + h) * K);
                             std::copy_n(m.e + h * a.slots, n, weight.data() + (r * 2 * H + H + h) * K);
                           }
                       } else {
                         std::fill_n(m.z, H * a.width, A{0});
                         std::fill_n(m.dc, H, A{0});
                       }
                       for (int64_t h = 0; h < H; ++h) store(du_out, (r * H + h) * F_, F_, m.z + h * a.width);
                       store(dc_out, r * H, H, m.dc);
                     }
                     std::copy_n(m.grad_w, T, partial.data() + task * 2 * T);
                     std::copy_n(m.grad_b, T, partial.data() + task * 2 * T + T);
                   }
                 });
                 std::vector<double> total(static_cast<size_t>(2 * T), 0.0);
                 for (size_t i = 0; i < partial.size(); ++i) total[i % total.size()] += partial[i];
                 storer<double>(time_w.scalar_type())(grad_w.data_ptr(), 0, T, total.data());
                 storer<double>(time_b.scalar_type())(grad_b.data_ptr(), 0, T, total.data() + T);
                 if (need_node)
                   grad_node = table_gradient(in, dz, weight, node_table.scalar_type(), node_table.size(0), 0, a.Dn,
                                              [&](int64_t r, int64_t k) { return in.nbrs.node_row(r, k); });
                 if (need_edge)
                   grad_edge = table_gradient(in, dz, weight, edge_table->scalar_type(), edge_table->size(0), a.Dn,
                                              a.De, [&](int64_t r, int64_t k) { return in.nbrs.edge_row(r, k); });
               });
  return {du, dc, grad_node, grad_edge, grad_w, grad_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("temporal_attention", TORCH_BOX(&gnnaccel::temporal_attention_cpu));
  m.impl("temporal_attention_backward", TORCH_BOX(&gnnaccel::temporal_attention_backward_cpu));
}
