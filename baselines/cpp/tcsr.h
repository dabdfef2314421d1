// Events -> rows of each node's events, sorted by (t, eid): two passes of counting sort, by node.
//
// The first pass deals entries to buckets of consecutive nodes, a cache line at a time; the second one places the
// entries of a bucket, which then fit the cache. Both keep the order of events, so a row comes out sorted if time does
// not run backwards; else each row that is not sorted is sorted by itself. Work is cut by events and buckets, never by
// threads: same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace gnnaccel {

constexpr int kChunkBits = 18;
constexpr int64_t kEventChunk = int64_t{1} << kChunkBits;
constexpr int64_t kMaxBuckets = 1024;
constexpr int64_t kBucketEntries = 4096;  // fewer than this and a bucket is not worth its while

// An entry on its way: `place` is its event within the chunk and its node within the bucket.
template <class Id, class Time, class Place>
struct Entry {
  Time t;
  Id nbr;
  Place place;
};

template <class Time>
struct Events {
  const int64_t* src;
  const int64_t* dst;
  const Time* t;
  int64_t count, num_nodes;
  bool add_reverse;
};

// Where the entries of each (chunk of events, bucket of nodes) go.
struct Plan {
  int shift = 0;
  int64_t buckets = 0, chunks = 0, entries = 0;
  std::vector<int64_t> offset;  // [buckets * chunks + 1]: first entry of each
  bool narrow() const { return shift + kChunkBits <= 32; }
};

// `parallel(n, own, f)` calls f(copy of own, i) for every i in [0, n), in any order, on threads that have a copy each.
template <class Time, class Parallel>
Plan plan_rows(const Events<Time>& e, const Parallel& parallel) {
  Plan plan;
  const int64_t most = std::max<int64_t>(1, std::min(kMaxBuckets, 2 * e.count / kBucketEntries));
  while ((e.num_nodes - 1) >> plan.shift >= most) ++plan.shift;
  plan.buckets = e.num_nodes == 0 ? 0 : ((e.num_nodes - 1) >> plan.shift) + 1;
  plan.chunks = (e.count + kEventChunk - 1) / kEventChunk;
  plan.offset.assign(static_cast<size_t>(plan.chunks * plan.buckets + 1), 0);
  parallel(plan.chunks, std::vector<int64_t>(), [&](std::vector<int64_t>& counts, int64_t c) {
    const int64_t begin = c * kEventChunk, end = std::min(e.count, begin + kEventChunk);
    counts.assign(static_cast<size_t>(plan.buckets), 0);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t u = e.src[i], v = e.dst[i];
      ++counts[static_cast<size_t>(u >> plan.shift)];
      counts[static_cast<size_t>(v >> plan.shift)] += e.add_reverse & (u != v);
    }
    for (int64_t b = 0; b < plan.buckets; ++b)
      plan.offset[static_cast<size_t>(b * plan.chunks + c)] = counts[static_cast<size_t>(b)];
  });
  for (int64_t& at : plan.offset) plan.entries += std::exchange(at, plan.entries);
  return plan;
}

// Copies past the cache: what is written for later need not be read first.
template <class T>
void stream(T* to, const T* from, int64_t n) {
#if defined(__SSE2__)
  while (n > 0 && reinterpret_cast<uintptr_t>(to) % 16 != 0) *to++ = *from++, --n;
  constexpr int64_t kStep = 16;  // values: at least one cache line
  for (; n >= kStep; n -= kStep, to += kStep, from += kStep)
    for (size_t i = 0; i < kStep * sizeof(T) / 16; ++i)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
#endif
  std::copy(from, from + n, to);
}

inline void stream_done() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Appends to many places at once, buffered so that memory is written in whole lines. `entries` is aligned to 64 bytes.
template <class E>
class Dealer {
 public:
  static constexpr int64_t kLine = 8;  // entries: two cache lines of 16 bytes each, or three of 24

  Dealer(E* entries, int64_t buckets)
      : entries_(entries), at_(static_cast<size_t>(buckets)), first_(at_), lines_(static_cast<size_t>(buckets)) {}

  void start(int64_t bucket, int64_t at) {
    at_[static_cast<size_t>(bucket)] = first_[static_cast<size_t>(bucket)] = at;
  }

  void push(int64_t bucket, const E& entry) {
    const auto b = static_cast<size_t>(bucket);
    const int64_t at = at_[b]++;
    lines_[b].entry[at % kLine] = entry;
    if (at % kLine == kLine - 1) flush(b, at + 1 - kLine);
  }

  void finish() {
    for (size_t b = 0; b < at_.size(); ++b) {
      const int64_t line = at_[b] / kLine * kLine;
      for (int64_t i = std::max(line, first_[b]); i < at_[b]; ++i) entries_[i] = lines_[b].entry[i % kLine];
    }
    stream_done();
  }

 private:
  struct alignas(64) Line {
    E entry[kLine];
  };

