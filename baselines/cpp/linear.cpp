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
      if (U == 0) sum.zero();
      std::vector<LinearBlock<A>> blocks;
      for (int64_t i = 0; i < plan.blocks; ++i) blocks.emplace_back(plan.block, K, N);
      const auto block = [&](int64_t slab) -> LinearBlock<A>& {
        return blocks[static_cast<size_t>(slab % plan.blocks)];
      };
      plan.run(
          panels_of(N, kLinearOut) * blocks[0].x.panels(),
          [&](int64_t slab, int64_t first, int64_t begin, int64_t end) {
            linear_load_rows<S, A>(ptr<S>(x), ptr<S>(grad), K, N, first, begin, end, block(slab));
          },
          [&](int64_t slab, int64_t task, int64_t depth, bool fresh) {
            linear_weight_task<A>(task, block(slab), depth, N, K, fresh, sum.data(slab));
          });
      dw = sum.finish();
    }
    if (grad_bias) {
      db = empty({N}, dtype);
      constexpr int64_t kColumns = kBiasColumns;
      parallel_chunks(N, kColumns, [&](int64_t c0, int64_t c1) {
        double total[kColumns] = {};
        for (int64_t begin = 0; begin < U; begin += kLinearTile) {
          A part[kColumns] = {};
          for (int64_t u = begin; u < std::min(begin + kLinearTile, U); ++u)
            add_row(ptr<S>(grad) + u * N + c0, c1 - c0, part);
          for (int64_t j = 0; j < c1 - c0; ++j) total[j] += static_cast<double>(part[j]);
        }
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
