// What `temporal_sample` computes for one root, once for CPU and GPU: which events a root may see, the search for them,
// the random draws. Plain inline functions without library calls, so that g++, nvcc and NVRTC all take them.
#pragma once

#include "draws.cuh"

namespace gnnaccel {

// Which events (t', eid') a root at time t sees. The numbers are the op's argument.
enum Visibility : int32_t {
  kStrict = 0,       // t' < t
  kInclusive = 1,    // t' <= t
  kByEventId = 2,    // (t', eid') < (t, event_ids[root])
  kBeforeBatch = 3,  // (t', eid') < (bound_t, bound_eid), and t' <= t
  kTglCompat = 4,    // what TGL's sampler takes, see `tgl_seen`
};

constexpr int64_t kAllEids = 0x7fffffffffffffff;

// The arguments of the op. Rows of the graph are sorted by (t, eid).
template <class Id, class Time>
struct SampleArgs {
  const int64_t* row_start;  // [num_nodes]
  const int64_t* row_end;    // [num_nodes]
  const Id* nbr;
  const Id* eid;
  const Time* t;
  const void* nodes;         // [num_roots], int64 or int32
  const Time* times;         // [num_roots]
  const int64_t* event_ids;  // [num_roots] or null
  const int64_t* draw_keys;  // [num_roots] or null
  Id* out_nbr;               // [num_roots, fanout], as the next three
  Id* out_eid;
  Time* out_dt;
  Time* out_t;         // null: not wanted
  int32_t* out_count;  // [num_roots]
  int64_t num_nodes, num_roots, fanout;
  int64_t bound_eid;
  int64_t seed, epoch, batch, root_offset, hop;
  Time bound_t, window;  // of an int64 window the bits are taken as unsigned, so that no difference of times overflows
  int32_t nodes_are_64, visibility, uniform, replace, has_window;  // TGL replaces where it draws: there `replace` is 0
};

template <class Id, class Time>
GNNACCEL_HD Draws draws_of(const SampleArgs<Id, Time>& a, int64_t root) {
  const uint64_t key =
      a.draw_keys != nullptr ? static_cast<uint64_t>(a.draw_keys[root]) : static_cast<uint32_t>(root + a.root_offset);
  return make_draws(a.seed, a.epoch, a.batch, key, a.hop);
}

// --- What a root sees ------------------------------------------------------------------------------------------------

// The first event that a root does not see, as a position in the order (t, eid).
template <class Time>
struct Key {
  Time t;
  int64_t eid;
};

template <class Id, class Time>
GNNACCEL_HD Key<Time> key_of(const SampleArgs<Id, Time>& a, int64_t root, int32_t visibility) {
  const Time t = a.times[root];
  if (visibility == kByEventId) return {t, a.event_ids[root]};
  if (visibility == kBeforeBatch) {
    if (t < a.bound_t) return {t, kAllEids};
    return {a.bound_t, a.bound_eid};
  }
  return {t, 0};
}

template <class Id, class Time>
GNNACCEL_HD bool precedes(const SampleArgs<Id, Time>& a, int64_t i, const Key<Time>& key, int32_t visibility) {
  const Time t = a.t[i];
  if (visibility == kStrict) return t < key.t;
  if (visibility == kInclusive || visibility == kTglCompat) return t <= key.t;
  return t < key.t || (t == key.t && static_cast<int64_t>(a.eid[i]) < key.eid);
}

// The first event of [begin, end) that a root does not see.
template <class Id, class Time>
GNNACCEL_HD int64_t lower_bound(const SampleArgs<Id, Time>& a, int64_t begin, int64_t end, const Key<Time>& key,
                                int32_t visibility) {
  for (int64_t size = end - begin; size > 0;) {
    const int64_t half = (size + 1) >> 1;
    if (precedes(a, begin + half - 1, key, visibility)) begin += half;
    size -= half;
  }
  return begin;
}

template <class Id, class Time>
GNNACCEL_HD int64_t node_of(const SampleArgs<Id, Time>& a, int64_t root) {
  return a.nodes_are_64 ? static_cast<const int64_t*>(a.nodes)[root] : static_cast<const int32_t*>(a.nodes)[root];
}

// -1 is padding, and sees nothing; so does, on a GPU, a root that is out of range or has no time (NaN).
template <class Id, class Time>
GNNACCEL_HD bool is_root(const SampleArgs<Id, Time>& a, int64_t root, int64_t node) {
  return static_cast<uint64_t>(node) < static_cast<uint64_t>(a.num_nodes) && a.times[root] == a.times[root];
}

// Positions [begin, end) of the graph's arrays.
struct Range {
  int64_t begin, end;
};

GNNACCEL_HD bool expired(int64_t dt, int64_t window) {
  return static_cast<uint64_t>(dt) > static_cast<uint64_t>(window);
}
GNNACCEL_HD bool expired(double dt, double window) { return dt > window; }

// How the op says that there is no window.
GNNACCEL_HD bool no_window(int64_t window) { return window == -1; }
GNNACCEL_HD bool no_window(double window) { return window > 1.7976931348623157e308; }

GNNACCEL_HD int64_t since(int64_t now, int64_t t) {
  return static_cast<int64_t>(static_cast<uint64_t>(now) - static_cast<uint64_t>(t));
}
GNNACCEL_HD double since(double now, double t) { return now - t; }

// Of the visible events [begin, end): those within the window.
template <class Id, class Time>
GNNACCEL_HD int64_t window_begin(const SampleArgs<Id, Time>& a, int64_t root, Range visible) {
  if (!a.has_window) return visible.begin;
  // of the newest, older ones than the window's are of no interest
  if (!a.uniform && visible.end - visible.begin > a.fanout) visible.begin = visible.end - a.fanout;
  const Time now = a.times[root];
  int64_t size = visible.end - visible.begin;
  while (size > 0) {
    const int64_t half = (size + 1) >> 1;
    if (expired(since(now, a.t[visible.begin + half - 1]), a.window)) visible.begin += half;
    size -= half;
  }
  return visible.begin;
}

// TGL's sampler (Zhou et al., VLDB 2022), with what it does wrong, for comparison only. `row` holds the events up to
// the time of the root, and those from `now` on are at that time. TGL takes the last event of the row, its own or a
// tied one too, walks back over `fanout` places and only then drops what is not earlier than the root; the place at the
// start of the range is never taken. With more than `fanout` places it draws from the whole range, the start included.
// The range starts with the last event that is at least a window old, or with the oldest.
template <class Id, class Time>
GNNACCEL_HD Range tgl_seen(const SampleArgs<Id, Time>& a, int64_t root, Range row, int64_t now) {
  int64_t start = row.begin;
  if (a.has_window) {
    for (int64_t size = row.end - row.begin; size > 0;) {
      const int64_t half = (size + 1) >> 1;
      const Time dt = since(a.times[root], a.t[start + half - 1]);
      if (dt == a.window || expired(dt, a.window)) start += half;
      size -= half;
    }
    if (start > row.begin) --start;
  }
  const int64_t last = row.end - 1;
  if (a.uniform && last - start >= a.fanout) return {start, row.end};
  const int64_t first = (start > last - a.fanout ? start : last - a.fanout) + 1;
  return {first, now > first ? now : first};
}

template <class Id, class Time>
GNNACCEL_HD int64_t count_of(const SampleArgs<Id, Time>& a, Range seen) {
  const int64_t n = seen.end - seen.begin;
  return n > a.fanout || (n > 0 && a.uniform && a.replace) ? a.fanout : n;
}

// Whether the sample is simply the newest events.
template <class Id, class Time>
GNNACCEL_HD bool is_newest(const SampleArgs<Id, Time>& a, Range seen) {
  return !a.uniform || (!a.replace && seen.end - seen.begin <= a.fanout);
}

// What one root sees. The CPU kernel searches for many roots at once, but for the events at the very time of a root.
template <class Id, class Time>
GNNACCEL_HD Range find_seen(const SampleArgs<Id, Time>& a, int64_t root) {
  const int64_t node = node_of(a, root);
  if (!is_root(a, root, node)) return {0, 0};
  Range seen{a.row_start[node], a.row_end[node]};
  const Key<Time> key = key_of(a, root, a.visibility);
  seen.end = lower_bound(a, seen.begin, seen.end, key, a.visibility);
  if (a.visibility == kTglCompat) return tgl_seen(a, root, seen, lower_bound(a, seen.begin, seen.end, key, kStrict));
  seen.begin = window_begin(a, root, seen);
  return seen;
}

// `count` draws from [0, n) in descending order. Without replacement: Floyd's algorithm (Bentley and Floyd, CACM 1987),
// every subset equally likely. `out` is kept sorted, so that the search for an equal draw is the search for its place.
template <class Id>
GNNACCEL_HD void draw_descending(Id* out, int64_t n, int64_t count, bool replace, Draws d) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t last = n - count + i;
    Id pick = static_cast<Id>(draw(d, replace ? n : last + 1));
    int64_t place = i;
    while (place > 0 && out[place - 1] < pick) {
      out[place] = out[place - 1];
      --place;
    }
    if (!replace && place > 0 && out[place - 1] == pick) {
      // taken: Floyd takes `last` instead, which is larger than all
      pick = static_cast<Id>(last);
      for (; place > 0; --place) out[place] = out[place - 1];
    }
    out[place] = pick;
  }
}

