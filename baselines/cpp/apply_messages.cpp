// Memory of nodes with the message of their last event applied, read where the tables lie.
#include "common.h"
#include "memory_update_call.h"

namespace gnnaccel {
namespace {

constexpr uint8_t kFresh = 0, kPending = 1;
constexpr int64_t kCopied = 32;  // rows a task

// The gates of the cell of a zero message and a zero memory.
template <class A>
struct ZeroCell {
  std::vector<A> r, z, n, out;

  template <class S>
  ZeroCell(const S* b_ih, const S* b_hh, int64_t D) {
    for (int64_t j = 0; j < D; ++j) {
      const auto sigmoid = [](A x) { return A(1) / (A(1) + std::exp(-x)); };
      r.push_back(sigmoid(static_cast<A>(b_ih[j]) + static_cast<A>(b_hh[j])));
      z.push_back(sigmoid(static_cast<A>(b_ih[D + j]) + static_cast<A>(b_hh[D + j])));
      n.push_back(std::tanh(static_cast<A>(b_ih[2 * D + j]) + r.back() * static_cast<A>(b_hh[2 * D + j])));
      out.push_back((A(1) - z.back()) * n.back());
    }
  }
};

// Messages [own | other | raw] of the nodes `row`, in the order of the list.
template <class S>
void copy_messages(const std::vector<int64_t>& row, const Tensor& memory, const int64_t* other, const Tensor& raw,
                   S* mail) {
  const int64_t D = memory.size(1), F = raw.size(1), M = 2 * D + F;
  const S *m = ptr<S>(memory), *f = ptr<S>(raw);
  parallel_chunks(static_cast<int64_t>(row.size()), kCopied, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t node = row[static_cast<size_t>(i)];
      S* to = mail + i * M;
      std::copy_n(m + node * memory.stride(0), D, to);
      std::copy_n(m + other[node] * memory.stride(0), D, to + D);
      std::copy_n(f + node * raw.stride(0), F, to + 2 * D);
    }
  });
}

// out, last_update, state, mail, dt, saved; of the last three the first rows, one for each pending node.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> apply_messages_cpu(
    const Tensor& memory_in, const Tensor& last_update_in, const Tensor& status_in, const Tensor& other_in,
    const Tensor& time_in, const Tensor& raw_in, const Tensor& nodes_in, const Tensor& time_w, const Tensor& time_b,
    const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih_in, const Tensor& b_hh_in, bool save) {
  const Tensor memory = with_dense_rows(memory_in), raw = with_dense_rows(raw_in),
               last_update = torch::stable::contiguous(last_update_in), status = torch::stable::contiguous(status_in),
               other = torch::stable::contiguous(other_in), time = torch::stable::contiguous(time_in),
               nodes = torch::stable::contiguous(nodes_in), b_ih = torch::stable::contiguous(b_ih_in),
               b_hh = torch::stable::contiguous(b_hh_in);
  const int64_t N = memory.size(0), D = memory.size(1), U = nodes.numel(), M = 2 * D + raw.size(1);
  const int64_t *id = ptr<int64_t>(nodes), *last = ptr<int64_t>(last_update), *sent = ptr<int64_t>(time);
  const uint8_t* of = ptr<uint8_t>(status);
  Tensor out = empty({U, D}, memory.scalar_type()), times = empty({U}, ScalarType::Long),
         state = empty({U}, ScalarType::Byte), dt = empty({U}, ScalarType::Double),
         mail = empty({U, M}, memory.scalar_type()), saved;
  MemoryRows rows;
  rows.place.emplace().reserve(static_cast<size_t>(U));
  rows.dt.reserve(static_cast<size_t>(U));
  std::vector<int64_t> pending;
  pending.reserve(static_cast<size_t>(U));
  for (int64_t u = 0; u < U; ++u) {
    check_row("apply_messages: nodes", id[u], u, N);
    const uint8_t s = ptr<uint8_t>(state)[u] = of[id[u]];
    ptr<int64_t>(times)[u] = s == kPending ? sent[id[u]] : last[id[u]];
    if (s != kPending) continue;
    check_row("apply_messages: other", ptr<int64_t>(other)[id[u]], u, N);
    pending.push_back(id[u]);
    rows.place->push_back(u);
    rows.dt.push_back(static_cast<double>(sent[id[u]] - last[id[u]]));
  }
  // results hold no uninitialised memory, not even where nobody looks
  const auto P = static_cast<int64_t>(pending.size());
  const auto clear_rest = [&](auto* rows_of, int64_t width) {
    std::fill_n(rows_of + P * width, (U - P) * width, std::remove_reference_t<decltype(*rows_of)>(0));
  };
  std::copy(rows.dt.begin(), rows.dt.end(), ptr<double>(dt));
  clear_rest(ptr<double>(dt), 1);
  dispatch_floating(memory.scalar_type(), "apply_messages", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    copy_messages(pending, memory, ptr<int64_t>(other), raw, ptr<S>(mail));
    clear_rest(ptr<S>(mail), M);
    const ZeroCell<A> zero(ptr<S>(b_ih), ptr<S>(b_hh), D);
    for (int64_t u = 0; u < U; ++u) {
      S* to = ptr<S>(out) + u * D;
      if (of[id[u]] == kFresh)
        for (int64_t j = 0; j < D; ++j) to[j] = static_cast<S>(zero.out[static_cast<size_t>(j)]);
      else if (of[id[u]] != kPending)
        std::copy_n(ptr<S>(memory) + id[u] * memory.stride(0), D, to);
    }
    const Tensor own = torch::stable::narrow(mail, 1, 0, D);
    const MemoryCall<S> call(mail, own, time_w, time_b, w_ih, w_hh, rows, true, true);
    saved = empty({save ? U : 0, call.in.saved_width()}, dtype_of<A>());
    if (save) clear_rest(ptr<A>(saved), call.in.saved_width());
    memory_forward<S>(call, b_ih, b_hh, ptr<S>(out), save ? ptr<A>(saved) : nullptr);
  });
  return {out, times, state, mail, dt, saved};
}

