// The events of a batch one group after the other: which state each reads, and which states it leaves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gnnaccel {

struct EventRows {
  std::vector<int64_t> before, last, level;  // of each row, see ops/_event_levels.py
  std::vector<int64_t> read;                 // rows that are looked at
};

// root [S], nbr [S, K] and group [B] are checked. Fills row [2 B], root_version [S] and nbr_version [S, K].
inline EventRows event_rows(const int64_t* root, const int64_t* nbr, const int64_t* group, int64_t B, int64_t S,
                            int64_t K, int64_t N, int64_t* row, int64_t* root_version, int64_t* nbr_version) {
  EventRows out;
  const int64_t C = B ? S / B - 2 : 0;
  std::vector<int64_t> left(static_cast<size_t>(N), -1);  // the row that left a node's state
  const auto at = [](auto& v, int64_t i) -> auto& { return v[static_cast<size_t>(i)]; };
  // N + row for now: the rows that are read have no numbers yet
  const auto version = [&](int64_t n) { return n < 0 ? n : at(left, n) < 0 ? n : N + at(left, n); };
  const auto look = [&](int64_t j) {
    root_version[j] = version(root[j]);
    for (int64_t k = 0; k < K; ++k) nbr_version[j * K + k] = version(nbr[j * K + k]);
  };
  for (int64_t begin = 0, end = 0; begin < B; begin = end) {
    while (end < B && group[end] == group[begin]) ++end;
    for (int64_t e = begin; e < end; ++e) {
      look(e);
      look(B + e);
      for (int64_t c = 0; c < C; ++c) look(2 * B + e * C + c);
    }
    const auto first = static_cast<int64_t>(out.before.size());  // row of this group
    for (int64_t e = begin; e < end; ++e) {
      for (const int64_t p : {e, B + e}) {
        int64_t& mine = at(left, root[p]);
        if (mine < first) {
          int64_t level = 0;
          if (mine >= 0) {
            const int64_t q = at(out.last, mine);
            level = 1 + std::max(at(out.level, mine), at(out.level, row[q < B ? q + B : q - B]));
          }
          out.before.push_back(mine);
          out.level.push_back(level);
          out.last.push_back(p);
          mine = static_cast<int64_t>(out.before.size()) - 1;
        }
        row[p] = mine;
        at(out.last, mine) = p;
      }
    }
  }
  std::vector<int64_t> number(out.before.size(), -1);
  const auto each_read = [&](const auto& f) {
    for (int64_t j = 0; j < S; ++j)
      if (root_version[j] >= N) f(root_version[j]);
    for (int64_t j = 0; j < S * K; ++j)
      if (nbr_version[j] >= N) f(nbr_version[j]);
  };
  each_read([&](int64_t v) { at(number, v - N) = 0; });
  for (size_t r = 0; r < number.size(); ++r) {
    if (number[r] < 0) continue;
    number[r] = static_cast<int64_t>(out.read.size());
    out.read.push_back(static_cast<int64_t>(r));
  }
  each_read([&](int64_t& v) { v = N + at(number, v - N); });
  return out;
}

// Rows by level, stable, and where each level begins: order [R], offset [levels + 1].
inline std::vector<int64_t> by_level(const std::vector<int64_t>& level, int64_t* order) {
  const int64_t levels = level.empty() ? 0 : *std::max_element(level.begin(), level.end()) + 1;
  std::vector<int64_t> offset(static_cast<size_t>(levels) + 1, 0);
  for (const int64_t l : level) ++offset[static_cast<size_t>(l) + 1];
  for (size_t l = 1; l < offset.size(); ++l) offset[l] += offset[l - 1];
  std::vector<int64_t> place(offset);
  for (size_t r = 0; r < level.size(); ++r) order[place[static_cast<size_t>(level[r])]++] = static_cast<int64_t>(r);
  return offset;
}

}  // namespace gnnaccel