// Draws of a root whose sample is not simply the newest events: positions within `seen`, left in its places for `eid`.
// Returns how many: fewer than `count` where TGL drops draws that are not earlier than the root.
template <class Id, class Time>
GNNACCEL_HD int64_t draw_picks(const SampleArgs<Id, Time>& a, int64_t root, Range seen, int64_t count) {
  const bool tgl = a.visibility == kTglCompat;
  Id* picks = a.out_eid + root * a.fanout;
  draw_descending(picks, seen.end - seen.begin, count, a.replace || tgl, draws_of(a, root));
  if (!tgl) return count;
  int64_t late = 0;
  while (late < count && a.t[seen.begin + static_cast<int64_t>(picks[late])] >= a.times[root]) ++late;
  for (int64_t k = late; k < count; ++k) picks[k - late] = picks[k];
  return count - late;
}

// Slots in use of a root, after `begin_root` or `draw_picks`.
template <class Id, class Time>
GNNACCEL_HD int64_t slots_of(const SampleArgs<Id, Time>& a, int64_t root, Range seen) {
  if (a.visibility == kTglCompat && !is_newest(a, seen)) return a.out_count[root];
  return count_of(a, seen);
}

// A root's search, count and draws.
template <class Id, class Time>
GNNACCEL_HD Range begin_root(const SampleArgs<Id, Time>& a, int64_t root) {
  const Range seen = find_seen(a, root);
  int64_t count = count_of(a, seen);
  if (!is_newest(a, seen)) count = draw_picks(a, root, seen, count);
  a.out_count[root] = static_cast<int32_t>(count);
  return seen;
}

// Slot k of a root, after `begin_root` or `draw_picks`.
template <class Id, class Time>
GNNACCEL_HD void write_slot(const SampleArgs<Id, Time>& a, int64_t root, int64_t k, Range seen, int64_t count) {
  const int64_t o = root * a.fanout + k;
  if (k < count) {
    const int64_t i = is_newest(a, seen) ? seen.end - 1 - k : seen.begin + static_cast<int64_t>(a.out_eid[o]);
    const Time t = a.t[i];
    a.out_nbr[o] = a.nbr[i];
    a.out_eid[o] = a.eid[i];
    a.out_dt[o] = since(a.times[root], t);
    if (a.out_t != nullptr) a.out_t[o] = t;
  } else {
    a.out_nbr[o] = a.out_eid[o] = -1;
    a.out_dt[o] = 0;
    if (a.out_t != nullptr) a.out_t[o] = 0;
  }
}

}  // namespace gnnaccel
