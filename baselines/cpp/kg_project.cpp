// Rows through the matrix of their relation: one product a relation, in a task of its own.
#include "kg_groups.h"

namespace gnnaccel {
namespace {

Tensor kg_project_cpu(const Tensor& e_in, const Tensor& w_in, const Tensor& relation, bool transposed) {
  const Tensor w = torch::stable::contiguous(w_in);
  const int64_t B = e_in.size(0), R = w.size(0), D = w.size(1), M = w.size(2);
  const int64_t K = transposed ? M : D, N = transposed ? D : M;
  Tensor out = empty({B, N}, e_in.scalar_type());
  const std::vector<Group> groups = groups_of(relation, R, std::max<int64_t>(B, 1));
  dispatch_floating(w.scalar_type(), "kg_project", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const WideValues<A> e(e_in);
    parallel_chunks(static_cast<int64_t>(groups.size()), 1, [&](int64_t i, int64_t) {
      const Group& group = groups[static_cast<size_t>(i)];
      const int64_t n = static_cast<int64_t>(group.rows.size());
      const Scratch<A> x = gather(group, e.data, K);
      Scratch<A> y(n * N);
      through(x.get(), n, ptr<T>(w) + group.relation * D * M, D, M, transposed, y.get());
      for (int64_t j = 0; j < n; ++j)
        std::copy_n(y.get() + j * N, N, ptr<A>(out) + group.rows[static_cast<size_t>(j)] * N);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> kg_project_backward_cpu(const Tensor& grad_in, const Tensor& e_in, const Tensor& w_in,
                                                   const Tensor& relation, bool transposed) {
  const Tensor w = torch::stable::contiguous(w_in);
  const int64_t B = e_in.size(0), R = w.size(0), D = w.size(1), M = w.size(2);
  const int64_t K = transposed ? M : D, N = transposed ? D : M;
  Tensor de = empty({B, K}, e_in.scalar_type()), dw = empty({R, D, M}, w.scalar_type());
  const std::vector<Group> groups = groups_of(relation, R, std::max<int64_t>(B, 1));
  dispatch_floating(w.scalar_type(), "kg_project", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const WideValues<A> e(e_in), grad(grad_in);
    WideResult<T> result(dw);
    zero(result.data, R * D * M);
    parallel_chunks(static_cast<int64_t>(groups.size()), 1, [&](int64_t i, int64_t) {
      const Group& group = groups[static_cast<size_t>(i)];
      const int64_t n = static_cast<int64_t>(group.rows.size());
      const Scratch<A> x = gather(group, e.data, K), g = gather(group, grad.data, N);
      Scratch<A> dx(n * K);
      through(g.get(), n, ptr<T>(w) + group.relation * D * M, D, M, !transposed, dx.get());
      for (int64_t j = 0; j < n; ++j)
        std::copy_n(dx.get() + j * K, K, ptr<A>(de) + group.rows[static_cast<size_t>(j)] * K);
      A* to = result.data + group.relation * D * M;
      if (transposed)
        outer(g.get(), x.get(), n, D, M, to);
      else
        outer(x.get(), g.get(), n, D, M, to);
    });
    result.finish();
  });
  return {de, dw};
}

Tensor kg_projected_l1_cpu(const Tensor& q_in, const Tensor& n_in, const Tensor& w_in, const Tensor& relation,
                           double gamma) {
  const Tensor w = torch::stable::contiguous(w_in);
  const int64_t C = q_in.size(0), S = q_in.size(1), N = n_in.size(1), R = w.size(0), D = w.size(1), M = w.size(2);
  Tensor out = empty({C, S, N}, n_in.scalar_type());
  const std::vector<Group> groups = groups_of(relation, R, std::max<int64_t>(S, 1));
  dispatch_floating(w.scalar_type(), "kg_project", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const WideValues<A> q(q_in);
    const WideValues<T> candidates(n_in);
    parallel_chunks(static_cast<int64_t>(groups.size()), 1, [&](int64_t i, int64_t) {
      constexpr int64_t L = Wide<A>::L;
      const Group& group = groups[static_cast<size_t>(i)];
      const int64_t rows = static_cast<int64_t>(group.rows.size());
      const Scratch<A> x = gather(group, q.data, M);
      Scratch<A> projected(N * M), panel(M * L), tile(rows * L);
      through(candidates.data + group.chunk * N * D, N, ptr<T>(w) + group.relation * D * M, D, M, false,
              projected.get());
      for (int64_t n0 = 0; n0 < N; n0 += L) {
        const int64_t width = std::min(L, N - n0);
        pack_panel_transposed(projected.get() + n0 * M, M, M, width, 0, L, panel.get());
        distances_of_panel(Compare::kL1, M, x.get(), rows, panel.get(), width, static_cast<A>(gamma), tile.get(), L);
        for (int64_t j = 0; j < rows; ++j)
          for (int64_t k = 0; k < width; ++k)
            ptr<T>(out)[group.rows[static_cast<size_t>(j)] * N + n0 + k] = static_cast<T>(tile.get()[j * L + k]);
      }
    });
  });
  return out;
}

constexpr int64_t kProjectedGroups = 32;  // groups whose candidates' gradients exist at a time
constexpr int64_t kProjectedRows = 64;    // candidates of a task

std::tuple<Tensor, Tensor, Tensor> kg_projected_l1_backward_cpu(const Tensor& grad_in, const Tensor& q_in,
                                                                const Tensor& n_in, const Tensor& w_in,
                                                                const Tensor& relation) {
  const Tensor w = torch::stable::contiguous(w_in);
  const int64_t C = q_in.size(0), S = q_in.size(1), N = n_in.size(1), R = w.size(0), D = w.size(1), M = w.size(2);
  Tensor dq = empty({C, S, M}, q_in.scalar_type()), dn = empty({C, N, D}, n_in.scalar_type()),
         dw = empty({R, D, M}, w.scalar_type());
  const std::vector<Group> groups = groups_of(relation, R, std::max<int64_t>(S, 1));
  dispatch_floating(w.scalar_type(), "kg_project", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const WideValues<A> q(q_in);
    const WideValues<T> candidates(n_in), grad(grad_in);
    WideResult<T> to_n(dn), to_w(dw);
    zero(to_n.data, C * N * D);
    zero(to_w.data, R * D * M);
    const std::vector<A> zeros(static_cast<size_t>(N), A(0));
    const int64_t count = static_cast<int64_t>(groups.size()), blocks = (N + kProjectedRows - 1) / kProjectedRows;
    Scratch<A> made(std::min(count, kProjectedGroups) * N * M);  // gradients of projected candidates
    const auto of = [&](int64_t i) -> const Group& { return groups[static_cast<size_t>(i)]; };
    for (int64_t first = 0; first < count; first += kProjectedGroups) {
      const int64_t last = std::min(first + kProjectedGroups, count);
      parallel_chunks(last - first, 1, [&](int64_t i, int64_t) {
        const Group& group = of(first + i);
        const int64_t rows = static_cast<int64_t>(group.rows.size());
        const Scratch<A> x = gather(group, q.data, M), g = gather(group, grad.data, N);
        Scratch<A> projected(N * M), dx(rows * M);
        through(candidates.data + group.chunk * N * D, N, ptr<T>(w) + group.relation * D * M, D, M, false,
                projected.get());
        for (int64_t slice = 0; slice < slices_of<A>(Compare::kL1, M); ++slice)
          slice_task(Compare::kL1, slice, rows, N, M, g.get(), zeros.data(), x.get(), projected.get(), dx.get(),
                     made.get() + i * N * M);
        for (int64_t j = 0; j < rows; ++j)
          std::copy_n(dx.get() + j * M, M, ptr<A>(dq) + group.rows[static_cast<size_t>(j)] * M);
      });
      // candidates collect from all groups of their chunk, matrices from all groups of their relation
      parallel_chunks(C * blocks, 1, [&](int64_t task, int64_t) {
        const int64_t c = task / blocks, n0 = task % blocks * kProjectedRows, rows = std::min(kProjectedRows, N - n0);
        for (int64_t i = first; i < last; ++i)
          if (of(i).chunk == c)
            through(made.get() + (i - first) * N * M + n0 * M, rows, ptr<T>(w) + of(i).relation * D * M, D, M, true,
                    to_n.data + (c * N + n0) * D, true);
      });
      parallel_chunks(last - first, 1, [&](int64_t begin, int64_t) {
        if (begin > 0 && of(first + begin).relation == of(first + begin - 1).relation) return;
        for (int64_t i = first + begin; i < last && of(i).relation == of(first + begin).relation; ++i)
          outer(candidates.data + of(i).chunk * N * D, made.get() + (i - first) * N * M, N, D, M,
                to_w.data + of(i).relation * D * M, true);
      });
    }
    to_n.finish();
    to_w.finish();
  });
  return {dq, dn, dw};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("kg_project", TORCH_BOX(&gnnaccel::kg_project_cpu));
  m.impl("kg_project_backward", TORCH_BOX(&gnnaccel::kg_project_backward_cpu));
  m.impl("kg_projected_l1", TORCH_BOX(&gnnaccel::kg_projected_l1_cpu));
  m.impl("kg_projected_l1_backward", TORCH_BOX(&gnnaccel::kg_projected_l1_backward_cpu));
}
