#include "latest_per_node.h"

#include <cstring>
#include <optional>

#include "common.h"

namespace gnnaccel {
namespace {

template <class T>
Tensor to_tensor(const std::vector<T>& values, ScalarType dtype) {
  Tensor out = empty({static_cast<int64_t>(values.size())}, dtype);
  if (!values.empty()) std::memcpy(out.data_ptr(), values.data(), values.size() * sizeof(T));
  return out;
}

std::tuple<Tensor, Tensor> latest_per_node_cpu(const Tensor& nodes_in, const Tensor& t_in,
                                               std::optional<Tensor> eid_in) {
  const Tensor nodes = torch::stable::contiguous(nodes_in), t = torch::stable::contiguous(t_in);
  std::optional<Tensor> eid;
  if (eid_in.has_value()) eid = torch::stable::contiguous(*eid_in);
  Tensor distinct, position;
  dispatch_ids(nodes.scalar_type(), "latest_per_node", [&](auto id) {
    dispatch_time(t.scalar_type(), "latest_per_node", [&](auto time) {
      dispatch_ids(eid ? eid->scalar_type() : ScalarType::Long, "latest_per_node", [&](auto event) {
        using id_t = decltype(id);
        using eid_t = decltype(event);
        static thread_local std::vector<id_t> found;
        static thread_local std::vector<int64_t> best;
        const eid_t* e = eid ? ptr<eid_t>(static_cast<const Tensor&>(*eid)) : nullptr;
        latest_positions(ptr<id_t>(nodes), ptr<decltype(time)>(t), e, nodes.numel(), found, best);
        distinct = to_tensor(found, nodes.scalar_type());
        position = to_tensor(best, ScalarType::Long);
      });
    });
  });
  return {distinct, position};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("latest_per_node", TORCH_BOX(&gnnaccel::latest_per_node_cpu)); }
