// Numbers nodes in order of first appearance, call after call, with a table indexed by node that outlives the calls.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "huge_pages.h"

namespace gnnaccel {

// A number counts only if it is at least `base`, the sum of all that were given by earlier users of the table. So the
// table empties in O(1), and is cleared once in 2^32 numbers.
class NumberTable {
 public:
  explicit NumberTable(int64_t nodes) : size_(nodes) {
    const size_t bytes = (static_cast<size_t>(nodes) + 1) * sizeof(uint32_t);
    slots_ = static_cast<uint32_t*>(std::calloc(bytes, 1));
    if (slots_ == nullptr) throw std::bad_alloc();
    advise_huge_pages(slots_, bytes);  // it outlives many calls, which touch it at random places
  }
  ~NumberTable() { std::free(slots_); }
  NumberTable(const NumberTable&) = delete;
  NumberTable& operator=(const NumberTable&) = delete;

  int64_t size() const { return size_; }
  int64_t count() const { return count_; }

  // Ready for up to `nodes` numbers.
  void begin(int64_t nodes) {
    base_ += static_cast<uint32_t>(count_);
    count_ = 0;
    if (static_cast<uint64_t>(base_) + static_cast<uint64_t>(nodes) > 0xffffffffu) {
      for (int64_t i = 0; i <= size_; ++i) slots_[i] = 0;
      base_ = 1;
    }
  }

  // The numbers of ids, -1 at -1; new ones are appended to `nodes`, which has room for n more and one. `out` may be
  // `ids`. Returns how many ids are not -1, or -1 if one is not in [-1, num_nodes).
  template <class Id>
  int64_t number(const Id* ids, int64_t n, int64_t num_nodes, int32_t* out, Id* nodes) {
    constexpr int64_t kAhead = 24;
    uint32_t* const slots = slots_ + 1;  // before the first: the slot of padding
    const uint32_t base = base_;
    const auto limit = static_cast<uint64_t>(num_nodes);
    int64_t count = count_, real = 0;
    bool good = true;
    auto place = [limit](int64_t id) { return static_cast<uint64_t>(id) < limit ? id : -1; };
    for (int64_t i = 0; i < n; ++i) {
      __builtin_prefetch(slots + place(ids[i + kAhead < n ? i + kAhead : i]), 1);
      const int64_t id = ids[i], at = place(id);
      const bool inside = at >= 0;
      good &= inside | (id == -1);
      real += inside;
      const uint32_t slot = slots[at];
      const bool is_new = slot < base;
      // arithmetic, not ?: of which compilers make branches that nobody predicts
      const uint32_t number =
          (slot - base) ^ (((slot - base) ^ static_cast<uint32_t>(count)) & (0u - static_cast<uint32_t>(is_new)));
      slots[at] = base + number;
      nodes[count] = static_cast<Id>(id);
      count += is_new & inside;
      out[i] = static_cast<int32_t>(number | (inside ? 0u : 0xffffffffu));
    }
    count_ = count;
    return good ? real : -1;
  }

 private:
  uint32_t* slots_;
  int64_t size_, count_ = 0;
  uint32_t base_ = 1;
};

// Memory that is not cleared, and grows by copying what is kept.
class RawBuffer {
 public:
  template <class T>
  T* reserve(int64_t n, int64_t kept) {
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    if (bytes > size_) {
      const size_t size = bytes + bytes / 4;
      std::unique_ptr<void, decltype(&std::free)> larger(std::malloc(size), &std::free);
      if (larger == nullptr) throw std::bad_alloc();
      if (kept > 0) std::memcpy(larger.get(), memory_.get(), static_cast<size_t>(kept) * sizeof(T));
      memory_ = std::move(larger);
      size_ = size;
    }
    return static_cast<T*>(memory_.get());
  }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<void, decltype(&std::free)> memory_{nullptr, &std::free};
  size_t size_ = 0;
};

// What a call works with and the next one finds again.
struct NumberRoom {
  std::unique_ptr<NumberTable> table;
  RawBuffer nodes, wide, keys;
};

// A room from the pool of this process, back to it at the end.
class PooledRoom {
 public:
  explicit PooledRoom(int64_t nodes) {
    {
      const std::lock_guard<std::mutex> lock(mutex());
      if (!pool().empty()) {
        room_ = std::move(pool().back());
        pool().pop_back();
      }
    }
    if (room_.table == nullptr || room_.table->size() < nodes) {
      room_.table.reset();
      room_.table = std::make_unique<NumberTable>(nodes);
    }
    room_.table->begin(nodes);
  }
  ~PooledRoom() {
    if (static_cast<size_t>(room_.table->size()) * 4 > kKeep) return;
    for (RawBuffer* buffer : {&room_.nodes, &room_.wide, &room_.keys})
      if (buffer->size() > kKeep / 4) *buffer = RawBuffer();
    const std::lock_guard<std::mutex> lock(mutex());
    pool().push_back(std::move(room_));
  }
  PooledRoom(const PooledRoom&) = delete;
  PooledRoom& operator=(const PooledRoom&) = delete;
  NumberRoom* operator->() { return &room_; }

 private:
  static constexpr size_t kKeep = size_t{1} << 30;  // bytes of a table that stays between calls

  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static std::vector<NumberRoom>& pool() {
    static std::vector<NumberRoom> rooms;
    return rooms;
  }
  NumberRoom room_;
};

}  // namespace gnnaccel
