// `kg_topk_queries`: the best k candidates of each query. Every task selects among its own candidates; the order of
// results is total (score, then id), so that it does not matter who found them.
#include "above_mask.h"
#include "kg_tiles.h"

namespace gnnaccel {
namespace {

constexpr int64_t kRangeBlocks = 1024 / kTileCandidates;  // of a task at least: every task starts a selection anew
constexpr int64_t kTasks = 4;                             // of a thread, so that none waits long for the last
constexpr int64_t kKept = int64_t{1} << 21;               // results that tasks may hold together, where queries are few

template <class A>
struct Found {
  A score;
  int64_t position;
  bool operator<(const Found& other) const {  // stands before
    return score > other.score || (score == other.score && position < other.position);
  }
};

// The best k of what is pushed, by ascending position. Up to 2 k are kept until the k-th is looked for: O(1) a push.
template <class A>
class Selection {
 public:
  void push(const A* s, int64_t n, int64_t j0, size_t k) {
    int64_t j = 0;
    for (; j < n && !full_; ++j)
      if (s[j] == s[j]) add(s[j], j0 + j, k);
    for (; j < n; j += kMaskBits) {
      // an equal score comes after those that are here
      uint64_t above = above_mask(s + j, std::min(n - j, kMaskBits), threshold_);
      for (; above != 0; above &= above - 1) {
        const int64_t at = j + __builtin_ctzll(above);
        if (s[at] > threshold_) add(s[at], j0 + at, k);  // the threshold may have risen since
      }
    }
  }
  std::vector<Found<A>>& found() { return found_; }

 private:
  void add(A score, int64_t position, size_t k) {
    if (found_.empty()) found_.reserve(std::min(2 * k, kAtOnce));
    found_.push_back({score, position});
    if (found_.size() < 2 * k) return;
    std::nth_element(found_.begin(), found_.begin() + static_cast<std::ptrdiff_t>(k) - 1, found_.end());
    found_.resize(k);
    threshold_ = found_[k - 1].score;
    full_ = true;
  }
  static constexpr size_t kAtOnce = 256;
  std::vector<Found<A>> found_;
  A threshold_ = 0;
  bool full_ = false;
};

// Queries [b0, b0 + q.m) of the call, which see the same candidates.
template <class T, class A = acc_t<T>>
void topk_group(const TileScorer<T>& scorer, const TileQueries<A>& q, int64_t b0, const LeftOut& left,
                const TileCandidates& candidates, int64_t k, int64_t* ids, A* scores) {
  const int64_t m = q.m, parts = (m + kTileQueries - 1) / kTileQueries;
  // few queries: their candidates are divided. Results do not depend on it, so that it may depend on the threads.
  const int64_t tasks = kTasks * static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t wanted = std::max<int64_t>(std::min(tasks / parts, kKept / (m * k)), 1);
  const int64_t blocks = candidates.blocks(), each = std::max((blocks + wanted - 1) / wanted, kRangeBlocks);
  const int64_t ranges = (blocks + each - 1) / each;
  std::vector<Selection<A>> selections(static_cast<size_t>(ranges * m));
  parallel_chunks(parts * ranges, 1, [&](int64_t task, int64_t) {
    const int64_t i0 = task / ranges * kTileQueries, range = task % ranges;
    const int64_t first = range * each, last = std::min(first + each, blocks);
    TileQueries<A> some = q.from(i0);
    some.m = std::min(kTileQueries, some.m);
    std::vector<const int64_t*> next(static_cast<size_t>(some.m));
    for (int64_t i = 0; i < some.m; ++i) next[static_cast<size_t>(i)] = left.from(b0 + i0 + i, first * kTileCandidates);
    visit_tiles(scorer, some, candidates, first, last, [&](int64_t i, int64_t j0, int64_t n, A* s) {
      const int64_t*& drop = next[static_cast<size_t>(i)];
      for (const int64_t* end = left.end(b0 + i0 + i); drop != end && *drop < j0 + n; ++drop)
        s[*drop - j0] = std::numeric_limits<A>::quiet_NaN();
      selections[static_cast<size_t>((i0 + i) * ranges + range)].push(s, n, j0, static_cast<size_t>(k));
    });
  });
  constexpr int64_t kMerged = 4;  // queries of a task
  parallel_chunks(m, kMerged, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::vector<Found<A>> all;
      for (int64_t range = 0; range < ranges; ++range) {
        auto& found = selections[static_cast<size_t>(i * ranges + range)].found();
        all.insert(all.end(), found.begin(), found.end());
        std::vector<Found<A>>().swap(found);
      }
      const int64_t n = std::min(k, static_cast<int64_t>(all.size()));
      std::partial_sort(all.begin(), all.begin() + n, all.end());
      for (int64_t j = 0; j < k; ++j) {
        ids[(b0 + i) * k + j] = j < n ? candidates.id(all[static_cast<size_t>(j)].position) : -1;
        scores[(b0 + i) * k + j] = j < n ? all[static_cast<size_t>(j)].score : -std::numeric_limits<A>::infinity();
      }
    }
  });
}

std::tuple<Tensor, Tensor> kg_topk_queries_cpu(const Tensor& q_in, const Tensor& entity_in,
                                               const std::optional<Tensor>& projection_in, const Tensor& relation_in,
                                               const Tensor& start_in, const Tensor& stop_in, const Tensor& ids_in,
                                               const std::optional<Tensor>& candidates_in, int64_t k, int64_t kind,
                                               double gamma) {
  const TileArguments args(q_in, entity_in, projection_in, relation_in, start_in, stop_in, ids_in, candidates_in);
  Tensor best = empty({args.B, k}, ScalarType::Long), scores = empty({args.B, k}, q_in.scalar_type());
  const LeftOut left = args.left_out(nullptr);
  args.for_groups(kind, gamma, "kg_topk", [&](const auto& scorer, const auto& q, int64_t first) {
    topk_group(scorer, q, first, left, args.candidates, k, ptr<int64_t>(best),
               static_cast<std::remove_const_t<std::remove_pointer_t<decltype(q.rows)>>*>(scores.data_ptr()));
  });
  return {best, scores};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("kg_topk_queries", TORCH_BOX(&gnnaccel::kg_topk_queries_cpu)); }
