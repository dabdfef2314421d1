// Both directions of the memory cell over tensors, for every op that runs it.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

#include "memory_update.h"
#include "sum.h"

namespace gnnaccel {

// Which rows are updated. Empty `row`: row u of the tables; empty `place`: row u of the result and of its gradient.
struct MemoryRows {
  std::vector<double> dt;
  std::optional<std::vector<int64_t>> row, place;
};

inline void check_row(const char* what, int64_t row, int64_t at, int64_t limit) {
  if (row < 0 || row >= limit)
    throw std::invalid_argument(std::string(what) + " must be in [0, " + std::to_string(limit) + "), got " +
                                std::to_string(row) + " at " + std::to_string(at));
}

// The arguments that both directions share, alive as long as the kernels need them.
template <class S>
struct MemoryCall {
  using A = acc_t<S>;
  Tensor mail, memory, w_ih, w_hh;
  const MemoryRows& rows;
  std::vector<double> w, b;
  MemoryInputs<S, A> in;
  int64_t U, X, G;  // rows, width of x, width of all gates

  MemoryCall(const Tensor& mail_in, const Tensor& memory_in, const Tensor& time_w, const Tensor& time_b,
             const Tensor& w_ih_in, const Tensor& w_hh_in, const MemoryRows& rows_in, bool gru, bool own_first = false)
      : mail(with_dense_rows(mail_in)),
        memory(with_dense_rows(memory_in)),
        w_ih(torch::stable::contiguous(w_ih_in)),
        w_hh(torch::stable::contiguous(w_hh_in)),
        rows(rows_in) {
    // angles in turns for float, in radians for double: see time_encode_rows
    const double unit = std::is_same_v<A, double> ? 1.0 : kInvTwoPi;
    w = to_double(time_w, unit, "memory_update");
    b = to_double(time_b, unit, "memory_update");
    in = {ptr<S>(std::as_const(mail)),
          ptr<S>(std::as_const(memory)),
          mail.strides()[0],
          memory.strides()[0],
          rows.row ? rows.row->data() : nullptr,
          rows.place ? rows.place->data() : nullptr,
          rows.dt.data(),
          w.data(),
          b.data(),
          static_cast<int64_t>(rows.dt.size()),
          mail.size(1),
          time_w.size(0),
          memory.size(1),
          gru,
          own_first};
    U = in.U;
    X = in.Dm + in.T;
    G = in.gates() * in.D;
  }
};

// The cell with its weights packed. The call must outlive it.
template <class S>
class PackedCell {
  using A = acc_t<S>;

 public:
  PackedCell(const MemoryCall<S>& call, const Tensor& b_ih, const Tensor& b_hh)
      : call_(call),
        p_ih_(call.X, call.G),
        p_hh_(call.in.D, call.G - seen(call)),
        bias_ih_(values(b_ih, call.G)),
        bias_hh_(values(b_hh, call.G)) {
    const int64_t D = call.in.D, rows = seen(call);
    const S* w_hh = ptr<S>(call.w_hh);
    parallel_chunks(p_ih_.count(), 1, [&](int64_t p, int64_t) {
      p_ih_.pack_transposed(ptr<S>(call.w_ih), call.X, p);
      if (p < p_hh_.count()) p_hh_.pack_transposed(w_hh + rows * D, D, p);
      const int64_t nr = p_ih_.nr(), end = std::min(rows, (p + 1) * nr);
      for (int64_t i = p * nr; i < end; ++i)
        for (int64_t k = 0; k < D; ++k) p_ih_.panel(p)[k * nr + i % nr] += static_cast<A>(w_hh[i * D + k]);
    });
  }

  // Rows [begin, end) of the call, at most kRowTile, to `out`; what backward needs of them to `saved` unless null.
  void tile(int64_t begin, int64_t end, S* out, A* saved) {
    memory_update_tile<S, A>(call_.in, p_ih_.view(), p_hh_.view(), bias_ih_.data(), bias_hh_.data(), begin, end, out,
                             saved);
  }

 private:
  // Gates that see the memory as a part of the message.
  static int64_t seen(const MemoryCall<S>& call) { return call.in.own_first ? 2 * call.in.D : 0; }
  static std::vector<A> values(const Tensor& bias_in, int64_t n) {
    const Tensor bias = torch::stable::contiguous(bias_in);
    return {ptr<S>(bias), ptr<S>(bias) + n};
  }

  const MemoryCall<S>& call_;
  Panels<A> p_ih_, p_hh_;
  std::vector<A> bias_ih_, bias_hh_;
};

// New rows to `out`, what backward needs of them to `saved` [U, saved_width] unless null.
template <class S>
void memory_forward(const MemoryCall<S>& call, const Tensor& b_ih, const Tensor& b_hh, S* out, acc_t<S>* saved) {
  if (call.U == 0) return;
  PackedCell<S> cell(call, b_ih, b_hh);
  parallel_chunks(call.U, even_chunk(call.U, kRowTile),
                  [&](int64_t begin, int64_t end) { cell.tile(begin, end, out, saved); });
}

// Which gradients are wanted, and they: [0] where they are not.
struct MemoryGradients {
  bool want_mail, want_memory, want_time, want_weights;
  Tensor mail, memory, time_w, time_b, w_ih, w_hh, b_ih, b_hh;

