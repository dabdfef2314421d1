// What `neighbor_sample` computes for one root, once for CPU and GPU: which entries of its row are picked. Plain inline
// functions without library calls but `log`, so that g++, nvcc and NVRTC all take them.
#pragma once

#include "draws.cuh"

#if !defined(__CUDACC_RTC__)
#include <cmath>
#endif

namespace gnnaccel {

// The arguments of the op. Rows of the graph are sorted by relation where there are relations.
template <class Id>
struct NeighborArgs {
  const int64_t* indptr;    // [num_nodes + 1]
  const Id* nbr;            // [num_edges], as the next four
  const Id* eid;            // null: neither wanted nor needed for `exclude`
  const int16_t* relation;  // or null
  const float* weight;      // or null
  const int64_t* exclude;   // [num_excluded], edge ids in ascending order
  const uint64_t* filter;   // bits at the low bits of the ids in `exclude`; null (GPU): none
  const int64_t* fanouts;   // [num_relations], one a relation; null: `fanout` from the whole row
  const void* nodes;        // [num_roots], int64 or int32
  Id* out_nbr;              // [num_roots, fanout], as the next three
  Id* out_eid;              // null: not wanted, as the next two
  int16_t* out_relation;
  float* out_weight;
  int32_t* out_count;  // [num_roots]
  double* keys;        // [num_roots, fanout], room to work in, of weighted draws only
  int64_t num_nodes, num_edges, num_roots, fanout, num_relations, num_excluded, filter_mask;
  int64_t seed, epoch, batch, hop;
  int32_t nodes_are_64, weighted, replace;
};

// What may be wrong; the CPU kernel says so, on a GPU such a root gets no neighbours.
constexpr int32_t kBadRoot = 1, kBadRow = 2, kBadWeight = 4;

constexpr int64_t kLongestRow = 0x7fffffff;

// Positions [begin, end) of the graph's arrays.
struct RowRange {
  int64_t begin, end;
};

template <class Id>
GNNACCEL_HD int64_t root_node(const NeighborArgs<Id>& a, int64_t root) {
  return a.nodes_are_64 ? static_cast<const int64_t*>(a.nodes)[root] : static_cast<const int32_t*>(a.nodes)[root];
}

// The row of a root; -1 is padding and has none.
template <class Id>
GNNACCEL_HD RowRange row_of(const NeighborArgs<Id>& a, int64_t node, int32_t& faults) {
  if (static_cast<uint64_t>(node) >= static_cast<uint64_t>(a.num_nodes)) {
    if (node != -1) faults |= kBadRoot;
    return {0, 0};
  }
  const RowRange row{a.indptr[node], a.indptr[node + 1]};
  if (row.begin < 0 || row.end < row.begin || row.end > a.num_edges || row.end - row.begin > kLongestRow) {
    faults |= kBadRow;
    return {0, 0};
  }
  return row;
}

// `count` draws from [0, n) in ascending order. Without replacement: Floyd's algorithm (Bentley and Floyd, CACM 1987),
// every subset equally likely.
template <class Id>
GNNACCEL_HD void draw_ascending(Id* out, int64_t n, int64_t count, bool replace, Draws& d) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t last = n - count + i;
    Id pick = static_cast<Id>(draw(d, replace ? n : last + 1));
    int64_t place = i;
    while (place > 0 && out[place - 1] > pick) --place;
    if (!replace && place > 0 && out[place - 1] == pick) {
      // taken: Floyd takes `last` instead, which is larger than all
      pick = static_cast<Id>(last);
      place = i;
    }
    for (int64_t j = i; j > place; --j) out[j] = out[j - 1];
    out[place] = pick;
  }
}

