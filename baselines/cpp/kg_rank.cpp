// `kg_rank_queries`: how many candidates stand before the true entity, and how many beside it. Counts are whole
// numbers: no order of adding changes them.
#include "kg_tiles.h"

namespace gnnaccel {
namespace {

constexpr int64_t kTrueRows = 16;  // true entities that are scored together, each for its own query

// The score of each query's true entity, by the arithmetic of all others.
template <class T, class A = acc_t<T>>
std::vector<A> true_scores(const TileScorer<T>& scorer, const TileQueries<A>& q, const int64_t* true_ids) {
  std::vector<A> scores(static_cast<size_t>(q.m));
  parallel_chunks(q.m, kTileQueries, [&](int64_t begin, int64_t end) {
    typename TileScorer<T>::Block block(scorer);
    Scratch<A> tile(kTrueRows * kTileCandidates);
    for (int64_t i0 = begin; i0 < end; i0 += kTrueRows) {
      const int64_t n = std::min(kTrueRows, end - i0);
      block.load(true_ids + i0, 0, n);
      block.scores(q.from(i0), n, tile.get());
      for (int64_t i = 0; i < n; ++i) scores[static_cast<size_t>(i0 + i)] = tile.get()[i * kTileCandidates + i];
    }
  });
  return scores;
}

struct Counts {
  int64_t *greater, *equal, *count;
};

// Queries [b0, b0 + q.m) of the call, which see the same candidates.
template <class T, class A = acc_t<T>>
void rank_group(const TileScorer<T>& scorer, const TileQueries<A>& q, int64_t b0, const int64_t* true_ids,
                const LeftOut& left, const TileCandidates& candidates, const Counts& out) {
  const std::vector<A> wanted = true_scores(scorer, q, true_ids);
  const int64_t blocks = candidates.blocks(), each = (blocks + kTileRanges - 1) / kTileRanges;
  const int64_t ranges = each ? (blocks + each - 1) / each : 0, m = q.m;
  std::vector<int32_t> sides(static_cast<size_t>(ranges * m * 2), 0);  // above and below, range by range
  parallel_chunks(ranges, 1, [&](int64_t range, int64_t) {
    const int64_t first = range * each, last = std::min(first + each, blocks);
    std::vector<const int64_t*> next(static_cast<size_t>(m));
    for (int64_t i = 0; i < m; ++i) next[static_cast<size_t>(i)] = left.from(b0 + i, first * kTileCandidates);
    visit_tiles(scorer, q, candidates, first, last, [&](int64_t i, int64_t j0, int64_t n, const A* s) {
      const A t = wanted[static_cast<size_t>(i)];
      int32_t above, below;
      count_sides(s, n, t, above, below);
      const int64_t*& drop = next[static_cast<size_t>(i)];
      for (const int64_t* end = left.end(b0 + i); drop != end && *drop < j0 + n; ++drop) {
        above -= s[*drop - j0] > t;
        below -= s[*drop - j0] < t;
      }
      int32_t* side = sides.data() + (range * m + i) * 2;
      side[0] += above, side[1] += below;
    });
  });
  for (int64_t i = 0; i < m; ++i) {
    int64_t above = 0, below = 0;
    for (int64_t range = 0; range < ranges; ++range) {
      above += sides[static_cast<size_t>((range * m + i) * 2)];
      below += sides[static_cast<size_t>((range * m + i) * 2 + 1)];
    }
    const int64_t b = b0 + i, count = candidates.count - (left.end(b) - left.begin(b));
    const A t = wanted[static_cast<size_t>(i)];
    const bool lost = t != t;
    out.greater[b] = lost ? count : above;
    out.equal[b] = lost ? 0 : count - above - below;
    out.count[b] = count;
  }
}

std::tuple<Tensor, Tensor, Tensor> kg_rank_queries_cpu(const Tensor& q_in, const Tensor& entity_in,
                                                       const std::optional<Tensor>& projection_in,
                                                       const Tensor& relation_in, const Tensor& true_in,
                                                       const Tensor& start_in, const Tensor& stop_in,
                                                       const Tensor& ids_in, const std::optional<Tensor>& candidates_in,
                                                       int64_t kind, double gamma) {
  const TileArguments args(q_in, entity_in, projection_in, relation_in, start_in, stop_in, ids_in, candidates_in);
  const Tensor true_ids = torch::stable::contiguous(true_in);
  Tensor greater = empty({args.B}, ScalarType::Long), equal = empty({args.B}, ScalarType::Long),
         count = empty({args.B}, ScalarType::Long);
  const Counts out = {ptr<int64_t>(greater), ptr<int64_t>(equal), ptr<int64_t>(count)};
  const LeftOut left = args.left_out(ptr<int64_t>(true_ids));
  args.for_groups(kind, gamma, "kg_rank", [&](const auto& scorer, const auto& q, int64_t first) {
    rank_group(scorer, q, first, ptr<int64_t>(true_ids) + first, left, args.candidates, out);
  });
  return {greater, equal, count};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("kg_rank_queries", TORCH_BOX(&gnnaccel::kg_rank_queries_cpu)); }