// Adds what the fresh nodes' rows, all one function of the biases, give to these.
template <class S>
void add_fresh(const Tensor& grad, const Tensor& state, const Tensor& b_ih, const Tensor& b_hh, MemoryGradients& to) {
  using A = acc_t<S>;
  const int64_t U = grad.size(0), D = grad.size(1);
  std::vector<A> sum(static_cast<size_t>(D), A(0));
  bool any = false;
  for (int64_t u = 0; u < U; ++u) {
    if (ptr<uint8_t>(state)[u] != kFresh) continue;
    any = true;
    for (int64_t j = 0; j < D; ++j) sum[static_cast<size_t>(j)] += static_cast<A>(ptr<S>(grad)[u * D + j]);
  }
  if (!any) return;
  const ZeroCell<A> cell(ptr<S>(b_ih), ptr<S>(b_hh), D);
  const auto add = [](Tensor& t, int64_t at, A value) {
    S& to = ptr<S>(t)[at];
    to = static_cast<S>(static_cast<A>(to) + value);
  };
  for (int64_t j = 0; j < D; ++j) {
    const auto i = static_cast<size_t>(j);
    const A r = cell.r[i], z = cell.z[i], n = cell.n[i], dn = sum[i] * (A(1) - z) * (A(1) - n * n);
    const A dr = dn * static_cast<A>(ptr<S>(b_hh)[2 * D + j]) * r * (A(1) - r), dz = -sum[i] * n * z * (A(1) - z);
    for (Tensor* t : {&to.b_ih, &to.b_hh}) add(*t, j, dr), add(*t, D + j, dz);
    add(to.b_ih, 2 * D + j, dn);
    add(to.b_hh, 2 * D + j, dn * r);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> apply_messages_backward_cpu(
    const Tensor& grad_in, const Tensor& state, const Tensor& mail, const Tensor& dt, const Tensor& saved,
    const Tensor& time_w, const Tensor& time_b, const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih_in,
    const Tensor& b_hh_in, bool grad_time, bool grad_weights) {
  const Tensor grad = torch::stable::contiguous(grad_in), b_ih = torch::stable::contiguous(b_ih_in),
               b_hh = torch::stable::contiguous(b_hh_in);
  const int64_t U = grad.size(0), D = w_hh.size(1);
  MemoryRows rows;
  rows.place.emplace();
  for (int64_t u = 0; u < U; ++u)
    if (ptr<uint8_t>(state)[u] == kPending) rows.place->push_back(u);
  const auto P = static_cast<int64_t>(rows.place->size());
  rows.dt.assign(ptr<double>(dt), ptr<double>(dt) + P);
  MemoryGradients g(false, false, grad_time, grad_weights, mail.scalar_type());
  dispatch_floating(mail.scalar_type(), "apply_messages", [&](auto tag) {
    using S = decltype(tag);
    Tensor messages = mail;
    const Tensor own = torch::stable::narrow(messages, 1, 0, D);
    const MemoryCall<S> call(mail, own, time_w, time_b, w_ih, w_hh, rows, true, true);
    memory_backward<S>(call, ptr<S>(grad), ptr<acc_t<S>>(saved), g);
    if (grad_weights) add_fresh<S>(grad, state, b_ih, b_hh, g);
  });
  return {g.time_w, g.time_b, g.w_ih, g.w_hh, g.b_ih, g.b_hh};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("apply_messages", TORCH_BOX(&gnnaccel::apply_messages_cpu));
  m.impl("apply_messages_backward", TORCH_BOX(&gnnaccel::apply_messages_backward_cpu));
}