template <class Id>
GNNACCEL_HD bool is_excluded(const NeighborArgs<Id>& a, int64_t at) {
  if (a.num_excluded == 0) return false;
  const int64_t e = static_cast<int64_t>(a.eid[at]);
  if (a.filter != nullptr) {
    const uint64_t bit = static_cast<uint64_t>(e & a.filter_mask);
    if ((a.filter[bit >> 6] >> (bit & 63) & 1) == 0) return false;
  }
  int64_t low = 0, high = a.num_excluded;
  while (low < high) {
    const int64_t middle = (low + high) >> 1;
    if (a.exclude[middle] < e) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < a.num_excluded && a.exclude[low] == e;
}

// Uniform draws among the entries that are not excluded.
template <class Id>
GNNACCEL_HD int64_t draw_allowed(const NeighborArgs<Id>& a, RowRange row, int64_t fanout, Id* picks, Draws& d) {
  int64_t allowed = 0;
  for (int64_t i = row.begin; i < row.end; ++i) allowed += is_excluded(a, i) ? 0 : 1;
  if (allowed == 0) return 0;
  const bool whole = !a.replace && allowed <= fanout;
  const int64_t count = whole ? allowed : fanout;
  if (whole) {
    for (int64_t k = 0; k < count; ++k) picks[k] = static_cast<Id>(k);
  } else {
    draw_ascending(picks, allowed, count, a.replace, d);
  }
  // from places among the allowed ones to places in the row; both ascend
  int64_t rank = 0, k = 0;
  for (int64_t i = 0; k < count; ++i) {
    if (is_excluded(a, row.begin + i)) continue;
    while (k < count && static_cast<int64_t>(picks[k]) == rank) picks[k++] = static_cast<Id>(i);
    ++rank;
  }
  return count;
}

// After uniform draws that did not look at `exclude`: if one of them is excluded, all are drawn anew among the allowed
// ones. Given that none is, they are uniform among the allowed ones already; so they are in both cases.
template <class Id>
GNNACCEL_HD int64_t without_excluded(const NeighborArgs<Id>& a, RowRange row, int64_t fanout, Id* picks, int64_t count,
                                     Draws& d) {
  bool meets = false;
  for (int64_t k = 0; k < count; ++k) meets |= is_excluded(a, row.begin + static_cast<int64_t>(picks[k]));
  return meets ? draw_allowed(a, row, fanout, picks, d) : count;
}

// Uniform picks without a look at `exclude`.
template <class Id>
GNNACCEL_HD int64_t pick_uniform(const NeighborArgs<Id>& a, RowRange row, int64_t fanout, Id* picks, Draws& d) {
  const int64_t n = row.end - row.begin;
  if (n == 0) return 0;
  if (!a.replace && n <= fanout) {
    for (int64_t k = 0; k < n; ++k) picks[k] = static_cast<Id>(k);
    return n;
  }
  draw_ascending(picks, n, fanout, a.replace, d);
  return fanout;
}

GNNACCEL_HD bool is_weight(float w) { return w >= 0 && w <= 3.4028235e38f; }

// Draws in proportion to weights, with replacement: `keys` become the draws as sums of weights, ascending.
template <class Id>
GNNACCEL_HD int64_t pick_weighted_replace(const NeighborArgs<Id>& a, RowRange row, int64_t fanout, Id* picks,
                                          double* keys, Draws& d) {
  double total = 0;
  int64_t last = 0;
  for (int64_t i = row.begin; i < row.end; ++i) {
    if (a.weight[i] == 0 || is_excluded(a, i)) continue;
    total += static_cast<double>(a.weight[i]);
    last = i - row.begin;
  }
  if (!(total > 0)) return 0;
  for (int64_t k = 0; k < fanout; ++k) {
    const double key = draw_unit(d) * total;
    int64_t place = k;
    for (; place > 0 && keys[place - 1] > key; --place) keys[place] = keys[place - 1];
    keys[place] = key;
  }
  double sum = 0;
  int64_t k = 0;
  for (int64_t i = row.begin; i < row.end && k < fanout; ++i) {
    if (a.weight[i] == 0 || is_excluded(a, i)) continue;
    sum += static_cast<double>(a.weight[i]);
    while (k < fanout && keys[k] < sum) picks[k++] = static_cast<Id>(i - row.begin);
  }
  while (k < fanout) picks[k++] = static_cast<Id>(last);  // rounded up to the total
  return fanout;
}

// An entry of weight w with the random number u, for a place among those with the smallest keys -log(u) / w: `keys`
// holds them, ascending, `picks` their places in the row.
template <class Id>
GNNACCEL_HD void offer_weighted(Id* picks, double* keys, int64_t& count, int64_t fanout, int64_t place_in_row, double w,
                                double u) {
  // 1 - u <= -log(u): most entries need no logarithm
  if (count == fanout && 1 - u >= keys[count - 1] * w) return;
  const double key = -log(u) / w;
  if (count == fanout && key >= keys[count - 1]) return;
  int64_t place = count < fanout ? count++ : count - 1;
  for (; place > 0 && keys[place - 1] > key; --place) {
    keys[place] = keys[place - 1];
    picks[place] = picks[place - 1];
  }
  keys[place] = key;
  picks[place] = static_cast<Id>(place_in_row);
}

template <class Id>
GNNACCEL_HD void sort_picks(Id* picks, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    const Id pick = picks[i];
    int64_t place = i;
    for (; place > 0 && picks[place - 1] > pick; --place) picks[place] = picks[place - 1];
    picks[place] = pick;
  }
}