  MemoryGradients(bool of_mail, bool of_memory, bool of_time, bool of_weights, ScalarType dtype)
      : want_mail(of_mail), want_memory(of_memory), want_time(of_time), want_weights(of_weights) {
    for (Tensor* t : {&mail, &memory, &time_w, &time_b, &w_ih, &w_hh, &b_ih, &b_hh}) *t = empty({0}, dtype);
  }
};

template <class S>
void memory_backward(const MemoryCall<S>& call, const S* grad, const acc_t<S>* saved, MemoryGradients& out) {
  using A = acc_t<S>;
  const auto& in = call.in;
  const int64_t U = call.U, D = in.D, T = in.T, X = call.X, G = call.G, width = in.saved_width();

  // weights as [K = gates, N], the parts that are wanted
  Panels<A> w_mail(G, out.want_mail ? in.Dm : 0), w_time(G, out.want_time ? T : 0), w_h(G, out.want_memory ? D : 0);
  const int64_t first_time = w_mail.count(), first_h = first_time + w_time.count();
  parallel_chunks(first_h + w_h.count(), 1, [&](int64_t p, int64_t) {
    if (p < first_time)
      w_mail.pack(ptr<S>(call.w_ih), X, p);
    else if (p < first_h)
      w_time.pack(ptr<S>(call.w_ih) + in.Dm, X, p - first_time);
    else
      w_h.pack(ptr<S>(call.w_hh), D, p - first_h);
  });

  const RowPlan plan(U, kGradTile);
  std::optional<Sum<S>> s_mail, s_memory, s_w_ih, s_w_hh;
  std::vector<A> x_rows, h_rows;  // gradients of gathered rows, before they are added up by table row
  MemoryGrads<A> want;
  want.time = out.want_time;
  want.weights = out.want_weights;
  if (out.want_mail) {
    s_mail.emplace(std::initializer_list<int64_t>{call.mail.size(0), in.Dm});
    s_mail->zero();
    if (in.rows) x_rows.resize(static_cast<size_t>(U * in.Dm));
    want.x_mail = in.rows ? x_rows.data() : s_mail->data();
  }
  if (out.want_memory) {
    s_memory.emplace(std::initializer_list<int64_t>{call.memory.size(0), D});
    s_memory->zero();
    if (in.rows) h_rows.resize(static_cast<size_t>(U * D));
    want.h = in.rows ? h_rows.data() : s_memory->data();
  }
  if (out.want_weights) {
    s_w_ih.emplace(std::initializer_list<int64_t>{G, X}, plan.slabs);
    s_w_hh.emplace(std::initializer_list<int64_t>{G, D}, plan.slabs);
    if (U == 0) s_w_ih->zero(), s_w_hh->zero();
  }

  std::vector<MemoryBlock<A>> blocks;
  for (int64_t i = 0; i < plan.blocks; ++i) blocks.emplace_back(plan.block, out.want_weights ? X : 0, D, width, T);
  const auto block = [&](int64_t slab) -> MemoryBlock<A>& { return blocks[static_cast<size_t>(slab % plan.blocks)]; };
  const Packed<A> v_mail = w_mail.view(), v_time = w_time.view(), v_h = w_h.view();
  const int64_t sums_width = width + 2 * T;
  std::vector<double> sums(static_cast<size_t>(plan.slabs * sums_width), 0.0);
  const int64_t weight_tasks = out.want_weights ? in.gates() * (blocks[0].x.panels() + blocks[0].h.panels()) : 0;
  plan.run(
      1 + weight_tasks,
      [&](int64_t slab, int64_t first, int64_t begin, int64_t end) {
        memory_update_grad_tile<S, A>(in, grad, saved, v_mail, v_time, v_h, first, begin, end, block(slab), want);
      },
      [&](int64_t slab, int64_t task, int64_t depth, bool fresh) {
        memory_update_sum_task<A>(
            task, D, X, depth, in.own_first, block(slab), fresh, out.want_weights ? s_w_ih->data(slab) : nullptr,
            out.want_weights ? s_w_hh->data(slab) : nullptr, sums.data() + slab * sums_width, sums_width);
      });

  const auto scatter = [&](const std::vector<A>& values, int64_t columns, Sum<S>& sum) {
    constexpr int64_t kColumns = 64;
    parallel_chunks(columns, kColumns, [&](int64_t c0, int64_t c1) {
      scatter_add_columns(values.data(), in.rows, U, columns, c0, c1, sum.data());
    });
  };
  if (out.want_mail) {
    if (in.rows) scatter(x_rows, in.Dm, *s_mail);
    out.mail = s_mail->finish();
  }
  if (out.want_memory) {
    if (in.rows) scatter(h_rows, D, *s_memory);
    out.memory = s_memory->finish();
  }

  const auto total = [&](int64_t at, int64_t n, S* to) {
    for (int64_t j = at; j < at + n; ++j) {
      double sum = 0;
      for (int64_t slab = 0; slab < plan.slabs; ++slab) sum += sums[static_cast<size_t>(slab * sums_width + j)];
      *to++ = static_cast<S>(static_cast<A>(sum));
    }
  };
  if (out.want_time) {
    out.time_w = empty({T}, dtype_of<S>());
    out.time_b = empty({T}, dtype_of<S>());
    total(width, T, ptr<S>(out.time_w));
    total(width + T, T, ptr<S>(out.time_b));
  }
  if (out.want_weights) {
    out.w_ih = s_w_ih->finish();
    out.w_hh = s_w_hh->finish();
    for (int64_t i = 0; i < 2 * D && in.own_first; ++i)
      std::copy_n(ptr<S>(out.w_ih) + i * X, D, ptr<S>(out.w_hh) + i * D);
    out.b_ih = empty({G}, dtype_of<S>());
    out.b_hh = empty({G}, dtype_of<S>());
    total(0, G, ptr<S>(out.b_ih));
    total(0, G, ptr<S>(out.b_hh));
    if (in.gru) total(3 * D, D, ptr<S>(out.b_hh) + 2 * D);
  }
}

}  // namespace gnnaccel
