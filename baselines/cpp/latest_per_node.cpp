#include "latest_per_node.h"

#include <cstring>
#include <optional>

#include "common.h"

namespace gnnaccel {
namespace {

std::tuple<Tensor, Tensor> latest_per_node_cpu(const Tensor& nodes_in, const Tensor& t_in,
                                               std::optional<Tensor> eid_in) {
  const Tensor nodes = torch::stable::contiguous(nodes_in), t = torch::stable::contiguous(t_in);
  std::optional<Tensor> eid;
  if (eid_in.has_value()) eid = torch::stable::contiguous(*eid_in);
  const int64_t n = nodes.numel();
  Tensor distinct, position;
  dispatch_ids(nodes.scalar_type(), "latest_per_node", [&](auto id) {
    dispatch_time(t.scalar_type(), "latest_per_node", [&](auto time) {
      dispatch_ids(eid ? eid->scalar_type() : ScalarType::Long, "latest_per_node", [&](auto event) {
        using id_t = decltype(id);
        using eid_t = decltype(event);
        const eid_t* e = eid ? ptr<eid_t>(static_cast<const Tensor&>(*eid)) : nullptr;
        std::vector<int64_t> best(static_cast<size_t>(n));
        const auto found = latest_positions(ptr<id_t>(nodes), ptr<decltype(time)>(t), e, n, best.data());
        distinct = empty({found.count}, nodes.scalar_type());
        position = empty({found.count}, ScalarType::Long);
        if (found.count) {
          std::memcpy(distinct.data_ptr(), found.ids, static_cast<size_t>(found.count) * sizeof(id_t));
          std::memcpy(position.data_ptr(), best.data(), static_cast<size_t>(found.count) * sizeof(int64_t));
        }
      });
    });
  });
  return {distinct, position};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("latest_per_node", TORCH_BOX(&gnnaccel::latest_per_node_cpu)); }
