#include "tcsr.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "common.h"

namespace gnnaccel {
namespace {

constexpr size_t kPage = size_t{2} << 20;

// Large arrays that are read at random want large pages: fewer page faults while they are filled, fewer TLB misses ever
// after. A request that the system may ignore.
void want_large_pages(void* begin, size_t bytes) {
#if defined(__linux__)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kPage - 1) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Tensor large(int64_t n, ScalarType dtype, size_t size) {
  Tensor out = empty({n}, dtype);
  want_large_pages(out.data_ptr(), static_cast<size_t>(n) * size);
  return out;
}

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
    const size_t id_size = wide ? 8 : 4;
    Tensor nbr = large(plan.entries, ids, id_size), eid = large(plan.entries, ids, id_size);
    Tensor sorted_t = large(plan.entries, t.scalar_type(), sizeof(Time));
    dispatch_ids(ids, "tcsr_build", [&](auto id) {
      using Id = decltype(id);
      auto build = [&](auto place) {
        using E = Entry<Id, Time, decltype(place)>;
        const size_t bytes = static_cast<size_t>(plan.entries) * sizeof(E);
        const std::unique_ptr<void, void (*)(void*)> space(std::aligned_alloc(kPage, bytes / kPage * kPage + kPage),
                                                           std::free);
        if (space == nullptr) throw std::bad_alloc();
        want_large_pages(space.get(), bytes);
        build_rows(events, plan, static_cast<E*>(space.get()), ptr<int64_t>(indptr), ptr<Id>(nbr), ptr<Id>(eid),
                   ptr<Time>(sorted_t), parallel);
      };
      plan.narrow() ? build(uint32_t{}) : build(uint64_t{});
    });
    out = {indptr, nbr, eid, sorted_t};
  };
  t.scalar_type() == ScalarType::Double ? run(double{}) : run(int64_t{});
  return out;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("tcsr_build", TORCH_BOX(&gnnaccel::tcsr_build_cpu)); }