// Draws in proportion to weights, one after the other without replacement, by exponential keys (Efraimidis and
// Spirakis, IPL 2006).
template <class Id>
GNNACCEL_HD int64_t pick_weighted(const NeighborArgs<Id>& a, RowRange row, int64_t fanout, Id* picks, double* keys,
                                  Draws& d) {
  const bool whole = row.end - row.begin <= fanout;
  int64_t count = 0;
  for (int64_t i = row.begin; i < row.end; ++i) {
    const double w = static_cast<double>(a.weight[i]);
    if (w == 0 || is_excluded(a, i)) continue;
    if (whole) {
      picks[count++] = static_cast<Id>(i - row.begin);
    } else {
      offer_weighted(picks, keys, count, fanout, i - row.begin, w, draw_unit(d));
    }
  }
  if (!whole) sort_picks(picks, count);
  return count;
}

// Picks from one row, or from the part of it that has one relation: places from its begin, ascending.
template <class Id>
GNNACCEL_HD int64_t pick_from(const NeighborArgs<Id>& a, RowRange row, int64_t fanout, Id* picks, double* keys,
                              Draws& d, int32_t& faults) {
  if (!a.weighted) {
    const int64_t count = pick_uniform(a, row, fanout, picks, d);
    return a.num_excluded == 0 ? count : without_excluded(a, row, fanout, picks, count, d);
  }
  for (int64_t i = row.begin; i < row.end; ++i) {
    if (!is_weight(a.weight[i])) {
      faults |= kBadWeight;
      return 0;
    }
  }
  return a.replace ? pick_weighted_replace(a, row, fanout, picks, keys, d)
                   : pick_weighted(a, row, fanout, picks, keys, d);
}

// The end of the entries of relation r, which begin at `begin`.
template <class Id>
GNNACCEL_HD int64_t relation_end(const NeighborArgs<Id>& a, int64_t begin, int64_t end, int16_t r) {
  int64_t size = end - begin;
  while (size > 0) {
    const int64_t half = (size + 1) >> 1;
    if (a.relation[begin + half - 1] <= r) begin += half;
    size -= half;
  }
  return begin;
}

// The picks of a root as places in its row, ascending, left in its slots of out_nbr; returns how many.
template <class Id>
GNNACCEL_HD int64_t pick_root(const NeighborArgs<Id>& a, int64_t root, RowRange row, int32_t& faults) {
  Id* const picks = a.out_nbr + root * a.fanout;
  double* const keys = a.keys == nullptr ? nullptr : a.keys + root * a.fanout;
  Draws d = make_draws(a.seed, a.epoch, a.batch, static_cast<uint64_t>(root), a.hop);
  if (a.fanouts == nullptr) return pick_from(a, row, a.fanout, picks, keys, d, faults);
  int64_t count = 0, before = -1;
  for (int64_t begin = row.begin; begin < row.end;) {
    const int16_t r = a.relation[begin];
    if (r <= before || r >= a.num_relations) {  // or slots would overflow
      faults |= kBadRow;
      return 0;
    }
    const int64_t end = relation_end(a, begin, row.end, r);
    before = r;
    if (a.fanouts[r] > 0) {
      const int64_t more = pick_from(a, RowRange{begin, end}, a.fanouts[r], picks + count, keys, d, faults);
      for (int64_t k = count; k < count + more; ++k) picks[k] += static_cast<Id>(begin - row.begin);
      count += more;
    }
    begin = end;
  }
  return count;
}

// Slot k of a root after `pick_root`.
template <class Id>
GNNACCEL_HD void write_slot(const NeighborArgs<Id>& a, int64_t root, int64_t k, int64_t begin, int64_t count) {
  const int64_t o = root * a.fanout + k;
  const bool used = k < count;
  const int64_t at = used ? begin + static_cast<int64_t>(a.out_nbr[o]) : 0;
  a.out_nbr[o] = used ? a.nbr[at] : Id(-1);
  if (a.out_eid != nullptr) a.out_eid[o] = used ? a.eid[at] : Id(-1);
  if (a.out_relation != nullptr) a.out_relation[o] = used ? a.relation[at] : int16_t(-1);
  if (a.out_weight != nullptr) a.out_weight[o] = used ? a.weight[at] : 0.0f;
}

}  // namespace gnnaccel
