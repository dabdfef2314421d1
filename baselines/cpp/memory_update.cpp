#include "common.h"
#include "memory_update_call.h"

namespace gnnaccel {
namespace {

MemoryRows rows_of(const Tensor& dt_in, const std::optional<Tensor>& rows_in, int64_t limit) {
  MemoryRows out;
  const Tensor dt = torch::stable::contiguous(dt_in);
  dispatch_time(dt.scalar_type(), "memory_update", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(dt);
    for (int64_t i = 0; i < dt.numel(); ++i) out.dt.push_back(static_cast<double>(p[i]));
  });
  if (!rows_in.has_value()) return out;
  const Tensor rows = torch::stable::contiguous(*rows_in);
  out.row.emplace();
  dispatch_ids(rows.scalar_type(), "memory_update", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(rows);
    for (int64_t i = 0; i < rows.numel(); ++i) {
      check_row("memory_update: rows", static_cast<int64_t>(p[i]), i, limit);
      out.row->push_back(static_cast<int64_t>(p[i]));
    }
  });
  return out;
}

std::tuple<Tensor, Tensor> memory_update_cpu(const Tensor& mail, const Tensor& dt, const Tensor& memory,
                                             const Tensor& time_w, const Tensor& time_b, const Tensor& w_ih,
                                             const Tensor& w_hh, const Tensor& b_ih, const Tensor& b_hh,
                                             std::optional<Tensor> rows_in, bool gru, bool save) {
  const int64_t U = dt.numel(), D = memory.size(1);
  const MemoryRows rows = rows_of(dt, rows_in, memory.size(0));
  Tensor out = empty({U, D}, memory.scalar_type()), saved;
  dispatch_floating(memory.scalar_type(), "memory_update", [&](auto tag) {
    using S = decltype(tag);
    const MemoryCall<S> call(mail, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    saved = empty({save ? U : 0, call.in.saved_width()}, dtype_of<acc_t<S>>());
    memory_forward<S>(call, b_ih, b_hh, ptr<S>(out), save ? ptr<acc_t<S>>(saved) : nullptr);
  });
  return {out, saved};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> memory_update_backward_cpu(
    const Tensor& grad_in, const Tensor& saved_in, const Tensor& mail, const Tensor& dt, const Tensor& memory,
    const Tensor& time_w, const Tensor& time_b, const Tensor& w_ih, const Tensor& w_hh, std::optional<Tensor> rows_in,
    bool gru, bool grad_mail, bool grad_memory, bool grad_time, bool grad_weights) {
  const Tensor grad = torch::stable::contiguous(grad_in), saved = torch::stable::contiguous(saved_in);
  const MemoryRows rows = rows_of(dt, rows_in, memory.size(0));
  MemoryGradients g(grad_mail, grad_memory, grad_time, grad_weights, memory.scalar_type());
  dispatch_floating(memory.scalar_type(), "memory_update", [&](auto tag) {
    using S = decltype(tag);
    const MemoryCall<S> call(mail, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    memory_backward<S>(call, ptr<S>(grad), ptr<acc_t<S>>(saved), g);
  });
  return {g.mail, g.memory, g.time_w, g.time_b, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("memory_update", TORCH_BOX(&gnnaccel::memory_update_cpu));
  m.impl("memory_update_backward", TORCH_BOX(&gnnaccel::memory_update_backward_cpu));
}
