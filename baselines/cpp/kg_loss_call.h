// `kg_loss` over waves of rows: scores of a wave, losses of its rows, gradients of its queries and candidates. Tasks
// own what they write and follow from the shapes alone, so the number of threads changes no bit.
#pragma once

#include <functional>

#include "common.h"
#include "gather_rows.h"
#include "kg_loss.h"

namespace gnnaccel {

// Queries [row, row + rows) and the N candidates that they share, or where `id` says so rows n + id * D; dn is set.
template <class A>
struct LossChunk {
  int64_t row, rows;
  const A* n;
  A* dn;
  const int64_t* id = nullptr;
};

struct LossOptions {
  Compare kind;
  Loss loss;
  double gamma, margin, temperature;  // 0: equal weights
  bool grads;
};

// Candidates that are none of a row's own.
struct Excluded {
  const int64_t *indptr = nullptr, *position = nullptr;
};

template <class A>
class LossCall {
  static constexpr int64_t L = Wide<A>::L;
  static constexpr int64_t kScores = int64_t{6} << 20;                   // of a wave, with its packed rows
  static constexpr int64_t kMostRows = 256;                              // of a chunk in a wave
  static constexpr int64_t kCandidates = 64, kRows = 128, kSlice = 256;  // of a task

 public:
  // q [B, D]; scale [B] multiplies losses; id [B]: the row's number for `excluded`, or null. make(x, begin, end) makes
  // those queries, and the scores x [B] of their triples; finish(g_pos, begin, end) is called once their dq is there,
  // with the gradients of the scores of the triples [B].
  using Make = std::function<void(A* x, int64_t begin, int64_t end)>;
  using Finish = std::function<void(const A* g_pos, int64_t begin, int64_t end)>;
  LossCall(const LossOptions& o, int64_t B, int64_t N, int64_t D, const A* q, const A* scale, const Excluded& excluded,
           const int64_t* id, Make make, Finish finish)
      : o_(o),
        B_(B),
        N_(N),
        D_(D),
        q_(q),
        scale_(scale),
        excluded_(excluded),
        id_(id),
        make_(std::move(make)),
        finish_(std::move(finish)),
        x_pos_(B),
        g_pos_(B),
        loss_(B) {}

