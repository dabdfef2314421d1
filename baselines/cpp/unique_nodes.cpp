#include "unique_nodes.h"

#include <cstring>
#include <optional>

#include "common.h"

namespace gnnaccel {
namespace {

std::tuple<Tensor, Tensor> unique_nodes_cpu(const Tensor& ids_in, std::optional<int64_t> num_nodes) {
  const Tensor ids = torch::stable::contiguous(ids_in);
  const int64_t n = ids.numel();
  Tensor uniq, inverse = empty(sizes_of(ids), ScalarType::Long);
  dispatch_ids(ids.scalar_type(), "unique_nodes", [&](auto tag) {
    using id_t = decltype(tag);
    const id_t* p = ptr<id_t>(ids);
    int64_t* inv = ptr<int64_t>(inverse);
    const auto found =
        number_nodes(p, n, num_nodes.value_or(-1), [inv](int64_t i, int64_t row, bool) { inv[i] = row; });
    if (found.bad >= 0) {
      throw std::invalid_argument("unique_nodes: ids must be below num_nodes = " + std::to_string(*num_nodes) +
                                  ", got " + std::to_string(p[found.bad]));
    }
    uniq = empty({found.count}, ids.scalar_type());
    if (found.count) std::memcpy(uniq.data_ptr(), found.ids, static_cast<size_t>(found.count) * sizeof(id_t));
  });
  return {uniq, inverse};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("unique_nodes", TORCH_BOX(&gnnaccel::unique_nodes_cpu)); }
