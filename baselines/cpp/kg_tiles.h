// Scores of queries against the rows of a table, block by block, for ops that keep few of them. A score's bits depend
// on the two rows alone, wherever they are scored: equal rows are ties.
#pragma once

#include <optional>

#include "kg_compare.h"
#include "kg_values.h"

namespace gnnaccel {

constexpr int64_t kTileQueries = 256, kTileCandidates = 96;  // a tile; the latter a multiple of every panel's columns
constexpr int64_t kTileRanges = 64;                          // tasks that candidates are divided among, at most
constexpr int64_t kCentreRows = 1024;                        // of the table, whose mean is its centre

// Numbers above and below t. What cannot be compared is neither.
template <class A>
GNNACCEL_INLINE void count_sides_of(const A* s, int64_t n, A t, int32_t& above, int32_t& below) {
  int32_t a = 0, b = 0;
  for (int64_t j = 0; j < n; ++j) {
    a += s[j] > t;
    b += s[j] < t;
  }
  above = a, below = b;
}

// Products into scores gamma - |q - n|, or NaN where the rows are too near for that: their number.
template <class A>
GNNACCEL_INLINE int32_t distances_from_products(A q_norm, const A* n_norm, int64_t n, A gamma, A* s) {
  constexpr A kNear = A(1e-2);  // as block_distances
  int32_t near = 0;
  for (int64_t j = 0; j < n; ++j) {
    const A norms = q_norm + n_norm[j], square = norms - 2 * s[j];
    const bool far = square > kNear * norms;
    near += !far;
    s[j] = far ? gamma - std::sqrt(square) : std::numeric_limits<A>::quiet_NaN();
  }
  return near;
}

#define GNNACCEL_KG_TILES(A)                                                                            \
  GNNACCEL_CLONES inline void count_sides(const A* s, int64_t n, A t, int32_t& above, int32_t& below) { \
    count_sides_of<A>(s, n, t, above, below);                                                           \
  }                                                                                                     \
  GNNACCEL_CLONES inline int32_t far_distances(A q_norm, const A* n_norm, int64_t n, A gamma, A* s) {   \
    return distances_from_products<A>(q_norm, n_norm, n, gamma, s);                                     \
  }
GNNACCEL_KG_TILES(float)
GNNACCEL_KG_TILES(double)
#undef GNNACCEL_KG_TILES

// Queries [m, K]; for root distances also less the centre, with their squared norms.
template <class A>
struct TileQueries {
  int64_t m, K;
  const A *rows, *centred, *norms;
  TileQueries from(int64_t i) const {
    return {m - i, K, rows + i * K, centred ? centred + i * K : nullptr, norms ? norms + i : nullptr};
  }
};

// How the rows of a table [E, D] are compared with queries.
template <class T>
class TileScorer {
 public:
  using A = acc_t<T>;

  // `matrix` [D, K], or null: rows are compared as they are.
  TileScorer(Compare kind, double gamma, const T* table, int64_t E, int64_t D, const T* matrix, int64_t K)
      : kind_(kind), gamma_(static_cast<A>(gamma)), table_(table), D_(D), K_(K) {
    if (matrix) {
      matrix_.emplace(D, K);
      parallel_chunks(matrix_->count(), 1, [&](int64_t p, int64_t) { matrix_->pack(matrix, K, p); });
      through_ = matrix_->view();
    }
    if (kind == Compare::kL2) {
      const int64_t rows = std::min(E, kCentreRows);
      centre_.assign(static_cast<size_t>(K), A(0));
      for (int64_t j = 0; j < rows; ++j)
        for (int64_t k = 0; k < K; ++k) centre_[static_cast<size_t>(k)] += static_cast<A>(table[j * D + k]);
      for (A& x : centre_) x /= static_cast<A>(std::max<int64_t>(rows, 1));
    }
  }

  bool centred() const { return kind_ == Compare::kL2; }
  int64_t K() const { return K_; }

