#include "temporal_sample.h"

#include <atomic>
#include <cstring>
#include <optional>

#include "common.h"

namespace gnnaccel {
namespace {

constexpr int64_t kGrain = 256;  // roots below which a second thread costs more than it brings

using Sample = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Time>
Time from_bits(int64_t bits) {
  Time out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

Sample temporal_sample_cpu(const Tensor& row_start, const Tensor& row_end, const Tensor& nbr, const Tensor& eid,
                           const Tensor& t, const Tensor& nodes, const Tensor& times,
                           const std::optional<Tensor>& event_ids, const std::optional<Tensor>& draw_keys,
                           int64_t fanout, int64_t visibility, bool uniform, bool replace, int64_t window,
                           int64_t bound_t, int64_t bound_eid, int64_t seed, int64_t epoch, int64_t batch,
                           int64_t root_offset, int64_t hop) {
  const int64_t roots = nodes.numel();
  const bool is_float = t.scalar_type() == ScalarType::Double;
  Tensor out_nbr = empty({roots, fanout}, nbr.scalar_type()), out_eid = empty({roots, fanout}, eid.scalar_type());
  Tensor out_dt = empty({roots, fanout}, t.scalar_type()), out_count = empty({roots}, ScalarType::Int);
  Tensor out_t = empty({is_float ? roots : 0, fanout}, t.scalar_type());
  auto run = [&](auto id, auto time) {
    using Id = decltype(id);
    using Time = decltype(time);
    SampleArgs<Id, Time> a{};
    a.row_start = ptr<int64_t>(row_start);
    a.row_end = ptr<int64_t>(row_end);
    a.nbr = ptr<Id>(nbr);
    a.eid = ptr<Id>(eid);
    a.t = ptr<Time>(t);
    a.nodes = nodes.data_ptr();
    a.times = ptr<Time>(times);
    a.event_ids = event_ids.has_value() ? ptr<int64_t>(*event_ids) : nullptr;
    a.draw_keys = draw_keys.has_value() ? ptr<int64_t>(*draw_keys) : nullptr;
    a.out_nbr = ptr<Id>(out_nbr);
    a.out_eid = ptr<Id>(out_eid);
    a.out_dt = ptr<Time>(out_dt);
    a.out_t = is_float ? ptr<Time>(out_t) : nullptr;
    a.out_count = ptr<int32_t>(out_count);
    a.num_nodes = row_start.numel();
    a.num_roots = roots;
    a.fanout = fanout;
    a.bound_eid = bound_eid;
    a.seed = seed;
    a.epoch = epoch;
    a.batch = batch;
    a.root_offset = root_offset;
    a.hop = hop;
    a.bound_t = from_bits<Time>(bound_t);
    a.window = from_bits<Time>(window);
    a.nodes_are_64 = nodes.scalar_type() == ScalarType::Long;
    a.visibility = static_cast<int32_t>(visibility);
    a.uniform = uniform;
    a.replace = replace && visibility != kTglCompat;
    a.has_window = !no_window(a.window);
    static const SampleRoots<Id, Time> sample = sample_roots_here<Id, Time>();
    std::atomic<bool> good{true};
    auto part = [&](int64_t begin, int64_t end) {
      if (!sample(a, begin, end)) good.store(false, std::memory_order_relaxed);
    };
    if (roots <= kGrain) {
      part(0, roots);
    } else {
      torch::stable::parallel_for(0, roots, kGrain, part);
    }
    if (!good) throw std::runtime_error("temporal_sample: bad root");
  };
  dispatch_ids(nbr.scalar_type(), "temporal_sample",
               [&](auto id) { is_float ? run(id, double{}) : run(id, int64_t{}); });
  return {out_nbr, out_eid, out_dt, out_count, out_t};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("temporal_sample", TORCH_BOX(&gnnaccel::temporal_sample_cpu)); }
