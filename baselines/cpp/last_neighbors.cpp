#include "last_neighbors.h"

#include <algorithm>
#include <string>

#include "common.h"

namespace gnnaccel {
namespace {

void check_nodes(const char* what, const int64_t* ids, int64_t n, int64_t limit) {
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= limit)
      throw std::invalid_argument(std::string(what) + " must be in [0, " + std::to_string(limit) + "), got " +
                                  std::to_string(ids[i]));
}

void last_neighbors_insert_cpu(Tensor neighbors, Tensor e_id, const Tensor& src_in, const Tensor& dst_in,
                               int64_t first) {
  const Tensor src = torch::stable::contiguous(src_in), dst = torch::stable::contiguous(dst_in);
  const int64_t B = src.numel();
  check_nodes("last_neighbors_insert_: src", ptr<int64_t>(src), B, neighbors.size(0));
  check_nodes("last_neighbors_insert_: dst", ptr<int64_t>(dst), B, neighbors.size(0));
  insert_events(ptr<int64_t>(neighbors), ptr<int64_t>(e_id), e_id.size(1), ptr<int64_t>(src), ptr<int64_t>(dst), B,
                first);
}

std::tuple<Tensor, Tensor, Tensor> last_neighbors_cpu(const Tensor& neighbors, const Tensor& e_id,
                                                      const Tensor& n_id_in) {
  const Tensor n_id = torch::stable::contiguous(n_id_in);
  const int64_t R = n_id.numel(), N = neighbors.size(0), size = neighbors.size(1);
  const int64_t *roots = ptr<int64_t>(n_id), *nbr = ptr<int64_t>(neighbors), *event = ptr<int64_t>(e_id);
  check_nodes("last_neighbors: n_id", roots, R, N);
  std::vector<int64_t> ids(roots, roots + R), count(static_cast<size_t>(R));
  ids.reserve(static_cast<size_t>(R * (size + 1)));
  for (int64_t r = 0; r < R; ++r) {
    const int64_t n = filled(event + roots[r] * size, size);
    count[static_cast<size_t>(r)] = n;
    ids.insert(ids.end(), nbr + roots[r] * size, nbr + roots[r] * size + n);
  }
  const int64_t M = static_cast<int64_t>(ids.size()) - R;
  std::vector<int64_t> row(ids.size());
  const std::vector<int64_t> distinct = sorted_distinct(ids, N, row.data());
  Tensor nodes = empty({static_cast<int64_t>(distinct.size())}, ScalarType::Long),
         edge_index = empty({2, M}, ScalarType::Long), events = empty({M}, ScalarType::Long);
  std::copy(distinct.begin(), distinct.end(), ptr<int64_t>(nodes));
  int64_t *from = ptr<int64_t>(edge_index), *to = from + M, *out = ptr<int64_t>(events);
  std::copy(row.begin() + R, row.end(), from);
  for (int64_t r = 0; r < R; ++r) {
    const int64_t n = count[static_cast<size_t>(r)];
    to = std::fill_n(to, n, row[static_cast<size_t>(r)]);
    out = std::copy_n(event + roots[r] * size, n, out);
  }
  return {nodes, edge_index, events};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("last_neighbors_insert_", TORCH_BOX(&gnnaccel::last_neighbors_insert_cpu));
  m.impl("last_neighbors", TORCH_BOX(&gnnaccel::last_neighbors_cpu));
}