  // Rows less the centre, and their squared norms.
  void centre(const A* rows, int64_t n, A* to, A* norms) const {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < K_; ++k) to[i * K_ + k] = rows[i * K_ + k] - centre_[static_cast<size_t>(k)];
      norms[i] = score_of_pair(Compare::kDot, to + i * K_, to + i * K_, K_, A(0));
    }
  }

  // Up to kTileCandidates rows, ready to be compared.
  class Block {
   public:
    explicit Block(const TileScorer& s)
        : s_(s),
          rows_(kTileCandidates * s.K_),
          before_((s.matrix_ || s.centred() ? kTileCandidates : 0) * std::max(s.D_, s.K_)),
          norms_(kTileCandidates),
          panels_(kTileCandidates * s.K_) {}

    // Rows ids[0..n), or first..first + n.
    void load(const int64_t* ids, int64_t first, int64_t n) {
      n_ = n;
      source_ = in_place(ids, first);
      if (!source_) {
        A* to = s_.matrix_ ? before_.get() : rows_.get();
        for (int64_t j = 0; j < n; ++j) {
          const T* from = s_.table_ + (ids ? ids[j] : first + j) * s_.D_;
          for (int64_t k = 0; k < s_.D_; ++k) to[j * s_.D_ + k] = static_cast<A>(from[k]);
        }
        if (s_.matrix_)
          gemm_panels<A>(n, left_rows<A>(to, s_.D_), s_.through_, 0, s_.matrix_->count(), rows_.get(), s_.K_, {});
        source_ = rows_.get();
      }
      const A* packed = source_;
      if (s_.centred()) s_.centre(packed, n, before_.get(), norms_.get()), packed = before_.get();
      const int64_t nr = s_.columns();
      for (int64_t p = 0; p < panels_of(n, nr); ++p) {
        A* to = panels_.get() + p * s_.K_ * nr;
        if (packed == rows_.get() || packed == before_.get())
          pack_panel_transposed(packed, s_.K_, s_.K_, n, p, nr, to);
        else
          pack_panel_transposed<true>(packed, s_.K_, s_.K_, n, p, nr, to);
      }
    }

    // out[i * kTileCandidates + j] for all m queries.
    void scores(const TileQueries<A>& q, int64_t m, A* out) const {
      const int64_t K = s_.K_, nr = s_.columns();
      if (!s_.products()) {
        for (int64_t p = 0; p < panels_of(n_, nr); ++p)
          distances_of_panel(s_.kind_, K, q.rows, m, panels_.get() + p * K * nr, std::min(nr, n_ - p * nr), s_.gamma_,
                             out + p * nr, kTileCandidates);
        return;
      }
      const Packed<A> panels{panels_.get(), K, n_, K * nr, nr};
      gemm_panels<A>(m, left_rows<A>(s_.centred() ? q.centred : q.rows, K), panels, 0, panels_of(n_, nr), out,
                     kTileCandidates, {});
      if (!s_.centred()) return;
      for (int64_t i = 0; i < m; ++i) {
        A* row = out + i * kTileCandidates;
        if (far_distances(q.norms[i], norms_.get(), n_, s_.gamma_, row) == 0) continue;
        for (int64_t j = 0; j < n_; ++j)
          if (row[j] != row[j]) row[j] = score_of_pair(s_.kind_, q.rows + i * K, source_ + j * K, K, s_.gamma_);
      }
    }

   private:
    // The rows as they lie in the table, where that is what is compared; else null.
    const A* in_place(const int64_t* ids, int64_t first) const {
      if constexpr (std::is_same_v<T, A>)
        if (!ids && !s_.matrix_) return s_.table_ + first * s_.D_;
      return nullptr;
    }

    const TileScorer& s_;
    Scratch<A> rows_, before_, norms_, panels_;
    const A* source_ = nullptr;  // what is compared: rows_, or rows of the table
    int64_t n_ = 0;
  };

 private:
  bool products() const { return kind_ == Compare::kDot || kind_ == Compare::kL2; }
  int64_t columns() const { return products() ? tile_set<A>().nr : Wide<A>::L; }

  Compare kind_;
  A gamma_;
  const T* table_;
  int64_t D_, K_;
  std::optional<Panels<A>> matrix_;
  Packed<A> through_{};
  std::vector<A> centre_;
};

