// Events -> rows of each node's events, sorted by (t, eid): two passes of counting sort, by node.
//
// The first pass deals entries to buckets of consecutive nodes, a few cache lines at a time; the second one places the
// entries of a bucket, which then fit the cache. The outputs hold the entries between the passes, so there is no other
// large array. Both passes keep the order of events, so a row comes out sorted if time does not run backwards; else
// each row that is not sorted is sorted by itself. Work is cut by events and buckets, never by threads: same bits for
// any number of threads.
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

constexpr int kMostChunkBits = 18, kLeastChunkBits = 12;
constexpr int64_t kChunks = 8;  // at least as many, if there are events enough
constexpr int64_t kMaxBuckets = 1024;
constexpr int64_t kBucketEntries = 4096;       // fewer than this and a bucket is not worth its while
constexpr int64_t kCached = int64_t{1} << 19;  // entries up to which the outputs are better left in the cache

// `mark` is, of an entry in its row, the event; on its way, the event within the chunk and the node within the bucket.
template <class Id, class Time, class Mark>
struct Entry {
  Time t;
  Id nbr;
  Mark mark;
};

template <class Id, class Time, class Mark>
struct Columns {
  Time* t;
  Id* nbr;
  Mark* mark;
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
  int shift = 0, chunk_bits = kLeastChunkBits;
  int64_t buckets = 0, chunks = 0, entries = 0;
  std::vector<int64_t> offset;  // [buckets * chunks + 1]: first entry of each
  bool narrow() const { return shift + chunk_bits <= 32; }
  int64_t first_event(int64_t chunk) const { return chunk << chunk_bits; }
};

