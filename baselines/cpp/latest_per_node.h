// For each distinct node the position of its last event by (t, eid, position), one pass.
#pragma once

#include "unique_nodes.h"

namespace gnnaccel {

template <class Id, class Time, class Eid>
void latest_positions(const Id* nodes, const Time* t, const Eid* eid, int64_t n, std::vector<Id>& uniq,
                      std::vector<int64_t>& best) {
  best.clear();
  number_nodes(
      nodes, n, -1, uniq,
      [&](int64_t i, int64_t row, bool is_new) {
        if (is_new) return best.push_back(i);
        int64_t& b = best[static_cast<size_t>(row)];
        // i comes after b, so it wins a full tie
        if (t[i] > t[b] || (t[i] == t[b] && (eid == nullptr || eid[i] >= eid[b]))) b = i;
      },
      [](int64_t) {});
}

}  // namespace gnnaccel
