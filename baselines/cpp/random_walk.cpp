#include "random_walk.h"

#include <algorithm>
#include <atomic>

#include "common.h"

namespace gnnaccel {
namespace {

Tensor random_walk_cpu(const Tensor& indptr, const Tensor& nbr, const Tensor& start, int64_t length, int64_t back,
                       int64_t near, int64_t away, int64_t restart, bool sorted_rows, int64_t seed, int64_t epoch,
                       int64_t offset) {
  const int64_t walks = start.numel();
  Tensor out = empty({walks, length + 1}, nbr.scalar_type());
  dispatch_ids(nbr.scalar_type(), "random_walk", [&](auto id) {
    using Id = decltype(id);
    WalkArgs<Id> a{};
    a.indptr = ptr<int64_t>(indptr);
    a.nbr = ptr<Id>(nbr);
    a.start = start.data_ptr();
    a.out = ptr<Id>(out);
    a.num_nodes = indptr.numel() - 1;
    a.num_walks = walks;
    a.length = length;
    a.back = static_cast<uint64_t>(back);
    a.near = static_cast<uint64_t>(near);
    a.away = static_cast<uint64_t>(away);
    a.restart = static_cast<uint64_t>(restart);
    a.seed = seed;
    a.epoch = epoch;
    a.offset = offset;
    a.start_is_64 = start.scalar_type() == ScalarType::Long;
    a.second_order = back != near || near != away;
    a.sorted = sorted_rows;
    std::atomic<bool> good{true};
    parallel_chunks(walks, kWalkBlock, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin; first < end; first += kWalkBlock)
        if (!walk_block(a, first, std::min(kWalkBlock, end - first))) good.store(false, std::memory_order_relaxed);
    });
    if (!good) throw std::runtime_error("random_walk: bad node");
  });
  return out;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("random_walk", TORCH_BOX(&gnnaccel::random_walk_cpu)); }
