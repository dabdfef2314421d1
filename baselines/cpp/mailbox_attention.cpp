#include <tuple>

#include "temporal_attention_io.h"

namespace gnnaccel {
namespace {

constexpr const char* kMailbox = "mailbox_attention";

// The mailboxes and who reads them, checked: every node is in range. What temporal attention calls neighbour k of a
// root is here the k-th filled slot of a row's node.
template <class A>
struct Mails {
  const Tensor &sent_at, &filled, &asked_at;
  int64_t P, S;
  RowSource<A> mail;
  std::vector<int64_t> node;

  Mails(const Tensor& mail_table, const Tensor& mail_time, const Tensor& has_mail, const Tensor& nodes,
        const Tensor& times)
      : sent_at(mail_time),
        filled(has_mail),
        asked_at(times),
        P(nodes.size(0)),
        S(mail_table.size(1)),
        mail(mail_table, mail_table.size(2)),
        node(static_cast<size_t>(P)) {
    const int64_t N = mail_table.size(0);
    dispatch_ids(nodes.scalar_type(), kMailbox, [&](auto tag) {
      const auto* ids = ptr<decltype(tag)>(nodes);
      for (int64_t p = 0; p < P; ++p) {
        const int64_t n = node[static_cast<size_t>(p)] = static_cast<int64_t>(ids[p]);
        if (n < 0 || n >= N)
          throw std::invalid_argument(std::string(kMailbox) + ": nodes must be in [0, " + std::to_string(N) +
                                      "), got " + std::to_string(n));
      }
    });
  }

  // Rows a task: fixed, so that sums do not depend on the number of threads.
  int64_t chunk() const { return std::max<int64_t>(1, kChunkEdges / (S + 1)); }
  int64_t tasks() const { return (P + chunk() - 1) / chunk(); }

  bool has(int64_t n, int64_t slot) const { return ptr<bool>(filled)[n * S + slot]; }
  double dt(int64_t p, int64_t n, int64_t slot) const {
    const int64_t i = n * S + slot;
    if (sent_at.scalar_type() == ScalarType::Double) return ptr<double>(asked_at)[p] - ptr<double>(sent_at)[i];
    // unsigned: the difference of two extremes wraps, as torch's does
    const auto later = static_cast<uint64_t>(ptr<int64_t>(asked_at)[p]);
    return static_cast<double>(static_cast<int64_t>(later - static_cast<uint64_t>(ptr<int64_t>(sent_at)[i])));
  }

  // Fills the mail part of x, and dt; slot[k] = slot of mail k. Returns the number of mails.
  int64_t gather(AttentionScratch<A>& m, int64_t width, int64_t p, int64_t* slot) const {
    const int64_t n = node[static_cast<size_t>(p)];
    int64_t mails = 0;
    for (int64_t i = 0; i < S; ++i) {
      if (!has(n, i)) continue;
      mail.get(n, i, m.x + mails * width);
      m.dt[mails] = dt(p, n, i);
      slot[mails++] = i;
    }
    const int64_t next = p + 1 < P ? node[static_cast<size_t>(p + 1)] : n;
    for (int64_t i = 0; next != n && i < S; ++i)
      if (has(next, i)) mail.prefetch(next, i);
    return mails;
  }
};

// Calls f(AttentionShape<A>, Mails<A>) with contiguous inputs.
template <class F>
void with_mails(ScalarType dtype, int64_t H, const Tensor& mail_in, const Tensor& mail_time_in,
                const Tensor& has_mail_in, const Tensor& nodes_in, const Tensor& times_in, const Tensor& w_in,
                const Tensor& b_in, double scale, double slope, double dropout, int64_t seed, const F& f) {
  const Tensor mail = with_dense_rows(mail_in), mail_time = torch::stable::contiguous(mail_time_in),
               has_mail = torch::stable::contiguous(has_mail_in), nodes = torch::stable::contiguous(nodes_in),
               times = torch::stable::contiguous(times_in);
  const auto run = [&](auto tag) {
    using A = decltype(tag);
    const AngleWeights<A> time(w_in, b_in);
    const int64_t S = mail.size(1), M = mail.size(2), T = w_in.numel(), F_ = M + T;
    const AttentionShape<A> a{AttentionDropout(dropout, seed, H, S),
                              S,
                              H,
                              M,
                              0,
                              T,
                              F_,
                              round_up(F_, kLanes<A>),
                              round_up(S, 16),
                              static_cast<A>(scale),
                              static_cast<A>(slope),
                              time.w.data(),
                              time.b.data()};
    f(a, Mails<A>(mail, mail_time, has_mail, nodes, times));
  };
  if (dtype == ScalarType::Double) return run(double{});
  run(float{});
}

// One thread's memory: that of a root, its random words, and the slots of its mails.
template <class A>
struct RowScratch : AttentionScratch<A> {
  std::vector<uint32_t> words;
  std::vector<int64_t> slot;

  explicit RowScratch(const AttentionShape<A>& a)
      : AttentionScratch<A>(a), words(static_cast<size_t>(a.dropout.stride)), slot(static_cast<size_t>(a.K)) {}