// Candidates: entities ids[0..count), ascending and distinct, or all.
struct TileCandidates {
  const int64_t* ids;
  int64_t count;
  TileCandidates(const std::optional<Tensor>& some, int64_t E)
      : ids(some ? ptr<int64_t>(*some) : nullptr), count(some ? some->numel() : E) {
    static const int64_t nobody = 0;
    if (some && count == 0) ids = &nobody;  // an empty tensor has no address
  }
  int64_t blocks() const { return (count + kTileCandidates - 1) / kTileCandidates; }
  int64_t id(int64_t position) const { return ids ? ids[position] : position; }
};

// visit(i, j0, n, scores) for query i and candidates [j0, j0 + n), block by block; visit may write on the scores.
template <class T, class Visit>
void visit_tiles(const TileScorer<T>& scorer, const TileQueries<acc_t<T>>& q, const TileCandidates& candidates,
                 int64_t first_block, int64_t last_block, const Visit& visit) {
  using A = acc_t<T>;
  typename TileScorer<T>::Block block(scorer);
  Scratch<A> tile(kTileQueries * kTileCandidates);
  for (int64_t b = first_block; b < last_block; ++b) {
    const int64_t j0 = b * kTileCandidates, n = std::min(kTileCandidates, candidates.count - j0);
    block.load(candidates.ids ? candidates.ids + j0 : nullptr, j0, n);
    for (int64_t i0 = 0; i0 < q.m; i0 += kTileQueries) {
      const int64_t m = std::min(kTileQueries, q.m - i0);
      block.scores(q.from(i0), m, tile.get());
      for (int64_t i = 0; i < m; ++i) visit(i0 + i, j0, n, tile.get() + i * kTileCandidates);
    }
  }
}

// Queries that see the same candidates, one after the other: [first, last), and their matrix.
struct TileGroup {
  int64_t first, last, relation;
};

// Without a matrix all queries are one group.
inline std::vector<TileGroup> tile_groups(const int64_t* relation, int64_t B, bool matrix) {
  std::vector<TileGroup> groups;
  for (int64_t b = 0; b < B; ++b) {
    if (groups.empty() || (matrix && groups.back().relation != relation[b])) groups.push_back({b, b, relation[b]});
    groups.back().last = b + 1;
  }
  return groups;
}

// Positions among the candidates, ascending and distinct, that each query leaves out.
class LeftOut {
 public:
  // ids[start[b]..stop[b]), in any order, and own[b] if given.
  LeftOut(const int64_t* start, const int64_t* stop, const int64_t* ids, const int64_t* own, int64_t B,
          const TileCandidates& candidates)
      : parts_(static_cast<size_t>((B + kPart - 1) / kPart)), ends_(static_cast<size_t>(B)) {
    parallel_chunks(B, kPart, [&](int64_t first, int64_t last) {
      std::vector<int64_t>& part = parts_[static_cast<size_t>(first / kPart)];
      for (int64_t b = first; b < last; ++b) {
        const auto at = static_cast<std::ptrdiff_t>(part.size());
        part.insert(part.end(), ids + start[b], ids + stop[b]);
        if (own) part.insert(std::upper_bound(part.begin() + at, part.end(), own[b]), own[b]);
        if (!std::is_sorted(part.begin() + at, part.end())) std::sort(part.begin() + at, part.end());
        part.erase(std::unique(part.begin() + at, part.end()), part.end());
        if (candidates.ids) to_positions(part, at, candidates);
        ends_[static_cast<size_t>(b)] = static_cast<int64_t>(part.size());
      }
    });
  }
  const int64_t* begin(int64_t b) const { return b % kPart == 0 ? part(b).data() : end(b - 1); }
  const int64_t* end(int64_t b) const { return part(b).data() + ends_[static_cast<size_t>(b)]; }
  // The first that is not below `position`.
  const int64_t* from(int64_t b, int64_t position) const { return std::lower_bound(begin(b), end(b), position); }