  void flush(size_t b, int64_t line) {
    if (line >= first_[b]) {
      stream(reinterpret_cast<int64_t*>(entries_ + line), reinterpret_cast<const int64_t*>(lines_[b].entry),
             static_cast<int64_t>(sizeof(Line) / 8));
    } else {
      for (int64_t i = first_[b]; i < line + kLine; ++i) entries_[i] = lines_[b].entry[i % kLine];
    }
  }

  E* entries_;
  std::vector<int64_t> at_, first_;
  std::vector<Line> lines_;
};

template <class Id, class Time>
struct Sortable {
  Time t;
  Id nbr, eid;
};

template <class Id, class Time>
void sort_row(Id* nbr, Id* eid, Time* t, int64_t n, std::vector<Sortable<Id, Time>>& scratch) {
  bool sorted = true;
  for (int64_t i = 1; i < n && sorted; ++i) sorted = t[i - 1] <= t[i];  // eids already rise
  if (sorted) return;
  scratch.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) scratch[static_cast<size_t>(i)] = {t[i], nbr[i], eid[i]};
  std::stable_sort(scratch.begin(), scratch.end(), [](const auto& a, const auto& b) { return a.t < b.t; });
  for (int64_t i = 0; i < n; ++i) {
    const auto& x = scratch[static_cast<size_t>(i)];
    nbr[i] = x.nbr;
    eid[i] = x.eid;
    t[i] = x.t;
  }
}

// entries [plan.entries] is working space; indptr [num_nodes + 1]; nbr, eid, t [plan.entries].
template <class Place, class Id, class Time, class Parallel>
void build_rows(const Events<Time>& e, const Plan& plan, Entry<Id, Time, Place>* entries, int64_t* indptr, Id* nbr,
                Id* eid, Time* t, const Parallel& parallel) {
  using E = Entry<Id, Time, Place>;
  const int64_t mask = (int64_t{1} << plan.shift) - 1;
  std::vector<char> ordered(static_cast<size_t>(plan.chunks), 0);  // whether time never runs backwards
  parallel(plan.chunks, Dealer<E>(entries, plan.buckets), [&](Dealer<E>& deal, int64_t c) {
    const int64_t begin = c * kEventChunk, end = std::min(e.count, begin + kEventChunk);
    for (int64_t b = 0; b < plan.buckets; ++b) deal.start(b, plan.offset[static_cast<size_t>(b * plan.chunks + c)]);
    bool rises = true;
    for (int64_t i = begin; i < end; ++i) {
      rises &= i == 0 || e.t[i - 1] <= e.t[i];
      const int64_t u = e.src[i], v = e.dst[i], event = (i - begin) << plan.shift;
      deal.push(u >> plan.shift, {e.t[i], static_cast<Id>(v), static_cast<Place>(event | (u & mask))});
      if (e.add_reverse && u != v)
        deal.push(v >> plan.shift, {e.t[i], static_cast<Id>(u), static_cast<Place>(event | (v & mask))});
    }
    deal.finish();
    ordered[static_cast<size_t>(c)] = rises;
  });
  const bool in_order = std::all_of(ordered.begin(), ordered.end(), [](char x) { return x != 0; });
  indptr[0] = 0;
  struct Bucket {
    std::vector<int64_t> place;
    std::vector<Id> nbr, eid;
    std::vector<Time> t;
    std::vector<Sortable<Id, Time>> scratch;
  };
  parallel(plan.buckets, Bucket{}, [&](Bucket& own, int64_t b) {
    const int64_t low = b << plan.shift, nodes = std::min(e.num_nodes - low, mask + 1);
    const int64_t* offset = plan.offset.data() + b * plan.chunks;
    const int64_t first = offset[0], count = offset[plan.chunks] - first;
    if (own.nbr.size() < static_cast<size_t>(count)) {
      own.nbr.resize(static_cast<size_t>(count));
      own.eid.resize(static_cast<size_t>(count));
      own.t.resize(static_cast<size_t>(count));
    }
    own.place.assign(static_cast<size_t>(nodes + 1), 0);
    int64_t* place = own.place.data();
    for (int64_t i = first; i < first + count; ++i) ++place[(entries[i].place & mask) + 1];
    for (int64_t n = 0; n < nodes; ++n) {
      place[n + 1] += place[n];
      indptr[low + n + 1] = first + place[n + 1];
    }
    for (int64_t c = 0; c < plan.chunks; ++c) {
      for (int64_t i = offset[c]; i < offset[c + 1]; ++i) {
        const E& x = entries[i];
        const auto at = static_cast<size_t>(place[x.place & mask]++);
        own.nbr[at] = x.nbr;
        own.eid[at] = static_cast<Id>(c * kEventChunk + static_cast<int64_t>(x.place >> plan.shift));
        own.t[at] = x.t;
      }
    }
    if (!in_order) {
      int64_t begin = 0;
      for (int64_t n = 0; n < nodes; begin = place[n++])  // by now the end of row n
        sort_row(own.nbr.data() + begin, own.eid.data() + begin, own.t.data() + begin, place[n] - begin, own.scratch);
    }
    stream(nbr + first, own.nbr.data(), count);
    stream(eid + first, own.eid.data(), count);
    stream(t + first, own.t.data(), count);
    stream_done();
  });
}

}  // namespace gnnaccel
