// Numbers ids in order of first appearance, O(n). Shared by unique_nodes, latest_per_node and gather_rows' backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace gnnaccel {

// A table of slots that empties in O(1): a slot counts only if it carries the epoch of the current call.
class StampTable {
 public:
  uint64_t* begin(size_t size) {
    if (slots_.size() < size) {
      slots_.assign(size, 0);
      epoch_ = 0;
    }
    if (++epoch_ == 0) {  // wrapped: stamps of 2^32 calls ago would look new
      std::fill(slots_.begin(), slots_.end(), uint64_t{0});
      epoch_ = 1;
    }
    return slots_.data();
  }
  // Gives memory back after an unusually large call.
  void end() {
    if (slots_.size() > kKeep) std::vector<uint64_t>().swap(slots_);
  }
  uint64_t stamp() const { return static_cast<uint64_t>(epoch_) << 32; }

  static constexpr size_t kKeep = size_t{1} << 22;  // slots of 8 bytes a thread may hold between calls

 private:
  std::vector<uint64_t> slots_;
  uint32_t epoch_ = 0;
};

constexpr int64_t kAhead = 16;  // ids between a slot's prefetch and its use

inline int hash_bits(int64_t n) {
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * n) ++bits;
  return bits;
}

// A table indexed by id beats hashing while it stays in cache, or when it is no larger than the hash table would be.
inline bool direct_pays(int64_t n, int64_t num_nodes) {
  return num_nodes >= 0 && (num_nodes <= (int64_t{1} << 18) || num_nodes <= 8 * n);
}

// Calls f(i, row, is_new) for every id >= 0, in order; row counts distinct ids by first appearance, `uniq` receives
// them. Negative ids are padding and skipped: `padding(i)`. With num_nodes >= 0 every id must be below it; returns the
// position of the first that is not, else -1.
template <class Id, class F, class P>
int64_t number_nodes(const Id* ids, int64_t n, int64_t num_nodes, std::vector<Id>& uniq, const F& f, const P& padding) {
  static thread_local StampTable table;
  uniq.clear();
  const bool bounded = num_nodes >= 0;
  int64_t bad = -1;
  auto run = [&](uint64_t* slots, auto home, auto same, auto next) {
    const uint64_t stamp = table.stamp();
    for (int64_t i = 0; i < n; ++i) {
      if (i + kAhead < n) {
        const int64_t later = static_cast<int64_t>(ids[i + kAhead]);
        if (later >= 0 && (!bounded || later < num_nodes)) __builtin_prefetch(slots + home(later), 1);
      }
      const int64_t id = static_cast<int64_t>(ids[i]);
      if (id < 0) {
        padding(i);
        continue;
      }
      if (bounded && id >= num_nodes) {
        bad = i;
        return;
      }
      size_t at = home(id);
      while (true) {
        const uint64_t slot = slots[at];
        if ((slot & ~uint64_t{0xffffffff}) != stamp) {
          const uint64_t row = uniq.size();
          slots[at] = stamp | row;
          uniq.push_back(ids[i]);
          f(i, static_cast<int64_t>(row), true);
          break;
        }
        const int64_t row = static_cast<int64_t>(slot & 0xffffffff);
        if (same(row, id)) {
          f(i, row, false);
          break;
        }
        at = next(at);
      }
    }
  };
  if (direct_pays(n, num_nodes)) {
    run(
        table.begin(static_cast<size_t>(num_nodes)), [](int64_t id) { return static_cast<size_t>(id); },
        [](int64_t, int64_t) { return true; }, [](size_t at) { return at; });
  } else {
    const int bits = hash_bits(n);
    const size_t mask = (size_t{1} << bits) - 1;
    run(
        table.begin(mask + 1),
        [bits](int64_t id) {  // Fibonacci hashing
          return static_cast<size_t>((static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15u) >> (64 - bits));
        },
        [&uniq](int64_t row, int64_t id) { return static_cast<int64_t>(uniq[static_cast<size_t>(row)]) == id; },
        [mask](size_t at) { return (at + 1) & mask; });
  }
  table.end();
  return bad;
}

}  // namespace gnnaccel