// `parallel(n, own, f)` calls f(copy of own, i) for every i in [0, n), in any order, on threads that have a copy each.
template <class Time, class Parallel>
Plan plan_rows(const Events<Time>& e, const Parallel& parallel) {
  Plan plan;
  const int64_t most = std::max<int64_t>(1, std::min(kMaxBuckets, 2 * e.count / kBucketEntries));
  while ((e.num_nodes - 1) >> plan.shift >= most) ++plan.shift;
  plan.buckets = e.num_nodes == 0 ? 0 : ((e.num_nodes - 1) >> plan.shift) + 1;
  while (plan.chunk_bits < kMostChunkBits && e.count >> plan.chunk_bits > kChunks) ++plan.chunk_bits;
  plan.chunks = (e.count + plan.first_event(1) - 1) >> plan.chunk_bits;
  plan.offset.assign(static_cast<size_t>(plan.chunks * plan.buckets + 1), 0);
  parallel(plan.chunks, std::vector<int64_t>(), [&](std::vector<int64_t>& counts, int64_t c) {
    const int64_t begin = plan.first_event(c), end = std::min(e.count, plan.first_event(c + 1));
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
  constexpr int64_t kStep = 64 / sizeof(T);
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    for (; n >= kStep; n -= kStep, to += kStep, from += kStep)
      for (int i = 0; i < 4; ++i)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i,
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
  }
#endif
  std::copy(from, from + n, to);
}

inline void stream_done() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

constexpr int64_t kLine = 16;  // entries: a cache line of 4-byte values, two of 8-byte ones

// Entries [begin, end) of `to`; `from` is the first of them.
template <class Id, class Time, class Mark>
void write_columns(Columns<Id, Time, Mark> to, int64_t begin, int64_t end, const Entry<Id, Time, Mark>* from,
                   bool past_cache) {
  auto copy = [&](int64_t stop) {
    for (; begin < stop; ++begin, ++from) {
      to.t[begin] = from->t;
      to.nbr[begin] = from->nbr;
      to.mark[begin] = from->mark;
    }
  };
  if (past_cache) {
    copy(std::min(end, (begin + kLine - 1) & -kLine));
    for (; begin + kLine <= end; begin += kLine, from += kLine) {
      alignas(64) Time t[kLine];
      alignas(64) Id nbr[kLine];
      alignas(64) Mark mark[kLine];
      for (int64_t i = 0; i < kLine; ++i) {
        t[i] = from[i].t;
        nbr[i] = from[i].nbr;
        mark[i] = from[i].mark;
      }
      stream(to.t + begin, t, kLine);
      stream(to.nbr + begin, nbr, kLine);
      stream(to.mark + begin, mark, kLine);
    }
  }
  copy(end);
}

// Appends to many places at once, buffered so that memory is written in whole cache lines.
template <class Id, class Time, class Mark>
class Dealer {
 public:
  Dealer(Columns<Id, Time, Mark> out, int64_t buckets, bool past_cache)
      : out_(out), past_cache_(past_cache), at_(static_cast<size_t>(buckets)), first_(at_), lines_(at_.size()) {}

  void start(int64_t bucket, int64_t at) {
    at_[static_cast<size_t>(bucket)] = first_[static_cast<size_t>(bucket)] = at;
  }

  void push(int64_t bucket, const Entry<Id, Time, Mark>& entry) {
    const auto b = static_cast<size_t>(bucket);
    const int64_t at = at_[b]++, i = at & (kLine - 1);
    lines_[b].entry[i] = entry;
    if (i == kLine - 1) flush(b, at - i, at + 1);
  }

  void finish() {
    for (size_t b = 0; b < at_.size(); ++b) flush(b, at_[b] & -kLine, at_[b]);
    stream_done();
  }

 private:
  struct alignas(64) Line {
    Entry<Id, Time, Mark> entry[kLine];
  };

  // the line from `begin` on, but for the entries of the bucket before
  void flush(size_t b, int64_t begin, int64_t end) {
    begin = std::max(begin, first_[b]);
    if (begin < end) write_columns(out_, begin, end, lines_[b].entry + (begin & (kLine - 1)), past_cache_);
  }

  Columns<Id, Time, Mark> out_;
  bool past_cache_;
  std::vector<int64_t> at_, first_;
  std::vector<Line> lines_;
};

// indptr [num_nodes + 1]; nbr, eid, t [plan.entries]. `place` [plan.entries] is working space; it may be `eid`.
template <class Place, class Id, class Time, class Parallel>
void build_rows(const Events<Time>& e, const Plan& plan, Place* place, int64_t* indptr, Id* nbr, Id* eid, Time* t,
                const Parallel& parallel) {
  using E = Entry<Id, Time, Id>;
  using D = Dealer<Id, Time, Place>;
  const int64_t mask = (int64_t{1} << plan.shift) - 1;
  const bool past_cache = plan.entries > kCached;
  std::vector<char> ordered(static_cast<size_t>(plan.chunks), 0);  // whether time never runs backwards
  parallel(plan.chunks, D({t, nbr, place}, plan.buckets, past_cache), [&](D& deal, int64_t c) {
    const int64_t begin = plan.first_event(c), end = std::min(e.count, plan.first_event(c + 1));
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
    std::vector<int64_t> end;  // of each row so far
    std::vector<E> rows;
  };
  parallel(plan.buckets, Bucket{}, [&](Bucket& own, int64_t b) {
    const int64_t low = b << plan.shift, nodes = std::min(e.num_nodes - low, mask + 1);
    const int64_t* offset = plan.offset.data() + b * plan.chunks;
    const int64_t first = offset[0], last = offset[plan.chunks];
    if (own.rows.size() < static_cast<size_t>(last - first)) own.rows.resize(static_cast<size_t>(last - first));
    own.end.assign(static_cast<size_t>(nodes + 1), 0);
    int64_t* row_end = own.end.data();
    E* rows = own.rows.data();
    for (int64_t i = first; i < last; ++i) ++row_end[(place[i] & static_cast<Place>(mask)) + 1];
    for (int64_t n = 0; n < nodes; ++n) {
      row_end[n + 1] += row_end[n];
      indptr[low + n + 1] = first + row_end[n + 1];
    }
    for (int64_t c = 0; c < plan.chunks; ++c) {
      for (int64_t i = offset[c]; i < offset[c + 1]; ++i) {
        const Place p = place[i];
        const int64_t event = plan.first_event(c) + static_cast<int64_t>(p >> plan.shift);
        rows[row_end[p & static_cast<Place>(mask)]++] = {t[i], nbr[i], static_cast<Id>(event)};
      }
    }
    auto earlier = [](const E& x, const E& y) { return x.t < y.t; };  // eids already rise
    for (int64_t n = 0, begin = 0; !in_order && n < nodes; begin = row_end[n++])
      if (!std::is_sorted(rows + begin, rows + row_end[n], earlier))
        std::stable_sort(rows + begin, rows + row_end[n], earlier);
    write_columns({t, nbr, eid}, first, last, rows, past_cache);
    stream_done();
  });
}

}  // namespace gnnaccel
