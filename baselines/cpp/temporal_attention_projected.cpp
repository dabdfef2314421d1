// Temporal attention between its projections: a few roots at a time are carried into the space of the neighbour rows,
// attend, and are carried back, all in one core's cache. Neither u, z nor their gradients exist for all roots at once.
//
// Every neighbour row gets one more column that is 1, and every weight row its bias: then u . x contains q . bk, and
// the sum of the weights is the last column of z, which meets bv. So biases need no code of their own.
#include <tuple>

#include "gemm.h"
#include "temporal_attention_io.h"

namespace gnnaccel {
namespace {

constexpr int64_t kBlock = 64;      // roots carried at a time for the gradient of a table
constexpr int64_t kMaxGroups = 16;  // partial sums of the weight gradients; fixed, so that threads do not matter

// The two weights [H d, F] with their biases as column F, and packed per head for the products of both passes.
template <class A>
struct HeadWeights {
  int64_t H, d, F;  // F counts the bias
  std::vector<A> plain;
  std::vector<std::unique_ptr<Panels<A>>> into, out_of;

  HeadWeights(const Tensor& weight_in, const Tensor& bias_in, int64_t heads) : H(heads) {
    const Tensor weight = torch::stable::contiguous(weight_in), bias = torch::stable::contiguous(bias_in);
    d = weight.size(0) / H, F = weight.size(1) + 1;
    plain.resize(static_cast<size_t>(H * d * F));
    const Load<A> load = loader<A>(weight.scalar_type());
    for (int64_t i = 0; i < H * d; ++i) {
      load(weight.data_ptr(), i * (F - 1), F - 1, plain.data() + i * F);
      load(bias.data_ptr(), i, 1, plain.data() + i * F + F - 1);
    }
  }
  const A* head(int64_t h) const { return plain.data() + h * d * F; }
  // [n, d] of a head times it: into the space of rows.
  void pack_into() {
    for (int64_t h = 0; h < H; ++h) {
      into.push_back(std::make_unique<Panels<A>>(d, F));
      for (int64_t p = 0; p < into.back()->count(); ++p) into.back()->pack(head(h), F, p);
    }
  }
  // [n, F] times its transpose: out of it.
  void pack_out_of() {
    for (int64_t h = 0; h < H; ++h) {
      out_of.push_back(std::make_unique<Panels<A>>(F, d));
      for (int64_t p = 0; p < out_of.back()->count(); ++p) out_of.back()->pack_transposed(head(h), F, p);
    }
  }
};

// Products run over whole vectors of columns: panels are padded with zeros, and so are the results.
template <class A>
Packed<A> padded(Panels<A>& panels, int64_t N) {
  Packed<A> view = panels.view();
  view.N = round_up(N, kLanes<A>);
  return view;
}

// to[i, h] = from[i, head h] W_h for n rows; to has `ld` elements a root and `width` a head.
template <class A>
void carry_into(HeadWeights<A>& w, int64_t n, const A* from, A* to, int64_t ld, int64_t width) {
  for (int64_t h = 0; h < w.H; ++h) {
    Panels<A>& panels = *w.into[static_cast<size_t>(h)];
    gemm_panels<A>(n, left_rows(from + h * w.d, w.H * w.d), padded(panels, w.F), 0, panels.count(), to + h * width, ld,
                   {});
  }
}

// to[i, head h] = from[i, h] W_h^T, by way of `wide` [n, H, d padded].
template <class A>
void carry_out(HeadWeights<A>& w, int64_t n, const A* from, int64_t ld, int64_t width, A* wide, A* to) {
  const int64_t dp = round_up(w.d, kLanes<A>);
  for (int64_t h = 0; h < w.H; ++h) {
    Panels<A>& panels = *w.out_of[static_cast<size_t>(h)];
    gemm_panels<A>(n, left_rows(from + h * width, ld), padded(panels, w.d), 0, panels.count(), wide + h * dp, w.H * dp,
                   {});
  }
  for (int64_t i = 0; i < n * w.H; ++i) std::copy_n(wide + i * dp, w.d, to + i * w.d);
}

int64_t rows_of(const Neighbors& nbrs, int64_t task) {
  return nbrs.chunk[static_cast<size_t>(task) + 1] - nbrs.chunk[static_cast<size_t>(task)];
}

int64_t most_rows(const Neighbors& nbrs) {
  int64_t most = 0;
  for (int64_t task = 0; task < nbrs.tasks(); ++task) most = std::max(most, rows_of(nbrs, task));
  return most;
}

// Elements between roots in a buffer [roots, H, width]: an odd number of cache lines, since products read its columns.
template <class A>
int64_t root_stride(const AttentionShape<A>& a) {
  const int64_t lines = a.H * a.width / kLanes<A>;
  return (lines | 1) * kLanes<A>;
}

template <class A>
void add_ones(const AttentionShape<A>& a, AttentionScratch<A>& m) {
  for (int64_t k = 0; k < a.K; ++k) m.x[k * a.width + a.F - 1] = 1;
}

std::tuple<Tensor, Tensor> projected_cpu(const Tensor& q_in, const Tensor& wk, const Tensor& bk, const Tensor& wv,
                                         const Tensor& bv, const Tensor& node_table, std::optional<Tensor> edge_table,
                                         const Tensor& nbr_row, const Tensor& edge_row, const Tensor& dt,
                                         const Tensor& count, const Tensor& time_w, const Tensor& time_b, double scale,
                                         double slope, double dropout, int64_t seed, bool) {
  const Tensor q = torch::stable::contiguous(q_in);
  const int64_t R = q.size(0), H = q.size(1), d = q.size(2), D = H * d, K = nbr_row.size(1);
  Tensor out = empty({R, H, d}, q.scalar_type()), logit = empty({R, H, K}, acc_type(q));
  const auto run = [&](const auto& in) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
    const AttentionShape<A>& a = in.shape;
    HeadWeights<A> key(wk, bk, H), value(wv, bv, H);
    key.pack_into();
    value.pack_out_of();
    const Load<A> load = loader<A>(q.scalar_type());
    const Store<A> store = storer<A>(q.scalar_type());
    const void* q_data = q.data_ptr();
    void* out_data = out.data_ptr();
    A* logit_data = ptr<A>(logit);
    const int64_t rows = most_rows(in.nbrs), ld = root_stride(a);
    torch::stable::parallel_for(0, in.nbrs.tasks(), 1, [&](int64_t first, int64_t last) {
      AttentionScratch<A> m(a);
      add_ones(a, m);
      Scratch<A> carried(rows * ld), head_rows(rows * (D + H * round_up(d, kLanes<A>)));
      A *u = carried.get(), *h_rows = head_rows.get(), *wide = h_rows + rows * D;
      std::fill_n(u, rows * ld, A{0});
      for (int64_t task = first; task < last; ++task) {
        const int64_t r0 = in.nbrs.chunk[static_cast<size_t>(task)], n_rows = rows_of(in.nbrs, task);
        load(q_data, r0 * D, n_rows * D, h_rows);
        carry_into(key, n_rows, h_rows, u, ld, a.width);
        for (int64_t i = 0; i < n_rows; ++i) {
          const int64_t r = r0 + i, n = in.nbrs.count[r];
          m.q = m.z = u + i * ld;  // z takes u's place
          if (n > 0) {
            in.gather(m, r, n);
            attend_root(a, m, r, n);
          } else {
            std::fill_n(m.z, H * a.width, A{0});
          }
          for (int64_t h = 0; h < H; ++h) {
            A* to = logit_data + (r * H + h) * K;
            std::copy_n(m.logit + h * a.slots, n, to);
            std::fill_n(to + n, K - n, A{0});
          }
        }
        carry_out(value, n_rows, u, ld, a.width, wide, h_rows);
        store(out_data, r0 * D, n_rows * D, h_rows);
      }
    });
  };
  with_problem(q.scalar_type(), H, 1, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, scale,
               slope, dropout, seed, run);
  return {out, logit};
}

// Sum [n] over groups, in order, of partial [groups, n].
template <class A>
std::vector<A> add_groups(const A* partial, int64_t groups, int64_t n) {
  std::vector<A> sum(static_cast<size_t>(n), A{0});
  parallel_chunks(n, 1 << 13, [&](int64_t begin, int64_t end) {
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t i = begin; i < end; ++i) sum[static_cast<size_t>(i)] += partial[g * n + i];
  });
  return sum;
}

