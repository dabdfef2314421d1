#include "neighbor_sample_call.h"

namespace gnnaccel {
namespace {

using Sample = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Sample neighbor_sample_cpu(const Tensor& indptr, const Tensor& nbr, const std::optional<Tensor>& eid,
                           const std::optional<Tensor>& relation, const std::optional<Tensor>& weight,
                           const std::optional<Tensor>& exclude, const Tensor& nodes, std::vector<int64_t> fanout,
                           bool typed, bool weighted, bool replace, bool edge_ids, int64_t seed, int64_t epoch,
                           int64_t batch, int64_t hop) {
  int64_t slots = 0;
  for (const int64_t f : fanout) slots += f;
  const int64_t roots = nodes.numel();
  Tensor out_nbr = empty({roots, slots}, nbr.scalar_type()),
         out_eid = empty({edge_ids ? roots : 0, slots}, nbr.scalar_type()), out_count = empty({roots}, ScalarType::Int),
         out_relation = empty({relation.has_value() ? roots : 0, slots}, ScalarType::Short),
         out_weight = empty({weight.has_value() ? roots : 0, slots}, ScalarType::Float);
  const ExcludeFilter filter(exclude);
  Tensor keys = empty({weighted ? roots : 0, slots}, ScalarType::Double);
  dispatch_ids(nbr.scalar_type(), "neighbor_sample", [&](auto tag) {
    using Id = decltype(tag);
    auto a =
        neighbor_args<Id>({indptr, nbr, eid, relation, weight, exclude}, filter, weighted, replace, seed, epoch, batch);
    a.nodes = nodes.data_ptr();
    a.nodes_are_64 = nodes.scalar_type() == ScalarType::Long;
    a.num_roots = roots;
    a.fanout = slots;
    a.fanouts = typed ? fanout.data() : nullptr;
    a.num_relations = static_cast<int64_t>(fanout.size());
    a.hop = hop;
    a.out_nbr = ptr<Id>(out_nbr);
    a.out_eid = edge_ids ? ptr<Id>(out_eid) : nullptr;
    a.out_relation = relation.has_value() ? ptr<int16_t>(out_relation) : nullptr;
    a.out_weight = weight.has_value() ? ptr<float>(out_weight) : nullptr;
    a.out_count = ptr<int32_t>(out_count);
    a.keys = weighted ? ptr<double>(keys) : nullptr;
    run_neighbors("neighbor_sample", a);
  });
  return {out_nbr, out_eid, out_count, out_relation, out_weight};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("neighbor_sample", TORCH_BOX(&gnnaccel::neighbor_sample_cpu)); }