  // Returns the number of mails of row p.
  int64_t read(const AttentionShape<A>& a, const Mails<A>& mails, int64_t p) {
    const int64_t n = mails.gather(*this, a.width, p, slot.data());
    if (n == 0 || !a.dropout.active) return n;
    a.dropout.words(&p, 1, words.data());
    // words are counted by slot
    for (int64_t h = 0; h < a.H; ++h)
      for (int64_t k = 0; k < n; ++k) {
        uint32_t* head = words.data() + h * a.dropout.per_head;
        head[k] = head[slot[static_cast<size_t>(k)]];
      }
    return n;
  }
};

std::tuple<Tensor, Tensor, Tensor> mailbox_attention_cpu(const Tensor& u_in, const Tensor& c_in, const Tensor& mail,
                                                         const Tensor& mail_time, const Tensor& has_mail,
                                                         const Tensor& nodes, const Tensor& times, const Tensor& time_w,
                                                         const Tensor& time_b, double scale, double slope,
                                                         double dropout, int64_t seed) {
  const Tensor u = with_dense_rows(u_in), c = with_dense_rows(c_in);
  const int64_t P = u.size(0), H = u.size(1), F_ = u.size(2), S = mail.size(1);
  Tensor z = empty({P, H, F_}, u.scalar_type()), s = empty({P, H}, u.scalar_type()),
         logit = empty({P, H, S}, acc_type(u));
  const auto run = [&](const auto& a, const auto& mails) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(a.scale)>>;
    const RowSource<A> u_rows(u, F_), c_rows(c, H);
    const Store<A> store = storer<A>(u.scalar_type());
    void *z_out = z.data_ptr(), *s_out = s.data_ptr();
    A* logit_out = ptr<A>(logit);
    torch::stable::parallel_for(0, mails.tasks(), 1, [&](int64_t first, int64_t last) {
      RowScratch<A> m(a);
      for (int64_t p = first * mails.chunk(); p < std::min(P, last * mails.chunk()); ++p) {
        const int64_t n = m.read(a, mails, p);
        if (n > 0) {
          for (int64_t h = 0; h < H; ++h) u_rows.get(p, h, m.q + h * a.width);
          c_rows.get_row(p, m.c);
          attend_root(a, m, m.words.data(), n);
        } else {
          std::fill_n(m.z, H * a.width, A{0});
          std::fill_n(m.s, H, A{0});
        }
        for (int64_t h = 0; h < H; ++h) {
          A* out = logit_out + (p * H + h) * S;
          std::fill_n(out, S, A{0});
          for (int64_t k = 0; k < n; ++k) out[m.slot[static_cast<size_t>(k)]] = m.logit[h * a.slots + k];
          store(z_out, (p * H + h) * F_, F_, m.z + h * a.width);
        }
        store(s_out, p * H, H, m.s);
      }
    });
  };
  with_mails(u.scalar_type(), H, mail, mail_time, has_mail, nodes, times, time_w, time_b, scale, slope, dropout, seed,
             run);
  return {z, s, logit};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mailbox_attention_backward_cpu(
    const Tensor& grad_z, const Tensor& grad_s, const Tensor& u_in, const Tensor& mail, const Tensor& mail_time,
    const Tensor& has_mail, const Tensor& nodes, const Tensor& times, const Tensor& time_w, const Tensor& time_b,
    const Tensor& logit_in, double scale, double slope, double dropout, int64_t seed) {
  const Tensor u = with_dense_rows(u_in), dz_in = with_dense_rows(grad_z), ds_in = with_dense_rows(grad_s),
               logits = torch::stable::contiguous(logit_in);
  const int64_t P = u.size(0), H = u.size(1), F_ = u.size(2), S = mail.size(1), T = time_w.numel();
  Tensor du = empty({P, H, F_}, u.scalar_type()), dc = empty({P, H}, u.scalar_type());
  Tensor grad_w = empty({T}, time_w.scalar_type()), grad_b = empty({T}, time_b.scalar_type());
  const auto run = [&](const auto& a, const auto& mails) {
    using A = std::remove_const_t<std::remove_reference_t<decltype(a.scale)>>;
    const RowSource<A> u_rows(u, F_), dz(dz_in, F_), ds(ds_in, H);
    const Store<A> store = storer<A>(u.scalar_type());
    void *du_out = du.data_ptr(), *dc_out = dc.data_ptr();
    const A* logit_data = ptr<A>(logits);
    TimeGradient time(mails.tasks(), T);
    torch::stable::parallel_for(0, mails.tasks(), 1, [&](int64_t first, int64_t last) {
      RowScratch<A> m(a);
      for (int64_t task = first; task < last; ++task) {
        time.begin(m);
        for (int64_t p = task * mails.chunk(); p < std::min(P, (task + 1) * mails.chunk()); ++p) {
          const int64_t n = m.read(a, mails, p);
          if (n > 0) {
            for (int64_t h = 0; h < H; ++h) {
              u_rows.get(p, h, m.q + h * a.width);
              dz.get(p, h, m.dz + h * a.width);
              const A* of_head = logit_data + (p * H + h) * S;
              for (int64_t k = 0; k < n; ++k) m.logit[h * a.slots + k] = of_head[m.slot[static_cast<size_t>(k)]];
            }
            ds.get_row(p, m.ds);
            attend_root_backward(a, m, m.words.data(), n);
          } else {
            std::fill_n(m.z, H * a.width, A{0});
            std::fill_n(m.dc, H, A{0});
          }
          for (int64_t h = 0; h < H; ++h) store(du_out, (p * H + h) * F_, F_, m.z + h * a.width);
          store(dc_out, p * H, H, m.dc);
        }
        time.end(m, task);
      }
    });
    time.finish(grad_w, grad_b);
  };
  with_mails(u.scalar_type(), H, mail, mail_time, has_mail, nodes, times, time_w, time_b, scale, slope, dropout, seed,
             run);
  return {du, dc, grad_w, grad_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("mailbox_attention", TORCH_BOX(&gnnaccel::mailbox_attention_cpu));
  m.impl("mailbox_attention_backward", TORCH_BOX(&gnnaccel::mailbox_attention_backward_cpu));
}
