#include "sparse_rows_call.h"

namespace gnnaccel {
namespace {

constexpr int64_t kRowDup = 1, kFull = 2;  // 0: row

// Each trace (list) moves the row by the state that it leaves; every occurrence adds its own mean square.
template <class Row, class A>
void step_by_traces(Row& row, A& state, A lr, A eps) {
  const int64_t D = row.D;
  A* sum = row.spare();
  for (int64_t i = row.begin(); i < row.end();) {
    const int64_t trace = row.trace(i), first = i;
    const A* g = nullptr;
    for (; i < row.end() && row.trace(i) == trace; ++i) {
      g = row.one(i);
      state += sum_of_squares(g, D) / static_cast<A>(D);
      if (i > first)
        add_row(g, sum, D);
      else if (i + 1 < row.end())
        copy_row(g, sum, D);
    }
    descend(row.w, i == first + 1 ? g : sum, lr / (std::sqrt(state) + eps), D);
  }
}

void sparse_adagrad_cpu(Tensor table, Tensor state, std::vector<Tensor> ids, std::vector<Tensor> grad, double lr,
                        int64_t kind, double eps, double regularization, int64_t norm, std::optional<int64_t> seed) {
  SparseCall call = {"sparse_adagrad_", table, std::move(ids), std::move(grad), regularization, norm, seed};
  const int64_t width = kind == kFull ? table.size(1) : 1;  // of the state
  auto* const states = static_cast<char*>(state.data_ptr());
  const auto ahead = [&](int64_t row) {
    prefetch_lines(states + row * width * state.element_size(), width * state.element_size());
  };
  const auto update = [&](auto& row) {
    using A = std::remove_reference_t<decltype(*row.w)>;
    const int64_t D = row.D;
    const A rate = static_cast<A>(lr), small = static_cast<A>(eps);
    A* s = static_cast<A*>(state.data_ptr()) + row.row * width;
    if (kind == kRowDup) return step_by_traces(row, *s, rate, small);
    const A* g = row.total();
    if (kind == kFull) return adagrad_columns(row.w, s, g, rate, small, D);
    *s += sum_of_squares(g, D) / static_cast<A>(D);
    descend(row.w, g, rate / (std::sqrt(*s) + small), D);
  };
  update_rows(call, update, ahead);
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("sparse_adagrad_", TORCH_BOX(&gnnaccel::sparse_adagrad_cpu)); }
