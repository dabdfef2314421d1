#include <algorithm>
#include <cstring>

#include "neighbor_sample_call.h"
#include "node_numbers.h"

namespace gnnaccel {
namespace {

using Tensors = std::vector<Tensor>;
using Hops = std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors, Tensors>;

// The largest degree among nodes, at least 1.
template <class Id>
int64_t largest_degree(const NeighborArgs<Id>& a, const Id* nodes, int64_t n) {
  constexpr int64_t kAhead = 32;
  int64_t largest = 1;
  for (int64_t i = 0; i < n; ++i) {
    __builtin_prefetch(a.indptr + nodes[std::min(i + kAhead, n - 1)]);
    int32_t faults = 0;
    const RowRange row = row_of(a, nodes[i], faults);
    throw_faults("sample_hops", faults);
    largest = std::max(largest, row.end - row.begin);
  }
  return largest;
}

// Hops from the seeds outwards. `widths` has for each hop the number of its fanouts, one a relation, or 0: one of all.
template <class Id>
Hops sample(const GraphTensors& graph, const Tensor& seeds, const std::vector<int64_t>& fanouts,
            const std::vector<int64_t>& widths, bool weighted, bool replace, bool edge_ids, int64_t seed, int64_t epoch,
            int64_t batch) {
  const ExcludeFilter filter(graph.exclude);
  auto a = neighbor_args<Id>(graph, filter, weighted, replace, seed, epoch, batch);
  a.nodes_are_64 = sizeof(Id) == 8;
  PooledRoom room(a.num_nodes);
  NumberTable* const table = room->table.get();

  const int64_t num_seeds = seeds.numel();
  Id* nodes = room->nodes.template reserve<Id>(num_seeds + 1, 0);
  {
    std::vector<int32_t> number(static_cast<size_t>(num_seeds));
    const Id* first = ptr<Id>(seeds);
    if (table->number(first, num_seeds, a.num_nodes, number.data(), nodes) != num_seeds)
      throw std::runtime_error("sample_hops: bad root");
    if (table->count() != num_seeds) throw std::runtime_error("sample_hops: repeated seed");
  }

  Tensors rows, counts, eids, relations, weights;
  const int64_t* fanout = fanouts.data();
  for (size_t h = 0; h < widths.size(); ++h) {
    const int64_t roots = table->count(), width = widths[h];
    a.nodes = nodes;
    a.num_roots = roots;
    a.hop = static_cast<int64_t>(h);
    a.fanouts = width > 0 ? fanout : nullptr;
    a.num_relations = width;
    a.fanout = 0;
    for (int64_t r = 0; r < std::max<int64_t>(width, 1); ++r) a.fanout += *fanout++;
    const bool all = a.fanout < 0;
    if (all) a.fanout = largest_degree(a, nodes, roots);
    a.weighted = weighted && !all;
    a.replace = replace && !all;

    const int64_t slots = roots * a.fanout;
    Tensor row = empty({roots, a.fanout}, ScalarType::Int), count = empty({roots}, ScalarType::Int);
    if constexpr (sizeof(Id) == 8) {
      a.out_nbr = room->wide.template reserve<Id>(slots, 0);
    } else {
      a.out_nbr = ptr<Id>(row);  // numbered in place
    }
    a.out_count = ptr<int32_t>(count);
    if (edge_ids) {
      eids.push_back(empty({roots, a.fanout}, graph.nbr.scalar_type()));
      a.out_eid = ptr<Id>(eids.back());
    }
    if (graph.relation.has_value()) {
      relations.push_back(empty({roots, a.fanout}, ScalarType::Short));
      a.out_relation = ptr<int16_t>(relations.back());
    }
    if (graph.weight.has_value()) {
      weights.push_back(empty({roots, a.fanout}, ScalarType::Float));
      a.out_weight = ptr<float>(weights.back());
    }
    if (a.weighted) a.keys = room->keys.template reserve<double>(slots, 0);
    run_neighbors("sample_hops", a);

    nodes = room->nodes.template reserve<Id>(roots + slots + 1, roots);
    int64_t edges = 0;
    for (int64_t r = 0; r < roots; ++r) edges += a.out_count[r];
    if (table->number(a.out_nbr, slots, a.num_nodes, ptr<int32_t>(row), nodes) != edges)
      throw std::runtime_error("sample_hops: bad neighbour");
    rows.push_back(row);
    counts.push_back(count);
  }
  Tensor found = empty({table->count()}, graph.nbr.scalar_type());
  std::memcpy(found.data_ptr(), nodes, static_cast<size_t>(table->count()) * sizeof(Id));
  return {found, rows, counts, eids, relations, weights};
}

Hops sample_hops_cpu(const Tensor& indptr, const Tensor& nbr, const std::optional<Tensor>& eid,
                     const std::optional<Tensor>& relation, const std::optional<Tensor>& weight,
                     const std::optional<Tensor>& exclude, const Tensor& seeds, std::vector<int64_t> fanouts,
                     std::vector<int64_t> widths, bool weighted, bool replace, bool edge_ids, int64_t seed,
                     int64_t epoch, int64_t batch) {
  Hops out;
  dispatch_ids(nbr.scalar_type(), "sample_hops", [&](auto tag) {
    out = sample<decltype(tag)>({indptr, nbr, eid, relation, weight, exclude}, seeds, fanouts, widths, weighted,
                                replace, edge_ids, seed, epoch, batch);
  });
  return out;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("sample_hops", TORCH_BOX(&gnnaccel::sample_hops_cpu)); }
