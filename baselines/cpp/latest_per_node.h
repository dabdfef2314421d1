// For each distinct node the position of its last event by (t, eid, position), one pass.
#pragma once

#include "unique_nodes.h"

namespace gnnaccel {

// best[row] of the row-th distinct node, room for n.
template <class Id, class Time, class Eid>
Distinct<Id> latest_positions(const Id* nodes, const Time* t, const Eid* eid, int64_t n, int64_t* best) {
  return number_nodes(nodes, n, -1, [=](int64_t i, int64_t row, bool is_new) {
    if (row < 0) return;
    // i comes after best[row], so it wins a full tie
    const int64_t b = is_new ? i : best[row];
    const bool later = t[i] > t[b] || (t[i] == t[b] && (eid == nullptr || eid[i] >= eid[b]));
    best[row] = later ? i : b;
  });
}

}  // namespace gnnaccel
