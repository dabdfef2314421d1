#include "common.h"
#include "memory_update_call.h"

namespace gnnaccel {
namespace {

// The nodes with mail, as rows for the cell; and, unless null, what the others keep and all last updates.
template <class S>
struct Kept {
  const S* memory;
  S* out;
  int64_t ld, D;
  void* last_update;
};

template <class S>
MemoryRows pending_rows(const Tensor& mail_time_in, const Tensor& has_mail_in, const Tensor& last_update_in,
                        const Tensor& nodes_in, const Kept<S>* kept) {
  const Tensor mail_time = torch::stable::contiguous(mail_time_in), has_mail = torch::stable::contiguous(has_mail_in),
               last_update = torch::stable::contiguous(last_update_in), nodes = torch::stable::contiguous(nodes_in);
  const int64_t N = has_mail.numel(), U = nodes.numel();
  const bool* has = ptr<bool>(has_mail);
  MemoryRows out;
  out.row.emplace().reserve(static_cast<size_t>(U));
  out.place.emplace().reserve(static_cast<size_t>(U));
  out.dt.reserve(static_cast<size_t>(U));
  dispatch_time(mail_time.scalar_type(), "memory_read", [&](auto time_tag) {
    using T = decltype(time_tag);
    const T *sent = ptr<T>(mail_time), *last = ptr<T>(last_update);
    dispatch_ids(nodes.scalar_type(), "memory_read", [&](auto id_tag) {
      const auto* ids = ptr<decltype(id_tag)>(nodes);
      for (int64_t u = 0; u < U; ++u) {
        const int64_t node = static_cast<int64_t>(ids[u]);
        check_row("memory_read: nodes", node, u, N);
        if (has[node]) {
          out.row->push_back(node);
          out.place->push_back(u);
          out.dt.push_back(static_cast<double>(sent[node] - last[node]));
        } else if (kept) {
          std::copy_n(kept->memory + node * kept->ld, kept->D, kept->out + u * kept->D);
        }
        if (kept) static_cast<T*>(kept->last_update)[u] = has[node] ? sent[node] : last[node];
      }
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> memory_read_cpu(const Tensor& mail, const Tensor& mail_time, const Tensor& has_mail,
                                                   const Tensor& memory_in, const Tensor& last_update,
                                                   const Tensor& nodes, const Tensor& time_w, const Tensor& time_b,
                                                   const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih,
                                                   const Tensor& b_hh, bool gru, bool save) {
  const Tensor memory = with_dense_rows(memory_in);
  const int64_t U = nodes.numel(), D = memory.size(1);
  Tensor out = empty({U, D}, memory.scalar_type()), times = empty({U}, last_update.scalar_type()), saved;
  dispatch_floating(memory.scalar_type(), "memory_read", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const Kept<S> kept = {ptr<S>(memory), ptr<S>(out), memory.stride(0), D, times.data_ptr()};
    const MemoryRows rows = pending_rows<S>(mail_time, has_mail, last_update, nodes, &kept);
    const MemoryCall<S> call(mail, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    const int64_t width = call.in.saved_width();
    saved = empty({save ? U : 0, width}, dtype_of<A>());
    if (save) std::fill_n(ptr<A>(saved) + call.U * width, (U - call.U) * width, A(0));
    memory_forward<S>(call, b_ih, b_hh, ptr<S>(out), save ? ptr<A>(saved) : nullptr);
  });
  return {out, times, saved};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> memory_read_backward_cpu(
    const Tensor& grad_in, const Tensor& saved_in, const Tensor& mail, const Tensor& mail_time, const Tensor& has_mail,
    const Tensor& memory, const Tensor& last_update, const Tensor& nodes, const Tensor& time_w, const Tensor& time_b,
    const Tensor& w_ih, const Tensor& w_hh, bool gru, bool grad_time, bool grad_weights) {
  const Tensor grad = torch::stable::contiguous(grad_in), saved = torch::stable::contiguous(saved_in);
  MemoryGradients g(false, false, grad_time, grad_weights, memory.scalar_type());
  dispatch_floating(memory.scalar_type(), "memory_read", [&](auto tag) {
    using S = decltype(tag);
    const MemoryRows rows = pending_rows<S>(mail_time, has_mail, last_update, nodes, nullptr);
    const MemoryCall<S> call(mail, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    memory_backward<S>(call, ptr<S>(grad), ptr<acc_t<S>>(saved), g);
  });
  return {g.time_w, g.time_b, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("memory_read", TORCH_BOX(&gnnaccel::memory_read_cpu));
  m.impl("memory_read_backward", TORCH_BOX(&gnnaccel::memory_read_backward_cpu));
}