// Gradients of a weight [D, F - 1] and its bias from [D, width].
template <class A>
void store_weight(const A* sum, int64_t D, int64_t F, int64_t width, Tensor& weight, Tensor& bias) {
  const Store<A> store = storer<A>(weight.scalar_type());
  void *weight_data = weight.data_ptr(), *bias_data = bias.data_ptr();
  for (int64_t i = 0; i < D; ++i) {
    store(weight_data, i * (F - 1), F - 1, sum + i * width);
    store(bias_data, i, 1, sum + i * width + F - 1);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> projected_backward_cpu(
    const Tensor& grad_in, const Tensor& q_in, const Tensor& wk, const Tensor& bk, const Tensor& wv, const Tensor& bv,
    const Tensor& node_table, std::optional<Tensor> edge_table, const Tensor& nbr_row, const Tensor& edge_row,
    const Tensor& dt, const Tensor& count, const Tensor& time_w, const Tensor& time_b, const Tensor& logit_in,
    double scale, double slope, double dropout, int64_t seed, bool, bool need_node, bool need_edge) {
  const Tensor q = torch::stable::contiguous(q_in), grad = torch::stable::contiguous(grad_in);
  const Tensor logits = torch::stable::contiguous(logit_in);
  const int64_t R = q.size(0), H = q.size(1), d = q.size(2), D = H * d, K = nbr_row.size(1), T = time_w.numel();
  const ScalarType dtype = q.scalar_type();
  Tensor dq = empty({R, H, d}, dtype), dwk = empty({D, wk.size(1)}, dtype), dbk = empty({D}, dtype);
  Tensor dwv = empty({D, wv.size(1)}, dtype), dbv = empty({D}, dtype);
  Tensor grad_w = empty({T}, time_w.scalar_type()), grad_b = empty({T}, time_b.scalar_type());
  Tensor grad_node = empty({0}, node_table.scalar_type());
  Tensor grad_edge = empty({0}, edge_table ? edge_table->scalar_type() : node_table.scalar_type());
  const auto run = [&](const auto& in) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
    const AttentionShape<A>& a = in.shape;
    HeadWeights<A> key(wk, bk, H), value(wv, bv, H);
    key.pack_into();
    key.pack_out_of();
    value.pack_into();
    const Load<A> load = loader<A>(dtype);
    const Store<A> store = storer<A>(dtype);
    const void *q_data = q.data_ptr(), *grad_data = grad.data_ptr();
    void* dq_data = dq.data_ptr();
    const A* logit_data = ptr<A>(logits);
    const bool scatters = need_node || need_edge;
    std::vector<A> weight(static_cast<size_t>(scatters ? R * 2 * H * K : 0));
    const int64_t rows = most_rows(in.nbrs), ld = root_stride(a), F = a.F, tasks = in.nbrs.tasks();
    const int64_t groups = std::min(tasks, kMaxGroups), per_weight = D * a.width;
    // of a group: key, value; each [H d, width]. From torch's allocator, whose statistics should tell of it
    Tensor partials = empty({groups, 2, per_weight}, acc_type(q));
    A* const partial = ptr<A>(partials);
    std::vector<double> partial_time(static_cast<size_t>(groups * 2 * T));
    torch::stable::parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
      AttentionScratch<A> m(a);
      add_ones(a, m);
      Scratch<A> carried(2 * rows * ld), head_rows(rows * (3 * D + H * round_up(d, kLanes<A>)));
      A *u = carried.get(), *dz = u + rows * ld;
      A *q_rows = head_rows.get(), *g_rows = q_rows + rows * D, *dq_rows = g_rows + rows * D,
        *wide = dq_rows + rows * D;
      std::fill_n(u, 2 * rows * ld, A{0});
      // dW_h [d, F padded] += heads_h^T [d, n] rows_h [n, F], both where they lie
      const int64_t mr = tile_set<A>().mr, nr = tile_set<A>().nr, padded_F = round_up(F, kLanes<A>);
      const auto add_weight = [&](int64_t n, const A* rows_h, const A* heads_h, A* sum) {
        gemm_panels<A>(d, {heads_h, 1, D, mr}, {rows_h, n, padded_F, nr, ld}, 0, panels_of(padded_F, nr), sum, a.width,
                       {nullptr, 0, true});
      };
      for (int64_t g = first; g < last; ++g) {
        A* sum = partial + g * 2 * per_weight;
        std::fill_n(sum, 2 * per_weight, A{0});
        std::fill_n(m.grad_w, T, 0.0);
        std::fill_n(m.grad_b, T, 0.0);
        for (int64_t task = tasks * g / groups; task < tasks * (g + 1) / groups; ++task) {
          const int64_t r0 = in.nbrs.chunk[static_cast<size_t>(task)], n_rows = rows_of(in.nbrs, task);
          load(q_data, r0 * D, n_rows * D, q_rows);
          load(grad_data, r0 * D, n_rows * D, g_rows);
          carry_into(key, n_rows, q_rows, u, ld, a.width);
          carry_into(value, n_rows, g_rows, dz, ld, a.width);
          for (int64_t i = 0; i < n_rows; ++i) {
            const int64_t r = r0 + i, n = in.nbrs.count[r];
            m.q = m.z = u + i * ld;        // du takes u's place,
            m.dz = m.value = dz + i * ld;  // and z that of dz
            if (n == 0) {
              std::fill_n(m.z, H * a.width, A{0});
              std::fill_n(m.value, H * a.width, A{0});
              continue;
            }
            in.gather(m, r, n);
            for (int64_t h = 0; h < H; ++h) std::copy_n(logit_data + (r * H + h) * K, n, m.logit + h * a.slots);
            attend_root_backward(a, m, r, n);
            if (scatters)
              for (int64_t h = 0; h < H; ++h) {
                std::copy_n(m.p + h * a.slots, n, weight.data() + (r * 2 * H + h) * K);
                std::copy_n(m.e + h * a.slots, n, weight.data() + (r * 2 * H + H + h) * K);
              }
          }
          carry_out(key, n_rows, u, ld, a.width, wide, dq_rows);
          store(dq_data, r0 * D, n_rows * D, dq_rows);
          for (int64_t h = 0; h < H; ++h) {
            add_weight(n_rows, u + h * a.width, q_rows + h * d, sum + h * d * a.width);
            add_weight(n_rows, dz + h * a.width, g_rows + h * d, sum + per_weight + h * d * a.width);
          }
        }
        std::copy_n(m.grad_w, T, partial_time.data() + g * 2 * T);
        std::copy_n(m.grad_b, T, partial_time.data() + g * 2 * T + T);
      }
    });
    const std::vector<A> sum = add_groups(partial, groups, 2 * per_weight);
    store_weight(sum.data(), D, F, a.width, dwk, dbk);
    store_weight(sum.data() + per_weight, D, F, a.width, dwv, dbv);
    const std::vector<double> time = add_groups(partial_time.data(), groups, 2 * T);
    storer<double>(time_w.scalar_type())(grad_w.data_ptr(), 0, T, time.data());
    storer<double>(time_b.scalar_type())(grad_b.data_ptr(), 0, T, time.data() + T);

    // dz and u again, of the wanted columns only, for a block of roots at a time
    const auto source = [&](int64_t column, int64_t columns) {
      auto owned = std::make_shared<std::vector<std::unique_ptr<Panels<A>>>>();
      for (const HeadWeights<A>* w : {&value, &key})
        for (int64_t h = 0; h < H; ++h) {
          owned->push_back(std::make_unique<Panels<A>>(d, columns));
          for (int64_t p = 0; p < owned->back()->count(); ++p) owned->back()->pack(w->head(h) + column, F, p);
        }
      return [&, owned, columns, begin = int64_t{-kBlock}, rows_in = std::vector<A>(static_cast<size_t>(kBlock * D)),
              memory = std::vector<A>(static_cast<size_t>(kBlock * 2 * H * columns))](int64_t r) mutable {
        if (r >= begin + kBlock) {
          begin = r / kBlock * kBlock;
          const int64_t n = std::min(kBlock, R - begin);
          for (int64_t j = 0; j < 2 * H; ++j) {
            if (j % H == 0) load(j == 0 ? grad_data : q_data, begin * D, n * D, rows_in.data());
            Panels<A>& b = *(*owned)[static_cast<size_t>(j)];
            gemm_panels<A>(n, left_rows<A>(rows_in.data() + j % H * d, D), b.view(), 0, b.count(),
                           memory.data() + j * columns, 2 * H * columns, {});
          }
        }
        return static_cast<const A*>(memory.data() + (r - begin) * 2 * H * columns);
      };
    };
    if (need_node)
      grad_node = table_gradient(
          in, weight, node_table.scalar_type(), node_table.size(0), 0, a.Dn,
          [&](int64_t r, int64_t k) { return in.nbrs.node_row(r, k); }, source);
    if (need_edge)
      grad_edge = table_gradient(
          in, weight, edge_table->scalar_type(), edge_table->size(0), a.Dn, a.De,
          [&](int64_t r, int64_t k) { return in.nbrs.edge_row(r, k); }, source);
  };
  with_problem(q.scalar_type(), H, 1, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, scale,
               slope, dropout, seed, run);
  return {dq, dwk, dbk, dwv, dbv, grad_node, grad_edge, grad_w, grad_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("temporal_attention_projected", TORCH_BOX(&gnnaccel::projected_cpu));
  m.impl("temporal_attention_projected_backward", TORCH_BOX(&gnnaccel::projected_backward_cpu));
}