  // Sets dq [B, D] and the chunks' dn. Where threads can have whole chunks they do: what is made for one then stays in
  // a core's cache. Else they share the tasks of a wave.
  void run(const std::vector<LossChunk<A>>& chunks, A* dq) {
    dq_ = dq;
    std::vector<std::vector<Block>> blocks;
    int64_t largest = 0;
    for (const LossChunk<A>& chunk : chunks) {
      if (o_.grads && chunk.rows == 0) std::fill_n(chunk.dn, N_ * D_, A(0));
      blocks.push_back(blocks_of(chunk));
      for (const Block& block : blocks.back()) largest = std::max(largest, block.size);
    }
    const int64_t count = static_cast<int64_t>(chunks.size()), threads = torch::stable::get_num_threads();
    if (largest * threads <= kScores && (count % threads == 0 || count >= 4 * threads)) {
      parallel_chunks(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c)
          for (const Block& block : blocks[static_cast<size_t>(c)]) run_wave({block});
      });
      return;
    }
    std::vector<Block> wave;
    int64_t scores = 0;
    for (const std::vector<Block>& of_chunk : blocks)
      for (const Block& block : of_chunk) {
        // a chunk's blocks add to the same gradients: in different waves
        if (!wave.empty() && (block.first > 0 || scores + block.size > kScores)) {
          run_wave(wave);
          wave.clear();
          scores = 0;
        }
        scores += block.size;
        wave.push_back(block);
      }
    if (!wave.empty()) run_wave(wave);
  }

  // The sum of the rows' losses.
  double total() const {
    double sum = 0;
    for (int64_t b = 0; b < B_; ++b) sum += loss_.get()[b];
    return sum;
  }

 private:
  static constexpr int64_t kPairs = 16;

  // Rows [first, first + rows) of a chunk: of one wave.
  struct Block {
    const LossChunk<A>* chunk;
    int64_t first, rows, size;
  };
  std::vector<Block> blocks_of(const LossChunk<A>& chunk) const {
    std::vector<Block> out;
    const int64_t most = std::clamp(kScores / std::max<int64_t>(N_, 1) / L * L, L, kMostRows);
    const int64_t blocks = (chunk.rows + most - 1) / most;
    const int64_t each = blocks == 0 ? 0 : round_up((chunk.rows + blocks - 1) / blocks, L);
    for (int64_t first = 0; first < chunk.rows; first += each) {
      const int64_t rows = std::min(each, chunk.rows - first);
      out.push_back({&chunk, first, rows,
                     columns_of(rows) * N_ + 2 * D_ * round_up(rows, tile_set<A>().nr) + (chunk.id ? N_ * D_ : 0)});
    }
    return out;
  }
  // an odd number of cache lines apart: else columns would fall into few sets
  static int64_t columns_of(int64_t rows) { return round_up(rows, L) + (round_up(rows, L) / L % 2 ? 0 : L); }

  // What is made for a block.
  struct Part {
    LossChunk<A> chunk;
    int64_t first, rows, width, ld;
    Scratch<A> left, right;  // queries in panels [D][.], candidates' side; and in panels [rows][.]
    Scratch<A> centre, q_norm, root_sums, gathered;
    Scratch<A> scores;
    A* x;  // scores, then gradients [N, ld]
    std::vector<std::vector<Near<A>>> near;
    Part(const Block& block, int64_t N, int64_t D, bool grads)
        : chunk(*block.chunk),
          first(block.first),
          rows(block.rows),
          width(round_up(rows, L)),
          ld(columns_of(rows)),
          left(round_up(rows, std::max(L, tile_set<A>().nr)) * D),
          right(grads ? rows * round_up(D, tile_set<A>().nr) : 0),
          centre(D),
          q_norm(width),
          root_sums(width),
          gathered(chunk.id ? N * D : 0),
          scores(ld * N),
          x(scores.get()),
          near(static_cast<size_t>((N + kCandidates - 1) / kCandidates)) {}
    int64_t row() const { return chunk.row + first; }
  };
  struct Task {
    int64_t part, a, b;
  };

  bool product() const { return o_.kind == Compare::kDot || o_.kind == Compare::kL2; }
  bool roots() const { return o_.kind == Compare::kL2; }
  int64_t panel() const { return product() ? tile_set<A>().nr : L; }
  const A* q_of(const Part& p) const { return q_ + p.row() * D_; }

  template <class F>
  void each(const std::vector<Task>& tasks, const F& f) const {
    parallel_chunks(static_cast<int64_t>(tasks.size()), 1, [&](int64_t i, int64_t) {
      const Task& task = tasks[static_cast<size_t>(i)];
      f(task);
    });
  }

  void run_wave(const std::vector<Block>& wave) {
    const int64_t parts = static_cast<int64_t>(wave.size()), blocks = (N_ + kCandidates - 1) / kCandidates;
    const bool right = o_.grads && product();
    std::vector<Part> made;
    for (const Block& block : wave) made.emplace_back(block, N_, D_, right);
    const auto at = [&](int64_t i) -> Part& { return made[static_cast<size_t>(i)]; };
    const auto tasks = [&](const auto& count) {
      std::vector<Task> out;
      for (int64_t i = 0; i < parts; ++i)
        for (int64_t j = 0; j < count(at(i)); ++j) out.push_back({i, j, 0});
      return out;
    };

    const auto row_tasks = [&](int64_t size) {
      return tasks([=](const Part& p) { return (p.rows + size - 1) / size; });
    };
    each(row_tasks(kPairs), [&](const Task& t) {
      const Part& p = at(t.part);
      make_(x_pos_.get(), p.row() + t.a * kPairs, p.row() + std::min((t.a + 1) * kPairs, p.rows));
    });
    each(tasks([&](const Part& p) { return p.chunk.id ? blocks : 0; }),
         [&](const Task& t) { gather(at(t.part), t.a); });
    for (Part& p : made)
      if (p.chunk.id) p.chunk.n = p.gathered.get();
    if (roots()) parallel_chunks(parts, 1, [&](int64_t i, int64_t) { find_centre(at(i)); });
    const int64_t columns = right ? panels_of(D_, tile_set<A>().nr) : 0;
    each(tasks([&](const Part& p) { return panels_of(p.width, panel()) + columns; }), [&](const Task& t) {
      Part& p = at(t.part);
      const int64_t panels = panels_of(p.width, panel());
      t.a < panels ? pack_left(p, t.a) : pack_right(p, t.a - panels);
    });
    each(tasks([&](const Part&) { return blocks; }), [&](const Task& t) { score(at(t.part), t.a); });
    each(tasks([&](const Part& p) { return p.width / L; }), [&](const Task& t) { losses(at(t.part), t.a * L); });
    if (!o_.grads) return;
    if (product()) {
      bool any = false;
      for (const Part& p : made)
        for (const auto& pairs : p.near) any |= !pairs.empty();
      if (any) each(tasks([&](const Part&) { return blocks; }), [&](const Task& t) { take_near(at(t.part), t.a); });
      std::vector<Task> all;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t rows = query_rows(at(i), parts);
        for (int64_t r = 0; r < at(i).rows; r += rows)
          for (int64_t p = 0; p < columns; ++p) all.push_back({i, r, p});
      }
      each(all, [&](const Task& t) {
        Part& p = at(t.part);
        query_gradients(p, t.a, std::min(query_rows(p, parts), p.rows - t.a), t.b);
      });
      each(tasks([&](const Part&) { return blocks; }), [&](const Task& t) { candidate_gradients(at(t.part), t.a); });
    } else {
      const std::vector<A> zeros(static_cast<size_t>(kMostRows), A(0));
      each(tasks([&](const Part&) { return slices_of<A>(o_.kind, D_); }),
           [&](const Task& t) { slice_of_gradients(at(t.part), t.a, zeros.data()); });
    }
    each(row_tasks(kPairs), [&](const Task& t) {
      const Part& p = at(t.part);
      finish_(g_pos_.get(), p.row() + t.a * kPairs, p.row() + std::min((t.a + 1) * kPairs, p.rows));
    });
  }

  // Candidates of a block from where they lie.
  void gather(Part& p, int64_t block) const {
    const int64_t end = std::min((block + 1) * kCandidates, N_);
    const auto from = [&](int64_t j) { return p.chunk.n + p.chunk.id[j] * D_; };
    for (int64_t j = block * kCandidates; j < end; ++j) {
      if (j + kRowsAhead < end) prefetch_row(from(j + kRowsAhead));
      std::copy_n(from(j), D_, p.gathered.get() + j * D_);
    }
  }

  // Any centre is right; a mean makes small norms.
  void find_centre(Part& p) const {
    constexpr int64_t kMost = 256;
    const int64_t n = std::min(N_, kMost);
    std::fill_n(p.centre.get(), D_, A(0));
    for (int64_t j = 0; j < n; ++j) add_scaled(A(1) / static_cast<A>(n), p.chunk.n + j * D_, D_, p.centre.get());
  }

  // Queries as columns.
  void pack_left(Part& p, int64_t i) const {
    const int64_t nr = panel(), first = i * nr, rows = std::max<int64_t>(0, std::min(nr, p.rows - first));
    const A* from = q_of(p) + first * D_;
    Scratch<A> centred(roots() ? rows * D_ : 0);
    if (roots()) {
      A* norm = p.q_norm.get();
      for (int64_t j = 0; j < rows; ++j)
        norm[first + j] = less_centre(from + j * D_, p.centre.get(), D_, centred.get() + j * D_);
      std::fill(norm + std::min(first + rows, p.width), norm + std::min(first + nr, p.width), A(0));
      from = centred.get();
    }
    pack_panel_transposed(from, D_, D_, rows, 0, nr, p.left.get() + i * nr * D_);
  }

  // A panel of columns of `rows` rows.
  void pack_columns(const Part& p, const A* from, int64_t rows, int64_t column, A* to) const {
    const int64_t nr = tile_set<A>().nr, n = std::min(nr, D_ - column * nr);
    pack_columns_of(from + column * nr, D_, rows, n, nr, roots() ? p.centre.get() + column * nr : nullptr, to);
  }
  void pack_right(Part& p, int64_t column) const {
    pack_columns(p, q_of(p), p.rows, column, p.right.get() + column * p.rows * tile_set<A>().nr);
  }

  // Scores of a block of candidates; for roots, distances.
  void score(Part& p, int64_t block) const {
    const int64_t n0 = block * kCandidates, rows = std::min(kCandidates, N_ - n0), nr = panel();
    const A* n = p.chunk.n + n0 * D_;
    A* x = p.x + n0 * p.ld;
    if (!product()) {
      for (int64_t i = 0; i < p.width; i += L)
        distances_of_panel(o_.kind, D_, n, rows, p.left.get() + i * D_, L, static_cast<A>(o_.gamma), x + i, p.ld);
      return;
    }
    const Packed<A> queries{p.left.get(), D_, p.width, nr * D_, nr};
    const int64_t panels = panels_of(p.width, nr);
    if (!roots()) return gemm_panels<A>(rows, left_rows(n, D_), queries, 0, panels, x, p.ld, {});
    Scratch<A> centred(rows * D_), norm(rows);
    for (int64_t j = 0; j < rows; ++j)
      norm.get()[j] = less_centre(n + j * D_, p.centre.get(), D_, centred.get() + j * D_);
    gemm_panels<A>(rows, left_rows(centred.get(), D_), queries, 0, panels, x, p.ld, {});
    if (!roots_of_tile(rows, p.width, p.ld, norm.get(), p.q_norm.get(), x)) return;
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t i = 0; i < p.rows; ++i) {
        A& d = x[j * p.ld + i];
        if (!(d < 0)) continue;
        const A distance = std::fabs(score_of_pair(Compare::kL2, q_of(p) + i * D_, n + j * D_, D_, A(0)));
        d = std::copysign(distance, A(-1));
        if (o_.grads) p.near[static_cast<size_t>(block)].push_back({i, n0 + j, distance});
      }
  }

  // Losses of L rows, and gradients in place of their scores.
  void losses(Part& p, int64_t first) {
    const A margin = static_cast<A>(o_.margin), infinity = std::numeric_limits<A>::infinity();
    const bool softmax = o_.loss == Loss::kSoftmax, bce = o_.loss == Loss::kBce;
    const bool hinge = o_.loss == Loss::kHinge || o_.loss == Loss::kPairwiseHinge;
    const bool pairwise = o_.loss == Loss::kPairwiseHinge || o_.loss == Loss::kPairwiseLogistic;
    const bool weighted = o_.temperature != 0, relative = weighted || softmax;
    const int64_t b0 = p.row() + first, n = std::min(L, p.rows - first);
    const double half = pairwise || softmax || bce ? 1 : 0.5;
    A* x = p.x + first;
    GroupRows<A> g{};
    int64_t count[L];
    for (int64_t l = 0; l < n; ++l) {
      count[l] = N_;
      if (excluded_.indptr) {
        const int64_t id = id_ ? id_[b0 + l] : b0 + l;
        for (int64_t i = excluded_.indptr[id]; i < excluded_.indptr[id + 1]; ++i) {
          A& score = x[excluded_.position[i] * p.ld + l];
          const A none = roots() ? infinity : -infinity;
          count[l] -= score != none;
          score = none;
        }
      }
      const A own = x_pos_.get()[b0 + l];
      g.shift[l] = bce ? A(0) : o_.loss == Loss::kPairwiseHinge ? margin - own : pairwise ? -own - margin : margin;
      g.top[l] = own;
      const int64_t shares = bce ? count[l] + 1 : relative ? 1 : count[l];
      g.factor[l] = shares == 0 ? A(0) : static_cast<A>(half * scale_[b0 + l] / static_cast<double>(shares));
    }
    const Term term = softmax ? Term::kExponential : hinge ? Term::kHinge : Term::kSoft;
    losses_of_group(term, weighted, roots(), N_, p.ld, static_cast<A>(o_.gamma), static_cast<A>(o_.temperature),
                    o_.grads, x, g);
    typename Wide<A>::V by{};
    for (int64_t l = 0; l < n; ++l) {
      const double own = x_pos_.get()[b0 + l], scale = scale_[b0 + l];
      if (softmax) {
        const double top = g.top[l], mine = std::exp(own - top), rest = g.mass[l];
        const double log_mass = own == top ? std::log1p(rest) : top - own + std::log(mine + rest);
        loss_.get()[b0 + l] = scale * log_mass;
        g_pos_.get()[b0 + l] = static_cast<A>(-scale * rest / (mine + rest));
        by[l] = static_cast<A>(scale / (mine + rest));
        continue;
      }
      double weight = g.factor[l];
      if (relative) weight = count[l] == 0 ? 0 : weight / g.mass[l];
      by[l] = static_cast<A>(weight);
      double loss = weight * g.terms[l];
      if (pairwise) {
        g_pos_.get()[b0 + l] = -g.slopes[l] * (relative ? by[l] : A(1));
      } else {
        const double m = bce ? 0 : o_.margin, part = scale * (bce ? 1 / static_cast<double>(count[l] + 1) : 0.5);
        const double y = hinge ? m - own : -(own + m), e = std::exp(-std::fabs(y));
        loss += part * (hinge ? (y < 0 ? 0 : y) : (y > 0 ? y : 0) + std::log1p(e));
        g_pos_.get()[b0 + l] = static_cast<A>(-part * (hinge ? y > 0 : (y > 0 ? 1 : e) / (1 + e)));
      }
      loss_.get()[b0 + l] = loss;
    }
    if (!o_.grads) return;
    if (relative) scale_group(N_, p.ld, by, x);
    for (int64_t l = 0; l < n; ++l) p.root_sums.get()[first + l] = g.roots[l] * (relative ? by[l] : A(1));
  }

  // Near pairs are left out of the products: large weights would cancel there.
  void take_near(Part& p, int64_t block) const {
    for (Near<A>& pair : p.near[static_cast<size_t>(block)]) {
      A& g = p.x[pair.j * p.ld + pair.i];
      pair.distance = pair.distance == 0 ? A(0) : g / pair.distance;
      g = A(0);
    }
  }

  // Of a task; few parts are cut, that there be tasks enough.
  static int64_t query_rows(const Part& p, int64_t parts) {
    return parts >= 4 ? p.rows : std::min(kRows, round_up((p.rows + 1) / 2, std::max(L, tile_set<A>().mr)));
  }

  // A panel of columns of dq, rows [first, first + rows) of the part.
  void query_gradients(Part& p, int64_t first, int64_t rows, int64_t column) const {
    const int64_t nr = tile_set<A>().nr, mr = tile_set<A>().mr, k0 = column * nr, n = std::min(nr, D_ - k0);
    A* out = dq_ + (p.row() + first) * D_ + k0;
    if (N_ == 0)
      for (int64_t i = 0; i < rows; ++i) std::fill_n(out + i * D_, n, A(0));
    Scratch<A> packed(kDepth * nr);
    for (int64_t n0 = 0; n0 < N_; n0 += kDepth) {
      const int64_t depth = std::min(kDepth, N_ - n0);
      pack_columns(p, p.chunk.n + n0 * D_, depth, column, packed.get());
      gemm_panels<A>(rows, Left<A>{p.x + n0 * p.ld + first, 1, p.ld, mr}, Packed<A>{packed.get(), depth, n, 0, nr}, 0,
                     1, out, D_, {n0 > 0 ? out : nullptr, D_, false});
    }
    if (!roots()) return;
    for (int64_t i = 0; i < rows; ++i)
      take_scaled(p.root_sums.get()[first + i], q_of(p) + (first + i) * D_ + k0, p.centre.get() + k0, n, out + i * D_);
    for (const auto& pairs : p.near)
      for (const Near<A>& pair : pairs) {
        if (pair.i < first || pair.i >= first + rows) continue;
        const A *q = q_of(p) + pair.i * D_ + k0, *to = p.chunk.n + pair.j * D_ + k0;
        for (int64_t k = 0; k < n; ++k) out[(pair.i - first) * D_ + k] -= pair.distance * (q[k] - to[k]);
      }
  }

  // dn of a block of candidates.
  void candidate_gradients(Part& p, int64_t block) const {
    const int64_t nr = tile_set<A>().nr, n0 = block * kCandidates, rows = std::min(kCandidates, N_ - n0);
    A* out = p.chunk.dn + n0 * D_;
    const A *x = p.x + n0 * p.ld, *n = p.chunk.n + n0 * D_;
    gemm_panels<A>(rows, left_rows(x, p.ld), Packed<A>{p.right.get(), p.rows, D_, p.rows * nr, nr}, 0,
                   panels_of(D_, nr), out, D_, {p.first > 0 ? out : nullptr, D_, false});
    if (!roots()) return;
    for (int64_t j = 0; j < rows; ++j)
      take_scaled(sum_of(x + j * p.ld, p.rows), n + j * D_, p.centre.get(), D_, out + j * D_);
    for (const Near<A>& pair : p.near[static_cast<size_t>(block)]) {
      const A *q = q_of(p) + pair.i * D_, *to = p.chunk.n + pair.j * D_;
      A* d = p.chunk.dn + pair.j * D_;
      for (int64_t k = 0; k < D_; ++k) d[k] += pair.distance * (q[k] - to[k]);
    }
  }

  // A slice of the columns of dq and dn, of distances that are sums.
  void slice_of_gradients(Part& p, int64_t slice, const A* zeros) const {
    constexpr int64_t width = 2 * L;
    const int64_t parts = o_.kind == Compare::kModulus ? 2 : 1, one = width / parts, columns = D_ / parts;
    const int64_t k0 = slice * one, count = std::min(one, columns - k0);
    const auto move = [&](int64_t rows, auto* whole, A* part, const auto& f) {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t h = 0; h < parts; ++h) f(whole + i * D_ + h * columns + k0, part + i * width + h * one);
    };
    const auto in = [&](const A* from, A* to) { std::copy_n(from, count, to); };
    const auto out = [&](A* to, const A* from) { std::copy_n(from, count, to); };
    const int64_t most = std::min(kSlice, round_up(N_, kCompareRows));
    Scratch<A> memory(2 * (p.rows + most) * width);
    A *q = memory.get(), *dq = q + p.rows * width, *n = dq + p.rows * width, *dn = n + most * width;
    std::fill_n(q, 2 * (p.rows + most) * width, A(0));
    move(p.rows, q_of(p), q, in);
    for (int64_t n0 = 0; n0 < N_; n0 += kSlice) {
      const int64_t rows = std::min(kSlice, N_ - n0);
      move(rows, p.chunk.n + n0 * D_, n, in);
      if (p.first > 0)
        move(rows, p.chunk.dn + n0 * D_, dn, in);
      else
        std::fill_n(dn, most * width, A(0));
      // the same formula both ways: the candidates take the place of the queries
      gradients_of_slice(o_.kind, rows, p.rows, p.x + n0 * p.ld, p.ld, zeros, n, q, dn, dq);
      move(rows, p.chunk.dn + n0 * D_, dn, out);
    }
    move(p.rows, dq_ + p.row() * D_, dq, out);
  }

  LossOptions o_;
  int64_t B_, N_, D_;
  const A *q_, *scale_;
  Excluded excluded_;
  const int64_t* id_;
  Make make_;
  Finish finish_;
  Scratch<A> x_pos_, g_pos_;
  Scratch<double> loss_;
  A* dq_ = nullptr;
};

}  // namespace gnnaccel