 private:
  static constexpr int64_t kPart = 64;  // queries of a task

  const std::vector<int64_t>& part(int64_t b) const { return parts_[static_cast<size_t>(b / kPart)]; }

  static void to_positions(std::vector<int64_t>& list, std::ptrdiff_t at, const TileCandidates& candidates) {
    const int64_t *first = candidates.ids, *last = first + candidates.count;
    auto to = list.begin() + at;
    for (auto from = to; from != list.end(); ++from) {
      const int64_t* found = std::lower_bound(first, last, *from);
      if (found != last && *found == *from) *to++ = found - first;
    }
    list.erase(to, list.end());
  }

  std::vector<std::vector<int64_t>> parts_;
  std::vector<int64_t> ends_;  // of each query in its part
};

// The queries of a call, and what root distances need of them.
template <class T>
class TileRows {
 public:
  using A = acc_t<T>;
  TileRows(const TileScorer<T>& scorer, const A* q, int64_t m)
      : centred_(scorer.centred() ? m * scorer.K() : 0), norms_(scorer.centred() ? m : 0) {
    queries = {m, scorer.K(), q, nullptr, nullptr};
    if (!scorer.centred()) return;
    constexpr int64_t kRows = 64;
    parallel_chunks(m, kRows, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * scorer.K();
      scorer.centre(q + at, end - begin, centred_.get() + at, norms_.get() + begin);
    });
    queries.centred = centred_.get(), queries.norms = norms_.get();
  }
  TileQueries<A> queries;

 private:
  Scratch<A> centred_, norms_;
};

// What both ops are given, contiguous.
struct TileArguments {
  Tensor q, entity, relation, start, stop, ids;
  std::optional<Tensor> projection, some;
  int64_t B, K, E, D;
  TileCandidates candidates;

  TileArguments(const Tensor& q_in, const Tensor& entity_in, const std::optional<Tensor>& projection_in,
                const Tensor& relation_in, const Tensor& start_in, const Tensor& stop_in, const Tensor& ids_in,
                const std::optional<Tensor>& candidates_in)
      : q(dense(q_in)),
        entity(dense(entity_in)),
        relation(dense(relation_in)),
        start(dense(start_in)),
        stop(dense(stop_in)),
        ids(dense(ids_in)),
        projection(dense(projection_in)),
        some(dense(candidates_in)),
        B(q.size(0)),
        K(q.size(1)),
        E(entity.size(0)),
        D(entity.size(1)),
        candidates(some, E) {}

  LeftOut left_out(const int64_t* own) const {
    return LeftOut(ptr<int64_t>(start), ptr<int64_t>(stop), ptr<int64_t>(ids), own, B, candidates);
  }

  // f(scorer, queries, first) for the queries from `first` that see the same candidates.
  template <class F>
  void for_groups(int64_t kind, double gamma, const char* what, const F& f) const {
    dispatch_floating(entity.scalar_type(), what, [&](auto tag) {
      using T = decltype(tag);
      for (const TileGroup& group : tile_groups(ptr<int64_t>(relation), B, projection.has_value())) {
        const T* matrix = projection ? ptr<T>(*projection) + group.relation * D * K : nullptr;
        const TileScorer<T> scorer(static_cast<Compare>(kind), gamma, ptr<T>(entity), E, D, matrix, K);
        const TileRows<T> rows(scorer, ptr<acc_t<T>>(q) + group.first * K, group.last - group.first);
        f(scorer, rows.queries, group.first);
      }
    });
  }

 private:
  static Tensor dense(const Tensor& t) { return torch::stable::contiguous(t); }
  static std::optional<Tensor> dense(const std::optional<Tensor>& t) {
    return t ? std::optional<Tensor>(torch::stable::contiguous(*t)) : std::nullopt;
  }
};

}  // namespace gnnaccel
