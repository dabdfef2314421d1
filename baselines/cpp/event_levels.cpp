#include "event_levels.h"

#include <cstring>
#include <string>
#include <tuple>

#include "common.h"

namespace gnnaccel {
namespace {

void check_ids(const char* name, const int64_t* ids, int64_t n, int64_t low, int64_t limit) {
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < low || ids[i] >= limit)
      throw std::invalid_argument("event_levels: " + std::string(name) + " must be in [" + std::to_string(low) + ", " +
                                  std::to_string(limit) + "), got " + std::to_string(ids[i]));
}

Tensor tensor_of(const std::vector<int64_t>& values) {
  Tensor out = empty({static_cast<int64_t>(values.size())}, ScalarType::Long);
  if (!values.empty()) std::memcpy(out.data_ptr(), values.data(), values.size() * sizeof(int64_t));
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> event_levels_cpu(const Tensor& root_in,
                                                                                            const Tensor& nbr_in,
                                                                                            const Tensor& group_in,
                                                                                            int64_t num_nodes) {
  const Tensor root = torch::stable::contiguous(root_in), nbr = torch::stable::contiguous(nbr_in),
               group = torch::stable::contiguous(group_in);
  const int64_t B = group.numel(), S = root.numel(), K = nbr.size(1);
  const int64_t* g = ptr<int64_t>(group);
  for (int64_t e = 1; e < B; ++e)
    if (g[e] < g[e - 1]) throw std::invalid_argument("event_levels: group must not decrease");
  check_ids("root", ptr<int64_t>(root), S, 0, num_nodes);
  check_ids("nbr", ptr<int64_t>(nbr), S * K, -1, num_nodes);
  Tensor row = empty({2 * B}, ScalarType::Long), root_version = empty({S}, ScalarType::Long),
         nbr_version = empty({S, K}, ScalarType::Long);
  const EventRows rows = event_rows(ptr<int64_t>(root), ptr<int64_t>(nbr), g, B, S, K, num_nodes, ptr<int64_t>(row),
                                    ptr<int64_t>(root_version), ptr<int64_t>(nbr_version));
  Tensor order = empty({static_cast<int64_t>(rows.level.size())}, ScalarType::Long);
  const std::vector<int64_t> offset = by_level(rows.level, ptr<int64_t>(order));
  return {row,         tensor_of(rows.before), tensor_of(rows.last), order, tensor_of(offset), root_version,
          nbr_version, tensor_of(rows.read)};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("event_levels", TORCH_BOX(&gnnaccel::event_levels_cpu)); }
