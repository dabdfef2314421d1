// Edges by target, as tables of sources and edge numbers.
#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "common.h"

namespace gnnaccel {
namespace {

std::tuple<Tensor, Tensor, Tensor> group_edges_cpu(const Tensor& source_in, const Tensor& target_in, int64_t num_nodes,
                                                   int64_t limit) {
  const Tensor source = torch::stable::contiguous(source_in), target = torch::stable::contiguous(target_in);
  const int64_t E = target.numel();
  const int64_t *from = ptr<int64_t>(source), *to = ptr<int64_t>(target);
  Tensor count = empty({num_nodes}, ScalarType::Int);
  int32_t* n = ptr<int32_t>(count);
  std::fill_n(n, num_nodes, 0);
  for (int64_t e = 0; e < E; ++e) {
    if (to[e] < 0 || to[e] >= num_nodes)
      throw std::invalid_argument("group_edges: target must be in [0, " + std::to_string(num_nodes) + "), got " +
                                  std::to_string(to[e]));
    ++n[to[e]];
  }
  const int64_t most = num_nodes > 0 ? *std::max_element(n, n + num_nodes) : 0;
  const int64_t K = num_nodes * most > limit ? 0 : most;
  Tensor neighbor = empty({num_nodes, K}, ScalarType::Long), edge = empty({num_nodes, K}, ScalarType::Long);
  if (K == 0) return {neighbor, edge, count};
  int64_t *nbr = ptr<int64_t>(neighbor), *number = ptr<int64_t>(edge);
  std::vector<int64_t> next(static_cast<size_t>(num_nodes));
  for (int64_t v = 0; v < num_nodes; ++v) next[static_cast<size_t>(v)] = v * K;
  for (int64_t e = 0; e < E; ++e) {
    const int64_t at = next[static_cast<size_t>(to[e])]++;
    nbr[at] = from[e], number[at] = e;
  }
  for (int64_t v = 0; v < num_nodes; ++v)
    for (int64_t at = v * K + n[v]; at < (v + 1) * K; ++at) nbr[at] = number[at] = -1;
  return {neighbor, edge, count};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("group_edges", TORCH_BOX(&gnnaccel::group_edges_cpu)); }
