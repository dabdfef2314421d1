#include "sparse_rows_call.h"

namespace gnnaccel {
namespace {

void sparse_adam_cpu(Tensor table, Tensor exp_avg, Tensor exp_avg_sq, std::vector<Tensor> ids, std::vector<Tensor> grad,
                     int64_t step, double lr, double beta1, double beta2, double eps, double regularization,
                     int64_t norm, std::optional<int64_t> seed) {
  SparseCall call = {"sparse_adam_", table, std::move(ids), std::move(grad), regularization, norm, seed};
  const double steps = static_cast<double>(step), scale = lr / (1 - std::pow(beta1, steps)),
               root = 1 / std::sqrt(1 - std::pow(beta2, steps));
  const int64_t bytes = table.size(1) * static_cast<int64_t>(exp_avg.element_size());
  const auto ahead = [&](int64_t row) {
    for (Tensor* moment : {&exp_avg, &exp_avg_sq})
      prefetch_lines(static_cast<const char*>(moment->data_ptr()) + row * bytes, bytes);
  };
  const auto update = [&](auto& row) {
    using A = std::remove_reference_t<decltype(*row.w)>;
    const sparse::AdamNumbers<A> numbers = {static_cast<A>(beta1),     static_cast<A>(1 - beta1), static_cast<A>(beta2),
                                            static_cast<A>(1 - beta2), static_cast<A>(scale),     static_cast<A>(root),
                                            static_cast<A>(eps)};
    A *m = static_cast<A*>(exp_avg.data_ptr()) + row.row * row.D,
      *v = static_cast<A*>(exp_avg_sq.data_ptr()) + row.row * row.D;
    adam_columns(row.w, m, v, row.total(), numbers, row.D);
  };
  update_rows(call, update, ahead);
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("sparse_adam_", TORCH_BOX(&gnnaccel::sparse_adam_cpu)); }
