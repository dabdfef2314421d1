#include "linear.h"

#include <optional>

#include "common.h"
#include "sum.h"

namespace gnnaccel {
namespace {

Tensor linear_cpu(const Tensor& x_in, const Tensor& weight_in, std::optional<Tensor> bias_in) {
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in);
  const int64_t U = x.size(0), K = x.size(1), N = weight.size(0);
  Tensor out = empty({U, N}, x.scalar_type());
  if (U == 0 || N == 0) return out;
  dispatch_floating(x.scalar_type(), "linear", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    Panels<A> panels(K, N);
    parallel_chunks(panels.count(), 1, [&](int64_t p, int64_t) { panels.pack_transposed(ptr<S>(weight), K, p); });
    std::vector<A> bias;
    if (bias_in.has_value()) {
      const Tensor b = torch::stable::contiguous(*bias_in);
      for (int64_t j = 0; j < N; ++j) bias.push_back(static_cast<A>(ptr<S>(b)[j]));
    }
    const Packed<A> B = panels.view();
    parallel_chunks(U, even_chunk(U, kLinearTile), [&](int64_t begin, int64_t end) {
      linear_rows<S, A>(ptr<S>(x), B, bias_in.has_value() ? bias.data() : nullptr, begin, end, ptr<S>(out));
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> linear_backward_cpu(const Tensor& grad_in, const Tensor& x_in,
                                                       const Tensor& weight_in, bool grad_x, bool grad_weight,
                                                       bool grad_bias) {
  const Tensor grad = torch::stable::contiguous(grad_in), x = torch::stable::contiguous(x_in),
               weight = torch::stable::contiguous(weight_in);
  const int64_t U = x.size(0), K = x.size(1), N = weight.size(0);
  const ScalarType dtype = x.scalar_type();
  Tensor dx = empty({0}, dtype), dw = empty({0}, dtype), db = empty({0}, dtype);
  dispatch_floating(dtype, "linear", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    if (grad_x) {
      dx = empty({U, K}, dtype);
      Panels<A> panels(N, K);
      parallel_chunks(panels.count(), 1, [&](int64_t p, int64_t) { panels.pack(ptr<S>(weight), K, p); });
      const Packed<A> B = panels.view();
      parallel_chunks(U, even_chunk(U, kLinearTile), [&](int64_t begin, int64_t end) {
        linear_rows<S, A>(ptr<S>(grad), B, nullptr, begin, end, ptr<S>(dx));
      });
    }
    if (grad_weight) {
      const RowPlan plan(U, kLinearTile);
      Sum<S> sum({N, K}, plan.slabs);
      std::vector<std::pair<Rows<A>, Rows<A>>> blocks;  // x, grad
      for (int64_t i = 0; i < plan.slabs; ++i) blocks.emplace_back(Rows<A>(plan.block, K), Rows<A>(plan.block, N));
      constexpr int64_t kOut = 48;  // output rows a task
      const int64_t outs = (N + kOut - 1) / kOut, panels = blocks[0].first.panels();
      plan.run(
          outs * panels,
          [&](int64_t slab, int64_t first, int64_t begin, int64_t end) {
            auto& [xs, gs] = blocks[static_cast<size_t>(slab)];
            linear_load_rows<S, A>(ptr<S>(x), ptr<S>(grad), K, N, first, begin, end, xs, gs);
          },
          [&](int64_t slab, int64_t task, int64_t depth) {
            auto& [xs, gs] = blocks[static_cast<size_t>(slab)];
            const int64_t n0 = task / panels * kOut;
            linear_weight_tile<A>(gs, xs, depth, K, task % panels, n0, std::min(n0 + kOut, N), sum.data(slab));
          });
      dw = sum.finish();
    }
    if (grad_bias) {
      db = empty({N}, dtype);
      constexpr int64_t kColumns = 16;
      parallel_chunks(N, kColumns, [&](int64_t c0, int64_t c1) {
        double total[kColumns] = {};
        for (int64_t u = 0; u < U; ++u)
          for (int64_t j = c0; j < c1; ++j) total[j - c0] += static_cast<double>(ptr<S>(grad)[u * N + j]);
        for (int64_t j = c0; j < c1; ++j) ptr<S>(db)[j] = static_cast<S>(static_cast<A>(total[j - c0]));
      });
    }
  });
  return {dx, dw, db};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("linear", TORCH_BOX(&gnnaccel::linear_cpu));
  m.impl("linear_backward", TORCH_BOX(&gnnaccel::linear_backward_cpu));
}
