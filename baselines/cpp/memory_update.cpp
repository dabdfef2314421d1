#include "memory_update.h"

#include <optional>
#include <type_traits>
#include <utility>

#include "common.h"
#include "sum.h"

namespace gnnaccel {
namespace {

std::vector<double> time_to_double(const Tensor& t_in) {
  const Tensor t = torch::stable::contiguous(t_in);
  std::vector<double> out(static_cast<size_t>(t.numel()));
  dispatch_time(t.scalar_type(), "memory_update", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(t);
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<double>(p[i]);
  });
  return out;
}

std::vector<int64_t> checked_rows(const Tensor& rows_in, int64_t limit) {
  const Tensor rows = torch::stable::contiguous(rows_in);
  std::vector<int64_t> out(static_cast<size_t>(rows.numel()));
  dispatch_ids(rows.scalar_type(), "memory_update", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(rows);
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<int64_t>(p[i]);
      if (out[i] < 0 || out[i] >= limit)
        throw std::invalid_argument("memory_update: rows must be in [0, " + std::to_string(limit) + "), got " +
                                    std::to_string(out[i]) + " at " + std::to_string(i));
    }
  });
  return out;
}

// The arguments that both directions share, alive as long as the kernels need them.
template <class S>
struct Call {
  using A = acc_t<S>;
  Tensor mail, memory, w_ih, w_hh;
  std::vector<double> dt, w, b;
  std::vector<int64_t> rows;
  MemoryInputs<S, A> in;
  int64_t U, X, G;  // rows, width of x, width of all gates

  Call(const Tensor& mail_in, const Tensor& dt_in, const Tensor& memory_in, const Tensor& time_w, const Tensor& time_b,
       const Tensor& w_ih_in, const Tensor& w_hh_in, const std::optional<Tensor>& rows_in, bool gru)
      : mail(with_dense_rows(mail_in)),
        memory(with_dense_rows(memory_in)),
        w_ih(torch::stable::contiguous(w_ih_in)),
        w_hh(torch::stable::contiguous(w_hh_in)),
        dt(time_to_double(dt_in)) {
    // angles in turns for float, in radians for double: see time_encode_rows
    const double unit = std::is_same_v<A, double> ? 1.0 : kInvTwoPi;
    w = to_double(time_w, unit, "memory_update");
    b = to_double(time_b, unit, "memory_update");
    if (rows_in.has_value()) rows = checked_rows(*rows_in, memory.size(0));
    in = {ptr<S>(std::as_const(mail)),
          ptr<S>(std::as_const(memory)),
          mail.strides()[0],
          memory.strides()[0],
          rows_in.has_value() ? rows.data() : nullptr,
          dt.data(),
          w.data(),
          b.data(),
          mail.size(1),
          time_w.size(0),
          memory.size(1),
          gru};
    U = static_cast<int64_t>(dt.size());
    X = in.Dm + in.T;
    G = in.gates() * in.D;
  }
};

