#include "tcsr.h"

#include <atomic>

#include "common.h"

namespace gnnaccel {
namespace {

// Tasks are taken as threads come free: buckets differ in size.
template <class Own, class F>
void parallel_tasks(int64_t n, const Own& initial, const F& f) {
  const int64_t threads = std::min<int64_t>(n, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  auto work = [&](int64_t, int64_t) {
    Own own = initial;
    for (int64_t i = next++; i < n; i = next++) f(own, i);
  };
  if (threads <= 1) {
    work(0, 1);
  } else {
    torch::stable::parallel_for(0, threads, 1, work);
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> tcsr_build_cpu(const Tensor& src, const Tensor& dst, const Tensor& t,
                                                          int64_t num_nodes, bool add_reverse, bool wide) {
  const auto ids = wide ? ScalarType::Long : ScalarType::Int;
  Tensor indptr = empty({num_nodes + 1}, ScalarType::Long);
  std::tuple<Tensor, Tensor, Tensor, Tensor> out{indptr, indptr, indptr, indptr};
  auto parallel = [](int64_t n, const auto& own, const auto& f) { parallel_tasks(n, own, f); };
  auto run = [&](auto time) {
    using Time = decltype(time);
    const Events<Time> events{ptr<int64_t>(src), ptr<int64_t>(dst), ptr<Time>(t), src.numel(), num_nodes, add_reverse};
    Plan plan = plan_rows(events, parallel);
    Tensor nbr = empty({plan.entries}, ids), eid = empty({plan.entries}, ids);
    Tensor sorted_t = empty({plan.entries}, t.scalar_type());
    dispatch_ids(ids, "tcsr_build", [&](auto id) {
      using Id = decltype(id);
      auto build = [&](auto* place) {
        build_rows(events, plan, place, ptr<int64_t>(indptr), ptr<Id>(nbr), ptr<Id>(eid), ptr<Time>(sorted_t),
                   parallel);
      };
      if (wide) {
        build(static_cast<uint64_t*>(eid.data_ptr()));
      } else if (plan.narrow()) {
        build(static_cast<uint32_t*>(eid.data_ptr()));
      } else {  // nodes of a bucket and events of a chunk do not fit 32 bits together
        Tensor place = empty({plan.entries}, ScalarType::Long);
        build(static_cast<uint64_t*>(place.data_ptr()));
      }
    });
    out = {indptr, nbr, eid, sorted_t};
  };
  t.scalar_type() == ScalarType::Double ? run(double{}) : run(int64_t{});
  return out;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("tcsr_build", TORCH_BOX(&gnnaccel::tcsr_build_cpu)); }
