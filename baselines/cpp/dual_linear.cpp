#include <optional>

#include "common.h"
#include "linear.h"
#include "sum.h"

namespace gnnaccel {
namespace {

Tensor dual_linear_cpu(const Tensor& x_in, const Tensor& weight_in, std::optional<Tensor> bias_in,
                       const Tensor& other_in, const Tensor& other_weight_in, bool relu) {
  const Tensor x = torch::stable::contiguous(x_in), weight = torch::stable::contiguous(weight_in),
               other = torch::stable::contiguous(other_in), other_weight = torch::stable::contiguous(other_weight_in);
  const int64_t U = x.size(0), K = x.size(1), L = other.size(1), N = weight.size(0);
  Tensor out = empty({U, N}, x.scalar_type());
  if (U == 0 || N == 0) return out;
  dispatch_floating(x.scalar_type(), "dual_linear", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    Panels<A> own(K, N), more(L, N);
    parallel_chunks(own.count(), 1, [&](int64_t p, int64_t) {
      own.pack_transposed(ptr<S>(weight), K, p);
      more.pack_transposed(ptr<S>(other_weight), L, p);
    });
    std::vector<A> bias;
    if (bias_in.has_value()) {
      const Tensor b = torch::stable::contiguous(*bias_in);
      for (int64_t j = 0; j < N; ++j) bias.push_back(static_cast<A>(ptr<S>(b)[j]));
    }
    const Packed<A> B = own.view(), C = more.view();
    const LinearSide<S, A> first = {ptr<S>(x), B}, second = {ptr<S>(other), C};
    parallel_chunks(U, even_chunk(U, kLinearTile), [&](int64_t begin, int64_t end) {
      dual_linear_rows<S, A>(first, second, bias_in.has_value() ? bias.data() : nullptr, relu, begin, end, ptr<S>(out));
    });
  });
  return out;
}

// Gradients in rows: masked grad times the packed weights of a side.
template <class S, class A>
Tensor side_gradient(const Tensor& grad, const S* output, const Tensor& weight) {
  const int64_t U = grad.size(0), N = grad.size(1), K = weight.size(1);
  Tensor out = empty({U, K}, grad.scalar_type());
  Panels<A> panels(N, K);
  parallel_chunks(panels.count(), 1, [&](int64_t p, int64_t) { panels.pack(ptr<S>(weight), K, p); });
  const Packed<A> B = panels.view();
  parallel_chunks(U, even_chunk(U, kLinearTile), [&](int64_t begin, int64_t end) {
    if (output == nullptr) return linear_rows<S, A>(ptr<S>(grad), B, nullptr, begin, end, ptr<S>(out));
    Scratch<S> rows((end - begin) * N);
    masked_rows<S, S>(ptr<S>(grad), output, N, begin, end, N, rows.get());
    linear_rows<S, A>(rows.get(), B, nullptr, 0, end - begin, ptr<S>(out) + begin * K);
  });
  return out;
}

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Five dual_linear_backward_cpu(const Tensor& grad_in, std::optional<Tensor> output_in, const Tensor& x_in,
                              const Tensor& weight_in, const Tensor& other_in, const Tensor& other_weight_in,
                              std::vector<bool> need) {
  const auto whole = [](const Tensor& t) { return torch::stable::contiguous(t); };
  const Tensor grad = whole(grad_in), x = whole(x_in), weight = whole(weight_in), other = whole(other_in),
               other_weight = whole(other_weight_in);
  const Tensor kept = output_in.has_value() ? whole(*output_in) : grad;
  const int64_t U = x.size(0), K = x.size(1), L = other.size(1), N = weight.size(0);
  const ScalarType dtype = x.scalar_type();
  Tensor dx = empty({0}, dtype), dw = empty({0}, dtype), db = empty({0}, dtype), dz = empty({0}, dtype),
         dv = empty({0}, dtype);
  dispatch_floating(dtype, "dual_linear", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const S* output = output_in.has_value() ? ptr<S>(kept) : nullptr;
    if (need[0]) dx = side_gradient<S, A>(grad, output, weight);
    if (need[3]) dz = side_gradient<S, A>(grad, output, other_weight);
    if (!need[1] && !need[2] && !need[4]) return;
    const RowPlan plan(U, kLinearTile);
    Sum<S> sum({N, K}, plan.slabs), more({N, L}, plan.slabs);
    if (U == 0) sum.zero(), more.zero();
    std::vector<DualBlock<A>> blocks;
    for (int64_t i = 0; i < plan.blocks; ++i) blocks.emplace_back(plan.block, K, L, N);
    const auto block = [&](int64_t slab) -> DualBlock<A>& { return blocks[static_cast<size_t>(slab % plan.blocks)]; };
    const int64_t width = N + tile_set<A>().mr, tiles = panels_of(U, kLinearTile);
    Scratch<A> part(tiles * N);  // sums of the columns of each tile
    plan.run(
        panels_of(N, kLinearOut) * blocks[0].panels(),
        [&](int64_t slab, int64_t first, int64_t begin, int64_t end) {
          DualBlock<A>& to = block(slab);
          for (int64_t u = begin; u < end; ++u) {
            std::copy_n(ptr<S>(x) + u * K, K, to.x.row(u - first));
            std::copy_n(ptr<S>(other) + u * L, L, to.other.row(u - first));
          }
          Scratch<A> rows((end - begin) * width);
          masked_rows<S, A>(ptr<S>(grad), output, N, begin, end, width, rows.get());
          A* sums = part.get() + begin / kLinearTile * N;
          std::fill_n(sums, N, A(0));
          for (int64_t u = 0; u < end - begin; ++u) add_row(rows.get() + u * width, N, sums);
          to.grad.set_rows(begin - first, end - begin, N, rows.get(), width);
        },
        [&](int64_t slab, int64_t task, int64_t depth, bool fresh) {
          dual_weight_task<A>(task, block(slab), depth, N, K, L, fresh, sum.data(slab), more.data(slab));
        });
    if (need[1]) dw = sum.finish();
    if (need[4]) dv = more.finish();
    if (need[2]) {
      db = empty({N}, dtype);
      for (int64_t j = 0; j < N; ++j) {
        double total = 0;
        for (int64_t i = 0; i < tiles; ++i) total += static_cast<double>(part.get()[i * N + j]);
        ptr<S>(db)[j] = static_cast<S>(static_cast<A>(total));
      }
    }
  });
  return {dx, dw, db, dz, dv};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("dual_linear", TORCH_BOX(&gnnaccel::dual_linear_cpu));
  m.impl("dual_linear_backward", TORCH_BOX(&gnnaccel::dual_linear_backward_cpu));
}
