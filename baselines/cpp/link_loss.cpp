#include "link_loss.h"

#include <tuple>

#include "common.h"
#include "sum.h"

namespace gnnaccel {
namespace {

using Seven = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// [n] in A, then zeros.
template <class S, class A>
std::vector<A> values_of(const Tensor& t, int64_t n) {
  std::vector<A> out(static_cast<size_t>(n), A{0});
  for (int64_t i = 0; i < t.numel(); ++i) out[static_cast<size_t>(i)] = static_cast<A>(ptr<S>(t)[i]);
  return out;
}

template <class S, class A, class F>
Tensor summed(const std::vector<LinkSums<A>>& slabs, int64_t n, const F& of) {
  Tensor out = empty({n}, dtype_of<S>());
  for (int64_t j = 0; j < n; ++j) {
    double total = 0;
    for (const auto& slab : slabs) total += static_cast<double>(of(slab)[j]);
    ptr<S>(out)[j] = static_cast<S>(static_cast<A>(total));
  }
  return out;
}

template <class S>
Seven link_loss_typed(const Tensor& h, const Tensor& w_src, const Tensor& b_src, const Tensor& w_dst,
                      const Tensor& w_out, const Tensor& b_out, int64_t events, bool grads) {
  using A = acc_t<S>;
  const int64_t D = h.size(1), N = w_src.size(0);
  const LinkShape shape = {events, h.size(0) / events - 2, D, N};
  const ScalarType dtype = h.scalar_type();

  Panels<A> src(D, N), dst(D, N), src_back(N, D), dst_back(N, D);
  const int64_t forward = src.count(), back = grads ? src_back.count() : 0;
  parallel_chunks(2 * (forward + back), 1, [&](int64_t i, int64_t) {
    const bool second = i >= forward + back;
    const S* w = ptr<S>(second ? w_dst : w_src);
    const int64_t p = second ? i - forward - back : i;
    if (p < forward)
      (second ? dst : src).pack_transposed(w, D, p);
    else
      (second ? dst_back : src_back).pack(w, D, p - forward);
  });
  const auto bias = values_of<S, A>(b_src, N), out = values_of<S, A>(w_out, round_up(N, kLinkLanes));
  const LinkWeights<A> weights = {src.view(),
                                  dst.view(),
                                  src_back.view(),
                                  dst_back.view(),
                                  bias.data(),
                                  out.data(),
                                  static_cast<A>(ptr<S>(b_out)[0])};

  const int64_t slabs = link_slabs(events);
  Tensor dh = empty({grads ? h.size(0) : 0, D}, dtype);
  Sum<S> dw_src({grads ? N : 0, D}, slabs), dw_dst({grads ? N : 0, D}, slabs);
  std::vector<LinkSums<A>> sums;
  for (int64_t s = 0; s < slabs; ++s) sums.emplace_back(dw_src.data(s), dw_dst.data(s), N);
  parallel_chunks(slabs, 1, [&](int64_t s, int64_t) {
    link_slab<S, A>(ptr<S>(h), events * s / slabs, events * (s + 1) / slabs, shape, weights,
                    sums[static_cast<size_t>(s)], grads, ptr<S>(dh));
  });

  double loss = 0, db_out = 0;
  for (const auto& slab : sums) loss += slab.loss, db_out += slab.out_bias;
  Tensor total = empty({}, dtype), d_out_bias = empty({grads ? 1 : 0}, dtype);
  ptr<S>(total)[0] = static_cast<S>(static_cast<A>(loss));
  if (grads) ptr<S>(d_out_bias)[0] = static_cast<S>(static_cast<A>(db_out));
  const int64_t n = grads ? N : 0;
  return {total,           dh,
          dw_src.finish(), summed<S, A>(sums, n, [](const LinkSums<A>& s) { return s.bias.data(); }),
          dw_dst.finish(), summed<S, A>(sums, n, [](const LinkSums<A>& s) { return s.out.data(); }),
          d_out_bias};
}

Seven link_loss_cpu(const Tensor& h, const Tensor& w_src, const Tensor& b_src, const Tensor& w_dst, const Tensor& w_out,
                    const Tensor& b_out, int64_t events, bool grads) {
  const auto dense = [](const Tensor& t) { return torch::stable::contiguous(t); };
  Seven result = {h, h, h, h, h, h, h};
  dispatch_floating(h.scalar_type(), "link_loss", [&](auto tag) {
    result = link_loss_typed<decltype(tag)>(dense(h), dense(w_src), dense(b_src), dense(w_dst), dense(w_out),
                                            dense(b_out), events, grads);
  });
  return result;
}

Six link_loss_backward_cpu(const Tensor& grad, const Tensor& dh, const Tensor& dw_src, const Tensor& db_src,
                           const Tensor& dw_dst, const Tensor& dw_out, const Tensor& db_out) {
  constexpr int64_t kChunk = 1 << 15;
  const auto scaled = [&](const Tensor& t_in) {
    const Tensor t = torch::stable::contiguous(t_in);
    Tensor out = empty(sizes_of(t), t.scalar_type());
    dispatch_floating(t.scalar_type(), "link_loss", [&](auto tag) {
      using S = decltype(tag);
      const auto factor = static_cast<acc_t<S>>(ptr<S>(grad)[0]);
      const S* from = ptr<S>(t);
      S* to = ptr<S>(out);
      parallel_chunks(t.numel(), kChunk, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = static_cast<S>(factor * static_cast<acc_t<S>>(from[i]));
      });
    });
    return out;
  };
  return {scaled(dh), scaled(dw_src), scaled(db_src), scaled(dw_dst), scaled(dw_out), scaled(db_out)};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("link_loss", TORCH_BOX(&gnnaccel::link_loss_cpu));
  m.impl("link_loss_backward", TORCH_BOX(&gnnaccel::link_loss_backward_cpu));
}
