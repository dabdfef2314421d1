// What the bindings of temporal attention share: inputs of any dtype, the checked block, the gradient of a table.
#pragma once

#include <cstring>
#include <optional>

#include "common.h"
#include "temporal_attention.h"

namespace gnnaccel {

inline constexpr const char* kAttention = "temporal_attention";
// Neighbours a task, about; fixed, so that sums do not depend on the number of threads.
inline constexpr int64_t kChunkEdges = 256;

// Copies n values of any dtype into A, resp. A into any dtype.
template <class A>
using Load = void (*)(const void* from, int64_t offset, int64_t n, A* to);
template <class A>
using Store = void (*)(void* to, int64_t offset, int64_t n, const A* from);

template <class A>
Load<A> loader(ScalarType dtype) {
  Load<A> load = nullptr;
  dispatch_floating(dtype, kAttention, [&](auto tag) {
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
  dispatch_floating(dtype, kAttention, [&](auto tag) {
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
struct RowSource {
  const void* data;
  int64_t stride0, stride1, item;
  Load<A> load;

  RowSource(const Tensor& t, int64_t n)
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
  void prefetch(int64_t i, int64_t j = 0) const {
    const char* p = static_cast<const char*>(data) + (i * stride0 + j * stride1) * item;
    for (int64_t b = 0; b < n_ * item; b += 64) __builtin_prefetch(p + b, 0, 3);
  }

 private:
  int64_t n_;
};

// Frequencies and phases as encode_time takes them.
template <class A>
struct AngleWeights {
  std::vector<double> w, b;

  AngleWeights(const Tensor& w_in, const Tensor& b_in)
      : w(to_double(w_in, kUnit, kAttention)), b(to_double(b_in, kUnit, kAttention)) {
    w.resize(static_cast<size_t>(round_up(w_in.numel(), 16)));
    b.resize(w.size());
  }

 private:
  static constexpr double kUnit = std::is_same_v<A, double> ? 1.0 : kInvTwoPi;
};

// Gradients of frequencies and phases, a part a task, added up in the order of the tasks.
class TimeGradient {
 public:
  TimeGradient(int64_t tasks, int64_t T) : T_(T), part_(static_cast<size_t>(tasks * 2 * T)) {}

  template <class A>
  void begin(AttentionScratch<A>& m) const {
    std::fill_n(m.grad_w, T_, 0.0);
    std::fill_n(m.grad_b, T_, 0.0);
  }
  template <class A>
  void end(const AttentionScratch<A>& m, int64_t task) {
    std::copy_n(m.grad_w, T_, part_.data() + task * 2 * T_);
    std::copy_n(m.grad_b, T_, part_.data() + task * 2 * T_ + T_);
  }
  void finish(Tensor& grad_w, Tensor& grad_b) const {
    std::vector<double> total(static_cast<size_t>(2 * T_), 0.0);
    for (size_t i = 0; i < part_.size(); ++i) total[i % total.size()] += part_[i];
    storer<double>(grad_w.scalar_type())(grad_w.data_ptr(), 0, T_, total.data());
    storer<double>(grad_b.scalar_type())(grad_b.data_ptr(), 0, T_, total.data() + T_);
  }

 private:
  int64_t T_;
  std::vector<double> part_;
};

// The block, checked: every used row is in range.
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
    const std::string op = kAttention;
    int64_t work = kChunkEdges;
    for (int64_t r = 0; r < R; ++r) {
      if (work >= kChunkEdges) {
        chunk.push_back(r);
        work = 0;
      }
      work += count[r] + 1;
      if (count[r] < 0 || count[r] > K) throw std::invalid_argument(op + ": count must be in [0, K]");
    }
    chunk.push_back(R);
    const auto check = [&](const char* name, const void* ids, ScalarType type, int64_t size) {
      if (type == ScalarType::Int ? outside(static_cast<const int32_t*>(ids), size)
                                  : outside(static_cast<const int64_t*>(ids), size))
        throw std::invalid_argument(op + ": " + name + " must be in [0, " + std::to_string(size) + ") before count");
    };
    check("nbr_row", node, node_type, num_nodes);
    if (num_edges >= 0) check("edge_row", edge, edge_type, num_edges);
  }

  int64_t tasks() const { return static_cast<int64_t>(chunk.size()) - 1; }

 private:
  template <class T>
  bool outside(const T* ids, int64_t size) const {
    bool bad = false;
    for (int64_t r = 0; r < R; ++r)
      for (int64_t i = r * K; i < r * K + count[r]; ++i) bad |= ids[i] < 0 || static_cast<int64_t>(ids[i]) >= size;
    return bad;
  }
};

// A root's inputs besides its query, and what every pass does first: gather.
template <class A>
struct Problem {
  AttentionShape<A> shape;
  const Neighbors& nbrs;
  RowSource<A> node, edge;
  bool has_edge;

  // Root r, whose neighbours are n; then come those of root `next` (-1 for none).
  void gather(AttentionScratch<A>& m, int64_t r, int64_t n, int64_t next) const {
    const AttentionShape<A>& a = shape;
    for (int64_t k = 0; k < n; ++k) {
      node.get_row(nbrs.node_row(r, k), m.x + k * a.width);
      if (has_edge) edge.get_row(nbrs.edge_row(r, k), m.x + k * a.width + a.Dn);
      m.dt[k] = nbrs.time(r, k);
    }
    // edge rows; node rows are few and stay in the cache
    if (has_edge && next >= 0)
      for (int64_t k = 0; k < nbrs.count[next]; ++k) edge.prefetch(nbrs.edge_row(next, k));
  }
};

// Calls f(Problem<A>) with contiguous inputs; `extra` columns follow the time encoding in every row.
template <class F>
void with_problem(ScalarType dtype, int64_t H, int64_t extra, const Tensor& node_in,
                  const std::optional<Tensor>& edge_in, const Tensor& nbr_in, const Tensor& edge_row_in,
                  const Tensor& dt_in, const Tensor& count_in, const Tensor& w_in, const Tensor& b_in, double scale,
                  double slope, double dropout, int64_t seed, const F& f) {
  const Tensor node = with_dense_rows(node_in), edge = edge_in ? with_dense_rows(*edge_in) : node;
  const Tensor nbr = torch::stable::contiguous(nbr_in), edge_row = torch::stable::contiguous(edge_row_in);
  const Tensor dt = torch::stable::contiguous(dt_in), count = torch::stable::contiguous(count_in);
  const Tensor w = torch::stable::contiguous(w_in), b = torch::stable::contiguous(b_in);
  const bool has_edge = edge_in.has_value();
  const Neighbors nbrs(nbr, edge_row, dt, count, node.size(0), has_edge ? edge.size(0) : -1);
  const auto run = [&](auto tag) {
    using A = decltype(tag);
    const AngleWeights<A> time(w, b);
    const int64_t Dn = node.size(1), De = has_edge ? edge.size(1) : 0, T = w.numel(), F_ = Dn + De + T + extra;
    const AttentionShape<A> a{AttentionDropout(dropout, seed, H, nbrs.K),
                              nbrs.K,
                              H,
                              Dn,
                              De,
                              T,
                              F_,
                              round_up(F_, kLanes<A>),
                              round_up(nbrs.K, 16),
                              static_cast<A>(scale),
                              static_cast<A>(slope),
                              time.w.data(),
                              time.b.data()};
    f(Problem<A>{a, nbrs, RowSource<A>(node, Dn), RowSource<A>(edge, De), has_edge});
  };
  if (dtype == ScalarType::Double) return run(double{});
  run(float{});
}

inline ScalarType acc_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Gradient of the columns [column, column + dim) of x by table row, given the row weights [R, 2 H, K]. The work is
// divided by columns: each thread adds up all contributions to its columns in the order of the roots, so hubs cost no
// balance and any division gives the same bits. make_source(first column, columns) returns a function root -> [2 H,
// columns]: those of dz, then of u.
template <class A, class RowOf, class MakeSource>
Tensor table_gradient(const Problem<A>& in, const std::vector<A>& weight, ScalarType dtype, int64_t rows,
                      int64_t column, int64_t dim, const RowOf& row_of, const MakeSource& make_source) {
  const int64_t H = in.shape.H, K = in.nbrs.K;
  constexpr ScalarType kAcc = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
  Tensor grad = empty({rows, dim}, dtype);
  Tensor sum = dtype == kAcc ? grad : empty({rows, dim}, kAcc);
  A* const table = ptr<A>(sum);
  torch::stable::parallel_for(0, (dim + kLanes<A> - 1) / kLanes<A>, 1, [&](int64_t first, int64_t last) {
    const int64_t c0 = first * kLanes<A>, columns = std::min(dim, last * kLanes<A>) - c0;
    A* out = table + c0;
    for (int64_t i = 0; i < rows; ++i) std::fill_n(out + i * dim, columns, A{0});
    auto source = make_source(column + c0, columns);
    std::vector<int64_t> row(static_cast<size_t>(K));
    for (int64_t r = 0; r < in.nbrs.R; ++r) {
      const int64_t n = in.nbrs.count[r];
      if (n == 0) continue;
      for (int64_t k = 0; k < n; ++k) row[static_cast<size_t>(k)] = row_of(r, k);
      scatter_root(out, dim, row.data(), n, source(r), weight.data() + r * 2 * H * K, K, 2 * H, columns);
    }
  });
  if (dtype != kAcc) {
    const Store<A> store = storer<A>(dtype);
    void* to = grad.data_ptr();
    parallel_chunks(rows * dim, 1 << 14,
                    [&](int64_t begin, int64_t end) { store(to, begin, end - begin, table + begin); });
  }
  return grad;
}

}  // namespace gnnaccel
