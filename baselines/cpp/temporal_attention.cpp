#include <tuple>

#include "temporal_attention_io.h"

namespace gnnaccel {
namespace {

std::tuple<Tensor, Tensor, Tensor> temporal_attention_cpu(const Tensor& u_in, const Tensor& c_in,
                                                          const Tensor& node_table, std::optional<Tensor> edge_table,
                                                          const Tensor& nbr_row, const Tensor& edge_row,
                                                          const Tensor& dt, const Tensor& count, const Tensor& time_w,
                                                          const Tensor& time_b, double scale, double slope,
                                                          double dropout, int64_t seed, bool) {
  const Tensor u = with_dense_rows(u_in), c = with_dense_rows(c_in);
  const int64_t R = u.size(0), H = u.size(1), F_ = u.size(2), K = nbr_row.size(1);
  Tensor z = empty({R, H, F_}, u.scalar_type()), s = empty({R, H}, u.scalar_type()),
         logit = empty({R, H, K}, acc_type(u));
  const auto run = [&](const auto& in) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
    const AttentionShape<A>& a = in.shape;
    const RowSource<A> u_rows(u, F_), c_rows(c, H);
    const Store<A> store = storer<A>(u.scalar_type());
    void *z_out = z.data_ptr(), *s_out = s.data_ptr();
    A* logit_out = ptr<A>(logit);
    torch::stable::parallel_for(0, in.nbrs.tasks(), 1, [&](int64_t first, int64_t last) {
      AttentionScratch<A> m(a);
      std::vector<uint32_t> words(static_cast<size_t>(a.dropout.stride));
      for (int64_t r = in.nbrs.chunk[static_cast<size_t>(first)]; r < in.nbrs.chunk[static_cast<size_t>(last)]; ++r) {
        const int64_t n = in.nbrs.count[r];
        if (n > 0) {
          in.gather(m, r, n, r + 1 < R ? r + 1 : -1);
          a.dropout.words(&r, 1, words.data());
          for (int64_t h = 0; h < H; ++h) u_rows.get(r, h, m.q + h * a.width);
          c_rows.get_row(r, m.c);
          attend_root(a, m, words.data(), n);
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
  };
  with_problem(u.scalar_type(), H, 0, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, scale,
               slope, dropout, seed, run);
  return {z, s, logit};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> temporal_attention_backward_cpu(
    const Tensor& grad_z, const Tensor& grad_s, const Tensor& u_in, const Tensor& node_table,
    std::optional<Tensor> edge_table, const Tensor& nbr_row, const Tensor& edge_row, const Tensor& dt,
    const Tensor& count, const Tensor& time_w, const Tensor& time_b, const Tensor& logit_in, double scale, double slope,
    double dropout, int64_t seed, bool, bool need_node, bool need_edge) {
  const Tensor u = with_dense_rows(u_in);
  const int64_t R = u.size(0), H = u.size(1), F_ = u.size(2), K = nbr_row.size(1), T = time_w.numel();
  const Tensor dz_in = with_dense_rows(grad_z), ds_in = with_dense_rows(grad_s),
               logits = torch::stable::contiguous(logit_in);
  Tensor du = empty({R, H, F_}, u.scalar_type()), dc = empty({R, H}, u.scalar_type());
  Tensor grad_w = empty({T}, time_w.scalar_type()), grad_b = empty({T}, time_b.scalar_type());
  Tensor grad_node = empty({0}, node_table.scalar_type());
  Tensor grad_edge = empty({0}, edge_table ? edge_table->scalar_type() : node_table.scalar_type());
  const auto run = [&](const auto& in) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(in.shape.scale)>>;
    const AttentionShape<A>& a = in.shape;
    const RowSource<A> u_rows(u, F_), dz(dz_in, F_), ds(ds_in, H);
    const Store<A> store = storer<A>(u.scalar_type());
    void *du_out = du.data_ptr(), *dc_out = dc.data_ptr();
    const A* logit_data = ptr<A>(logits);

    const bool scatters = need_node || need_edge;
    // row weights for the table gradients, [R, 2 H, K]
    std::vector<A> weight(static_cast<size_t>(scatters ? R * 2 * H * K : 0));
    TimeGradient time(in.nbrs.tasks(), T);
    torch::stable::parallel_for(0, in.nbrs.tasks(), 1, [&](int64_t first, int64_t last) {
      AttentionScratch<A> m(a);
      std::vector<uint32_t> words(static_cast<size_t>(a.dropout.stride));
      for (int64_t task = first; task < last; ++task) {
        time.begin(m);
        for (int64_t r = in.nbrs.chunk[static_cast<size_t>(task)]; r < in.nbrs.chunk[static_cast<size_t>(task) + 1];
             ++r) {
          const int64_t n = in.nbrs.count[r];
          if (n > 0) {
            in.gather(m, r, n, r + 1 < R ? r + 1 : -1);
            a.dropout.words(&r, 1, words.data());
            for (int64_t h = 0; h < H; ++h) {
              u_rows.get(r, h, m.q + h * a.width);
              dz.get(r, h, m.dz + h * a.width);
              std::copy_n(logit_data + (r * H + h) * K, n, m.logit + h * a.slots);
            }
            ds.get_row(r, m.ds);
            attend_root_backward(a, m, words.data(), n);
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
        time.end(m, task);
      }
    });
    time.finish(grad_w, grad_b);

    const auto source = [&](int64_t first, int64_t columns) {
      return [&, first, columns, memory = std::vector<A>(static_cast<size_t>(2 * H * columns))](int64_t r) mutable {
        for (int64_t h = 0; h < H; ++h) {
          dz.get_part(r, h, first, columns, memory.data() + h * columns);
          u_rows.get_part(r, h, first, columns, memory.data() + (H + h) * columns);
        }
        return static_cast<const A*>(memory.data());
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
  with_problem(u.scalar_type(), H, 0, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, scale,
               slope, dropout, seed, run);
  return {du, dc, grad_node, grad_edge, grad_w, grad_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("temporal_attention", TORCH_BOX(&gnnaccel::temporal_attention_cpu));
  m.impl("temporal_attention_backward", TORCH_BOX(&gnnaccel::temporal_attention_backward_cpu));
}
