// The latest neighbours of each node, newest first, in tables [N, size].
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "unique_nodes.h"

namespace gnnaccel {

inline void push_front(int64_t* row, int64_t size, int64_t value) {
  std::copy_backward(row, row + size - 1, row + size);
  row[0] = value;
}

// Events first, first + 1, ... as neighbours of both ends; ids must have been checked.
inline void insert_events(int64_t* neighbors, int64_t* e_id, int64_t size, const int64_t* src, const int64_t* dst,
                          int64_t B, int64_t first) {
  if (size == 0) return;
  for (int64_t i = 0; i < B; ++i) {
    for (const auto& [node, other] : {std::pair{src[i], dst[i]}, std::pair{dst[i], src[i]}}) {
      push_front(neighbors + node * size, size, other);
      push_front(e_id + node * size, size, first + i);
    }
  }
}

// Slots of a row that hold an event; they come first.
inline int64_t filled(const int64_t* e_id, int64_t size) {
  int64_t n = 0;
  while (n < size && e_id[n] >= 0) ++n;
  return n;
}

// The distinct values of ids, ascending, and the position of ids[i] among them in row[i].
inline std::vector<int64_t> sorted_distinct(const std::vector<int64_t>& ids, int64_t num_nodes, int64_t* row) {
  const auto n = static_cast<int64_t>(ids.size());
  const auto found = number_nodes(ids.data(), n, num_nodes, [row](int64_t i, int64_t at, bool) { row[i] = at; });
  std::vector<std::pair<int64_t, int64_t>> order(static_cast<size_t>(found.count));
  for (int64_t i = 0; i < found.count; ++i) order[static_cast<size_t>(i)] = {found.ids[i], i};
  std::sort(order.begin(), order.end());
  std::vector<int64_t> distinct(order.size()), rank(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    distinct[i] = order[i].first;
    rank[static_cast<size_t>(order[i].second)] = static_cast<int64_t>(i);
  }
  for (int64_t i = 0; i < n; ++i) row[i] = rank[static_cast<size_t>(row[i])];
  return distinct;
}

}  // namespace gnnaccel
