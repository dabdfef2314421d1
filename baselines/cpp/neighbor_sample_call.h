// From tensors to the arguments of the neighbour sampler, and its run on torch's threads. Shared by neighbor_sample and
// sample_hops.
#pragma once

#include <atomic>
#include <optional>

#include "common.h"
#include "neighbor_sample.h"

namespace gnnaccel {

constexpr int64_t kRootGrain = 256;  // roots below which a second thread costs more than it brings

struct GraphTensors {
  const Tensor& indptr;
  const Tensor& nbr;
  const std::optional<Tensor>&eid, &relation, &weight, &exclude;
};

// Bits at the low bits of the excluded ids: most ids are told to be none of them by one look.
class ExcludeFilter {
 public:
  explicit ExcludeFilter(const std::optional<Tensor>& exclude) {
    if (!exclude.has_value()) return;
    int64_t bits = 64;
    while (bits < 16 * exclude->numel() && bits < (int64_t{1} << 22)) bits *= 2;
    mask_ = bits - 1;
    bits_.assign(static_cast<size_t>(bits / 64), 0);
    for (int64_t i = 0; i < exclude->numel(); ++i) {
      const auto bit = static_cast<uint64_t>(ptr<int64_t>(*exclude)[i] & mask_);
      bits_[bit >> 6] |= uint64_t{1} << (bit & 63);
    }
  }
  const uint64_t* bits() const { return bits_.empty() ? nullptr : bits_.data(); }
  int64_t mask() const { return mask_; }

 private:
  std::vector<uint64_t> bits_;
  int64_t mask_ = 0;
};

template <class Id>
const Id* maybe(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? ptr<Id>(*tensor) : nullptr;
}

// What all hops have in common.
template <class Id>
NeighborArgs<Id> neighbor_args(const GraphTensors& graph, const ExcludeFilter& filter, bool weighted, bool replace,
                               int64_t seed, int64_t epoch, int64_t batch) {
  NeighborArgs<Id> a{};
  a.indptr = ptr<int64_t>(graph.indptr);
  a.nbr = ptr<Id>(graph.nbr);
  a.eid = maybe<Id>(graph.eid);
  a.relation = maybe<int16_t>(graph.relation);
  a.weight = maybe<float>(graph.weight);
  a.exclude = maybe<int64_t>(graph.exclude);
  a.filter = filter.bits();
  a.filter_mask = filter.mask();
  a.num_excluded = graph.exclude.has_value() ? graph.exclude->numel() : 0;
  a.num_nodes = graph.indptr.numel() - 1;
  a.num_edges = graph.nbr.numel();
  a.weighted = weighted;
  a.replace = replace;
  a.seed = seed;
  a.epoch = epoch;
  a.batch = batch;
  return a;
}

inline void throw_faults(const char* op, int32_t faults) {
  if (faults == 0) return;
  const char* what = (faults & kBadRoot) != 0 ? "bad root" : (faults & kBadRow) != 0 ? "bad row" : "bad weight";
  throw std::runtime_error(std::string(op) + ": " + what);
}

// Samples for all roots.
template <class Id>
void run_neighbors(const char* op, const NeighborArgs<Id>& a) {
  static const SampleNeighbors<Id> sample = sample_neighbors_here<Id>();
  std::atomic<int32_t> faults{0};
  auto part = [&](int64_t begin, int64_t end) {
    const int32_t found = sample(a, begin, end);
    if (found != 0) faults.fetch_or(found, std::memory_order_relaxed);
  };
  if (a.num_roots <= kRootGrain) {
    part(0, a.num_roots);
  } else {
    torch::stable::parallel_for(0, a.num_roots, kRootGrain, part);
  }
  throw_faults(op, faults);
}

}  // namespace gnnaccel
