// Numbers ids in order of first appearance, O(n). Shared by unique_nodes, latest_per_node, gather_rows' backward and
// the sparse optimisers.
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
  return num_nodes >= 0 && (num_nodes <= (int64_t{1} << 20) || num_nodes <= 2 * n);
}

template <class Id>
struct Distinct {
  const Id* ids;  // in order of first appearance; valid until the next call
  int64_t count;
  int64_t bad;  // position of the first id that is not below num_nodes, or -1
};

// a if the condition holds, else b, by arithmetic: compilers make branches of ?: here, and nobody predicts these
// conditions.
inline uint64_t select(bool condition, uint64_t a, uint64_t b) {
  return b ^ ((a ^ b) & (uint64_t{0} - static_cast<uint64_t>(condition)));
}

// Calls f(i, row, is_new) for every id, in order: row counts distinct ids by first appearance, -1 at negative ids
// (padding). num_nodes < 0: unknown. The loop branches on nothing but the hash's collisions.
template <class Id, class F>
Distinct<Id> number_nodes(const Id* ids, int64_t n, int64_t num_nodes, const F& f) {
  // two tables: an id in a pair of the hash table must never be taken for a stamp
  static thread_local StampTable by_id, by_hash;
  static thread_local std::vector<Id> buffer;  // -1, then the distinct ids
  const size_t room = static_cast<size_t>(n) + 2;
  if (buffer.size() > StampTable::kKeep && room <= StampTable::kKeep) std::vector<Id>().swap(buffer);
  if (buffer.size() < room) buffer.resize(room);
  buffer[0] = -1;
  Id* const found = buffer.data() + 1;
  const uint64_t limit = num_nodes < 0 ? uint64_t{1} << 63 : static_cast<uint64_t>(num_nodes);
  int64_t count = 0;
  bool past = false;
  auto run = [&](StampTable& table, uint64_t size, auto home, auto same, auto next, auto put) {
    uint64_t* const slots = table.begin(size + 2);
    const uint64_t stamp = table.stamp();
    slots[size] = stamp | 0xffffffffu;  // the slot of padding: never new, row -1
    auto slot_of = [&](uint64_t id) { return select(id >= limit, size, home(id)); };
    for (int64_t i = 0; i < n; ++i) {
      __builtin_prefetch(slots + slot_of(static_cast<uint64_t>(ids[i + kAhead < n ? i + kAhead : i])), 1);
      const int64_t id = static_cast<int64_t>(ids[i]) | (static_cast<int64_t>(ids[i]) >> 63);  // all padding is -1
      const bool outside = static_cast<uint64_t>(id) >= limit;
      past |= outside & (id >= 0);
      uint64_t at = slot_of(static_cast<uint64_t>(id)), slot = slots[at];
      bool is_new = (slot ^ stamp) >> 32 != 0;
      while (!(is_new | outside | same(slots + at, id))) {
        at = next(at);
        slot = slots[at];
        is_new = (slot ^ stamp) >> 32 != 0;
      }
      const uint64_t row = select(is_new, static_cast<uint64_t>(count), slot & 0xffffffffu);
      slots[at] = stamp | row;
      put(slots + at, id);
      found[count] = static_cast<Id>(id);
      count += is_new;
      f(i, static_cast<int64_t>(static_cast<int32_t>(row)), is_new);
    }
    table.end();
  };
  if (direct_pays(n, num_nodes)) {
    run(
        by_id, static_cast<uint64_t>(num_nodes), [](uint64_t id) { return id; },
        [](uint64_t*, int64_t) { return true; }, [](uint64_t at) { return at; }, [](uint64_t*, int64_t) {});
  } else {
    // slots come in pairs: stamp and row, then the id
    const int bits = hash_bits(n);
    const uint64_t mask = (uint64_t{2} << bits) - 2;
    run(
        by_hash, mask + 2,
        [bits](uint64_t id) { return (id * 0x9E3779B97F4A7C15u) >> (64 - bits) << 1; },  // Fibonacci hashing
        [](uint64_t* slot, int64_t id) { return static_cast<int64_t>(slot[1]) == id; },
        [mask](uint64_t at) { return (at + 2) & mask; },
        [](uint64_t* slot, int64_t id) { slot[1] = static_cast<uint64_t>(id); });
  }
  int64_t bad = -1;
  for (int64_t i = 0; past && bad < 0; ++i) bad = ids[i] >= 0 && static_cast<uint64_t>(ids[i]) >= limit ? i : -1;
  return {found, count, bad};
}

// Positions grouped by id, in order of position within a group: those of row[k] are order[segment[k] .. segment[k +
// 1]).
struct Groups {
  std::vector<int64_t> row, segment, order;
  int64_t bad;  // as in Distinct; then the rest is not filled
};

template <class Id>
Groups group_ids(const Id* ids, int64_t n, int64_t num_nodes) {
  Groups g;
  std::vector<int64_t> group(static_cast<size_t>(n)), next(static_cast<size_t>(n) + 1, 0);
  const auto found = number_nodes(ids, n, num_nodes, [&](int64_t i, int64_t k, bool) {
    group[static_cast<size_t>(i)] = k;
    ++next[static_cast<size_t>(k + 1)];  // padding counts at 0
  });
  g.bad = found.bad;
  if (found.bad >= 0) return g;
  const size_t count = static_cast<size_t>(found.count);
  g.row.assign(found.ids, found.ids + found.count);
  g.segment.resize(count + 1);
  int64_t total = 0;
  for (size_t k = 0; k < count; ++k) {
    g.segment[k] = total;
    total += next[k + 1];
    next[k] = g.segment[k];
  }
  g.segment[count] = total;
  g.order.resize(static_cast<size_t>(total));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t k = group[static_cast<size_t>(i)];
    if (k >= 0) g.order[static_cast<size_t>(next[static_cast<size_t>(k)]++)] = i;
  }
  return g;
}

}  // namespace gnnaccel
