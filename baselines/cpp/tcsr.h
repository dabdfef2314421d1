// Events -> rows of each node's events, sorted by (t, eid): two passes of counting sort, by node.
//
// The first pass deals entries to at most 256 buckets of consecutive nodes, the second one places the entries of a
// bucket, which then fit the cache. Both keep the order of events, so a row comes out sorted if time does not run
// backwards; else each row that is not sorted is sorted by itself. Work is cut by events and buckets, never by threads:
// same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace gnnaccel {

constexpr int64_t kBuckets = 256;
constexpr int64_t kEventChunk = 1 << 17;

#pragma pack(push, 4)
template <class Id, class Time>
struct Entry {
  Id node, nbr, eid;
  Time t;
};
#pragma pack(pop)

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
  bool in_order = true;         // time never runs backwards
  std::vector<int64_t> offset;  // [chunks, buckets], start of each in the bucket-major order
  std::vector<int64_t> first;   // [buckets + 1]
};

// `parallel(n, f)` calls f(i) for every i in [0, n), in any order, on any thread.
template <class Time, class Parallel>
Plan plan_rows(const Events<Time>& e, const Parallel& parallel) {
  Plan plan;
  while ((e.num_nodes - 1) >> plan.shift >= kBuckets) ++plan.shift;
  plan.buckets = e.num_nodes == 0 ? 0 : ((e.num_nodes - 1) >> plan.shift) + 1;
  plan.chunks = (e.count + kEventChunk - 1) / kEventChunk;
  plan.offset.assign(static_cast<size_t>(plan.chunks * plan.buckets), 0);
  std::vector<char> in_order(static_cast<size_t>(plan.chunks), 1);
  parallel(plan.chunks, [&](int64_t c) {
    const int64_t begin = c * kEventChunk, end = std::min(e.count, begin + kEventChunk);
    int64_t counts[kBuckets] = {};
    bool ordered = begin == 0 || e.t[begin - 1] <= e.t[begin];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t u = e.src[i], v = e.dst[i];
      ++counts[u >> plan.shift];
      counts[v >> plan.shift] += e.add_reverse & (u != v);
    }
    for (int64_t i = begin + 1; i < end; ++i) ordered &= e.t[i - 1] <= e.t[i];
    std::copy(counts, counts + plan.buckets, plan.offset.begin() + c * plan.buckets);
    in_order[static_cast<size_t>(c)] = ordered;
  });
  plan.in_order = std::all_of(in_order.begin(), in_order.end(), [](char x) { return x != 0; });
  plan.first.assign(static_cast<size_t>(plan.buckets + 1), 0);
  for (int64_t b = 0; b < plan.buckets; ++b) {
    plan.first[static_cast<size_t>(b)] = plan.entries;
    for (int64_t c = 0; c < plan.chunks; ++c) {
      int64_t& at = plan.offset[static_cast<size_t>(c * plan.buckets + b)];
      plan.entries += std::exchange(at, plan.entries);
    }
  }
  plan.first[static_cast<size_t>(plan.buckets)] = plan.entries;
  return plan;
}

template <class Id, class Time>
void sort_row(Id* nbr, Id* eid, Time* t, int64_t n, std::vector<Entry<Id, Time>>& scratch) {
  bool sorted = true;
  for (int64_t i = 1; i < n && sorted; ++i) sorted = t[i - 1] <= t[i];  // eids already rise
  if (sorted) return;
  scratch.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) scratch[static_cast<size_t>(i)] = {0, nbr[i], eid[i], t[i]};
  std::stable_sort(scratch.begin(), scratch.end(), [](const auto& a, const auto& b) { return a.t < b.t; });
  for (int64_t i = 0; i < n; ++i) {
    const auto& x = scratch[static_cast<size_t>(i)];
    nbr[i] = x.nbr;
    eid[i] = x.eid;
    t[i] = x.t;
  }
}

// entries [plan.entries] is working space; indptr [num_nodes + 1]; nbr, eid, t [plan.entries].
template <class Id, class Time, class Parallel>
void build_rows(const Events<Time>& e, const Plan& plan, Entry<Id, Time>* entries, int64_t* indptr, Id* nbr, Id* eid,
                Time* t, const Parallel& parallel) {
  using E = Entry<Id, Time>;
  parallel(plan.chunks, [&](int64_t c) {
    const int64_t begin = c * kEventChunk, end = std::min(e.count, begin + kEventChunk);
    E* at[kBuckets];
    for (int64_t b = 0; b < plan.buckets; ++b) at[b] = entries + plan.offset[static_cast<size_t>(c * plan.buckets + b)];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t u = e.src[i], v = e.dst[i];
      *at[u >> plan.shift]++ = {static_cast<Id>(u), static_cast<Id>(v), static_cast<Id>(i), e.t[i]};
      if (e.add_reverse && u != v)
        *at[v >> plan.shift]++ = {static_cast<Id>(v), static_cast<Id>(u), static_cast<Id>(i), e.t[i]};
    }
  });
  indptr[0] = 0;
  parallel(plan.buckets, [&](int64_t b) {
    const int64_t low = b << plan.shift, nodes = std::min(e.num_nodes - low, int64_t{1} << plan.shift);
    const int64_t first = plan.first[static_cast<size_t>(b)], last = plan.first[static_cast<size_t>(b) + 1];
    std::vector<int64_t> place(static_cast<size_t>(nodes + 1), 0);
    for (int64_t i = first; i < last; ++i) ++place[static_cast<size_t>(entries[i].node - low) + 1];
    place[0] = first;
    for (int64_t n = 0; n < nodes; ++n) {
      place[static_cast<size_t>(n) + 1] += place[static_cast<size_t>(n)];
      indptr[low + n + 1] = place[static_cast<size_t>(n) + 1];
    }
    for (int64_t i = first; i < last; ++i) {
      const E& x = entries[i];
      const int64_t at = place[static_cast<size_t>(x.node - low)]++;
      nbr[at] = x.nbr;
      eid[at] = x.eid;
      t[at] = x.t;
    }
    if (plan.in_order) return;
    std::vector<E> scratch;
    for (int64_t n = 0; n < nodes; ++n) {
      const int64_t begin = n == 0 ? first : indptr[low + n], end = indptr[low + n + 1];
      sort_row(nbr + begin, eid + begin, t + begin, end - begin, scratch);
    }
  });
}

}  // namespace gnnaccel
