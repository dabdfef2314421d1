// What a batch of events leaves behind at their ends: memory, and mail of the last event of each node.
#pragma once

#include <cstdint>
#include <vector>

#include "gather_rows.h"

namespace gnnaccel {

// Positions of the last end of each row, in order of the rows' first appearance: the largest (time, event id,
// position). ends i and B + i belong to event i.
template <class Row, class Time>
std::vector<int64_t> last_ends(const Row* row, const Time* time, const int64_t* event, int64_t B, int64_t U) {
  std::vector<int64_t> slot(static_cast<size_t>(U), -1), last;
  for (int64_t p = 0; p < 2 * B; ++p) {
    int64_t& s = slot[static_cast<size_t>(row[p])];
    if (s < 0) {
      s = static_cast<int64_t>(last.size());
      last.push_back(p);
      continue;
    }
    int64_t& q = last[static_cast<size_t>(s)];
    if (time[p] > time[q] || (time[p] == time[q] && event[p % B] >= event[q % B])) q = p;
  }
  return last;
}

// [own | other | features] of one event, read from rows of D and De columns.
template <class T, class E>
void write_mail(const T* own, const T* other, int64_t D, const E* features, int64_t De, T* mail) {
  copy_row(own, mail, D);
  copy_row(other, mail + D, D);
  if (De > 0) copy_row(features, mail + 2 * D, De);
}

}  // namespace gnnaccel