std::tuple<Tensor, Tensor> memory_update_cpu(const Tensor& mail, const Tensor& dt, const Tensor& memory,
                                             const Tensor& time_w, const Tensor& time_b, const Tensor& w_ih,
                                             const Tensor& w_hh, const Tensor& b_ih, const Tensor& b_hh,
                                             std::optional<Tensor> rows, bool gru, bool save) {
  const int64_t U = dt.numel(), D = memory.size(1);
  Tensor out = empty({U, D}, memory.scalar_type()), saved;
  dispatch_floating(memory.scalar_type(), "memory_update", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const Call<S> call(mail, dt, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    saved = empty({save ? U : 0, call.in.saved_width()}, dtype_of<A>());
    if (U == 0) return;
    Panels<A> p_ih(call.X, call.G), p_hh(D, call.G);
    parallel_chunks(p_ih.count() + p_hh.count(), 1, [&](int64_t p, int64_t) {
      if (p < p_ih.count())
        p_ih.pack_transposed(ptr<S>(call.w_ih), call.X, p);
      else
        p_hh.pack_transposed(ptr<S>(call.w_hh), D, p - p_ih.count());
    });
    std::vector<A> bias_ih(static_cast<size_t>(call.G)), bias_hh(bias_ih);
    const Tensor bi = torch::stable::contiguous(b_ih), bh = torch::stable::contiguous(b_hh);
    for (size_t j = 0; j < bias_ih.size(); ++j) {
      bias_ih[j] = static_cast<A>(ptr<S>(bi)[j]);
      bias_hh[j] = static_cast<A>(ptr<S>(bh)[j]);
    }
    const Packed<A> w_i = p_ih.view(), w_h = p_hh.view();
    S* o = ptr<S>(out);
    A* s = save ? ptr<A>(saved) : nullptr;
    parallel_chunks(U, even_chunk(U, kRowTile), [&](int64_t begin, int64_t end) {
      memory_update_tile<S, A>(call.in, w_i, w_h, bias_ih.data(), bias_hh.data(), begin, end, o, s);
    });
  });
  return {out, saved};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> memory_update_backward_cpu(
    const Tensor& grad_in, const Tensor& saved_in, const Tensor& mail, const Tensor& dt, const Tensor& memory,
    const Tensor& time_w, const Tensor& time_b, const Tensor& w_ih, const Tensor& w_hh, std::optional<Tensor> rows,
    bool gru, bool grad_mail, bool grad_memory, bool grad_time, bool grad_weights) {
  const Tensor grad = torch::stable::contiguous(grad_in), saved = torch::stable::contiguous(saved_in);
  const auto none = [&] { return empty({0}, memory.scalar_type()); };
  Tensor g_mail = none(), g_memory = none(), g_time_w = none(), g_time_b = none(), g_w_ih = none(), g_w_hh = none(),
         g_b_ih = none(), g_b_hh = none();
  dispatch_floating(memory.scalar_type(), "memory_update", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const Call<S> call(mail, dt, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    const auto& in = call.in;
    const int64_t U = call.U, D = in.D, T = in.T, X = call.X, G = call.G, width = in.saved_width();

    // weights as [K = gates, N], the parts that are wanted
    Panels<A> w_mail(G, grad_mail ? in.Dm : 0), w_time(G, grad_time ? T : 0), w_h(G, grad_memory ? D : 0);
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
    want.time = grad_time;
    want.weights = grad_weights;
    if (grad_mail) {
      s_mail.emplace(std::initializer_list<int64_t>{mail.size(0), in.Dm});
      s_mail->zero();
      if (in.rows) x_rows.resize(static_cast<size_t>(U * in.Dm));
      want.x_mail = in.rows ? x_rows.data() : s_mail->data();
    }
    if (grad_memory) {
      s_memory.emplace(std::initializer_list<int64_t>{memory.size(0), D});
      s_memory->zero();
      if (in.rows) h_rows.resize(static_cast<size_t>(U * D));
      want.h = in.rows ? h_rows.data() : s_memory->data();
    }
    if (grad_weights) {
      s_w_ih.emplace(std::initializer_list<int64_t>{G, X}, plan.slabs);
      s_w_hh.emplace(std::initializer_list<int64_t>{G, D}, plan.slabs);
      if (U == 0) s_w_ih->zero(), s_w_hh->zero();
    }

    std::vector<MemoryBlock<A>> blocks;
    for (int64_t i = 0; i < plan.blocks; ++i) blocks.emplace_back(plan.block, grad_weights ? X : 0, D, width, T);
    const auto block = [&](int64_t slab) -> MemoryBlock<A>& { return blocks[static_cast<size_t>(slab % plan.blocks)]; };
    const Packed<A> v_mail = w_mail.view(), v_time = w_time.view(), v_h = w_h.view();
    const int64_t sums_width = width + 2 * T;
    std::vector<double> sums(static_cast<size_t>(plan.slabs * sums_width), 0.0);
    const int64_t weight_tasks = grad_weights ? in.gates() * (blocks[0].x.panels() + blocks[0].h.panels()) : 0;
    plan.run(
        1 + weight_tasks,
        [&](int64_t slab, int64_t first, int64_t begin, int64_t end) {
          memory_update_grad_tile<S, A>(in, ptr<S>(grad), ptr<A>(saved), v_mail, v_time, v_h, first, begin, end,
                                        block(slab), want);
        },
        [&](int64_t slab, int64_t task, int64_t depth, bool fresh) {
          memory_update_sum_task<A>(task, D, X, depth, block(slab), fresh, grad_weights ? s_w_ih->data(slab) : nullptr,
                                    grad_weights ? s_w_hh->data(slab) : nullptr, sums.data() + slab * sums_width,
                                    sums_width);
        });

    const auto scatter = [&](const std::vector<A>& values, int64_t columns, Sum<S>& sum) {
      constexpr int64_t kColumns = 64;
      parallel_chunks(columns, kColumns, [&](int64_t c0, int64_t c1) {
        scatter_add_columns(values.data(), in.rows, U, columns, c0, c1, sum.data());
      });
    };
    if (grad_mail) {
      if (in.rows) scatter(x_rows, in.Dm, *s_mail);
      g_mail = s_mail->finish();
    }
    if (grad_memory) {
      if (in.rows) scatter(h_rows, D, *s_memory);
      g_memory = s_memory->finish();
    }

    const auto total = [&](int64_t at, int64_t n, S* out) {
      for (int64_t j = at; j < at + n; ++j) {
        double sum = 0;
        for (int64_t slab = 0; slab < plan.slabs; ++slab) sum += sums[static_cast<size_t>(slab * sums_width + j)];
        *out++ = static_cast<S>(static_cast<A>(sum));
      }
    };
    if (grad_time) {
      g_time_w = empty({T}, memory.scalar_type());
      g_time_b = empty({T}, memory.scalar_type());
      total(width, T, ptr<S>(g_time_w));
      total(width + T, T, ptr<S>(g_time_b));
    }
    if (grad_weights) {
      g_w_ih = s_w_ih->finish();
      g_w_hh = s_w_hh->finish();
      g_b_ih = empty({G}, memory.scalar_type());
      g_b_hh = empty({G}, memory.scalar_type());
      total(0, G, ptr<S>(g_b_ih));
      total(0, G, ptr<S>(g_b_hh));
      if (gru) total(3 * D, D, ptr<S>(g_b_hh) + 2 * D);
    }
  });
  return {g_mail, g_memory, g_time_w, g_time_b, g_w_ih, g_w_hh, g_b_ih, g_b_hh};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("memory_update", TORCH_BOX(&gnnaccel::memory_update_cpu));
  m.impl("memory_update_backward", TORCH_BOX(&gnnaccel::memory_update_backward_cpu));
}
