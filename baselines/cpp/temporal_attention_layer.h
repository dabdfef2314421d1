// The temporal attention layer, a block of roots at a time and all of it in one core's cache: rows of the roots ->
// queries in the space of neighbour rows -> softmax -> mean neighbour -> value -> output -> dropout, ReLU, norm; and
// the same backwards. Without an output projection there is no norm either, and the attended values are the output.
//
// What depends on a root's row alone (its query, and its own term of the output) is made once for all roots of that
// row: roots are sorted by row. Products with a bias see one more column that is 1: then u . x contains q . bk, and the
// sum of the weights is the last column of z, which meets bv.
#pragma once

#include <functional>
#include <numeric>
#include <vector>

#include "gemm.h"
#include "relu_norm.h"
#include "temporal_attention_io.h"

namespace gnnaccel {

constexpr int64_t kRoots = 64;  // most roots of a block

// Roots in the order of their blocks: by row, stable, where they have rows of a table in common (one whose roots
// straddle blocks counts in each of them); else those with neighbours first, in blocks whose number two or four threads
// can share.
struct RootOrder {
  int64_t size = kRoots;           // of a block
  std::vector<int64_t> root, row;  // [R]
  std::vector<int64_t> first;      // [blocks + 1]: rows of all blocks before
  int64_t attending;               // blocks from here on have no neighbours at all

  RootOrder(const int64_t* rows, int64_t R, int64_t num_rows) : root(static_cast<size_t>(R)), row(rows, rows + R) {
    std::vector<int64_t> place(static_cast<size_t>(num_rows) + 1);
    for (int64_t r : row) ++place[static_cast<size_t>(r) + 1];
    std::partial_sum(place.begin(), place.end(), place.begin());
    for (int64_t r = 0; r < R; ++r) root[static_cast<size_t>(place[static_cast<size_t>(rows[r])]++)] = r;
    for (size_t i = 0; i < root.size(); ++i) row[i] = rows[root[i]];
    set_blocks();
    attending = blocks();
  }
  RootOrder(const int32_t* count, int64_t R) : root(static_cast<size_t>(R)) {
    std::iota(root.begin(), root.end(), int64_t{0});
    const auto bare = std::stable_partition(root.begin(), root.end(), [&](int64_t r) { return count[r] > 0; });
    row = root;
    const int64_t n = bare - root.begin(), fours = (n + 4 * kRoots - 1) / (4 * kRoots);
    if (n > kRoots) size = (n + 4 * fours - 1) / (4 * fours);
    set_blocks();
    attending = (n + size - 1) / size;
  }
  int64_t begin(int64_t block) const { return block * size; }
  int64_t roots(int64_t block) const { return std::min(size, R() - begin(block)); }
  int64_t R() const { return static_cast<int64_t>(root.size()); }
  int64_t blocks() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t rows() const { return first.back(); }
  bool new_row(int64_t i) const {
    return i % size == 0 || row[static_cast<size_t>(i)] != row[static_cast<size_t>(i) - 1];
  }

 private:
  void set_blocks() {
    first.push_back(0);
    for (int64_t b = 0; b * size < R(); ++b) {
      int64_t distinct = 0;
      for (int64_t i = b * size; i < std::min(R(), (b + 1) * size); ++i) distinct += new_row(i);
      first.push_back(first.back() + distinct);
    }
  }
};

template <class A>
struct LayerParameters {
  const A *own, *own_bias;     // [2 D, Dq], [2 D]: the query of a root's row, then its own term of the output
  const A *wk, *bk, *wv, *bv;  // [D, F - 1], [D]
  const A* wo = nullptr;       // [D, ld_wo], of the attended values; null: they are added as they are, without norm
  int64_t ld_wo = 0;
  const A *norm_weight = nullptr, *norm_bias = nullptr;  // padded
};

// Products [n, F] W_h^T of each head with d columns, W with its bias: panels, and the few columns that would leave a
// panel all but empty as dot products.
template <class A>
struct HeadOutputs {
  static constexpr int64_t kFew = 4;
  std::vector<Panels<A>> panels;
  int64_t rest, width;  // columns of the dot products; their padded length
  Scratch<A> rows;      // [H, rest, width]

  HeadOutputs(int64_t H, int64_t d, int64_t F, const A* W, const A* bias)
      : rest(d % tile_set<A>().nr <= kFew ? d % tile_set<A>().nr : 0),
        width(round_up(F, kLanes<A>)),
        rows(H * rest * width) {
    panels.reserve(static_cast<size_t>(H));
    for (int64_t h = 0; h < H; ++h) panels.emplace_back(F, d - rest);
    for (int64_t i = 0; i < H * rest; ++i) {
      const int64_t row = i / rest * d + d - rest + i % rest;
      A* to = rows.get() + i * width;
      std::copy_n(W + row * (F - 1), F - 1, to);
      to[F - 1] = bias[row];
      std::fill(to + F, to + width, A{0});
    }
  }
};

// The layer's weights in panels, for the products of one pass.
template <class A>
struct LayerWeights {
  int64_t H, d, D, Dq, F;  // F: columns of a neighbour's row with its 1
  LayerParameters<A> of;
  Panels<A> from_row, to_row;         // [h | 1] -> [q | own term], and back
  Panels<A> output, output_back;      // of the attended values
  std::vector<Panels<A>> key, value;  // per head: into the space of neighbours
  HeadOutputs<A> back;                // out of it: of values, or in the backward pass of keys

  LayerWeights(int64_t heads, int64_t D_, int64_t Dq_, int64_t columns, const LayerParameters<A>& parameters,
               bool backward)
      : H(heads),
        d(D_ / heads),
        D(D_),
        Dq(Dq_),
        F(columns),
        of(parameters),
        from_row(Dq + 1, 2 * D),
        to_row(backward ? 2 * D : 0, Dq),
        output(projects() && !backward ? D : 0, D),
        output_back(projects() && backward ? D : 0, D),
        back(H, d, F, backward ? of.wk : of.wv, backward ? of.bk : of.bv) {
    std::vector<std::function<void()>> jobs;
    const auto each = [&](Panels<A>& panels, auto pack) {
      for (int64_t p = 0; p < panels.count(); ++p) jobs.push_back([&panels, pack, p] { pack(panels, p); });
    };
    each(from_row, [this](Panels<A>& to, int64_t p) { pack_out(to, of.own, Dq, of.own_bias, p); });
    key.reserve(static_cast<size_t>(H)), value.reserve(static_cast<size_t>(H));
    for (int64_t h = 0; h < H; ++h) {
      const int64_t row = h * d, ld = F - 1;
      const auto into = [&](std::vector<Panels<A>>& list, const A* W, const A* bias) {
        each(list.emplace_back(d, F),
             [W = W + row * ld, bias = bias + row](Panels<A>& to, int64_t p) { pack_into(to, W, bias, p); });
      };
      into(key, of.wk, of.bk);
      if (backward) into(value, of.wv, of.bv);
      each(back.panels[static_cast<size_t>(h)],
           [W = (backward ? of.wk : of.wv) + row * ld, bias = (backward ? of.bk : of.bv) + row, ld](
               Panels<A>& to, int64_t p) { pack_out(to, W, ld, bias, p); });
    }
    if (backward) each(to_row, [this](Panels<A>& to, int64_t p) { to.pack(of.own, Dq, p); });
    if (projects() && backward)
      each(output_back, [this](Panels<A>& to, int64_t p) { to.pack(of.wo, of.ld_wo, p); });
    else if (projects())
      each(output, [this](Panels<A>& to, int64_t p) { to.pack_transposed(of.wo, of.ld_wo, p); });
    parallel_chunks(static_cast<int64_t>(jobs.size()), 1, [&](int64_t i, int64_t) { jobs[static_cast<size_t>(i)](); });
  }
  bool projects() const { return of.wo != nullptr; }

 private:
  // [W | b], W [K, N - 1]
  static void pack_into(Panels<A>& to, const A* W, const A* bias, int64_t p) {
    const int64_t nr = to.nr(), last = to.N() - 1;
    pack_panel(W, last, to.K(), last, p, nr, to.panel(p));
    if (last / nr == p)
      for (int64_t k = 0; k < to.K(); ++k) to.panel(p)[k * nr + last % nr] = bias[k];
  }
  // its transpose, W [N, K - 1]
  static void pack_out(Panels<A>& to, const A* W, int64_t ldw, const A* bias, int64_t p) {
    const int64_t nr = to.nr(), last = to.K() - 1, n = std::min(nr, to.N() - p * nr);
    pack_panel_transposed(W, ldw, last, to.N(), p, nr, to.panel(p));
    A* row = to.panel(p) + last * nr;
    std::copy_n(bias + p * nr, n, row);
    std::fill(row + n, row + nr, A{0});
  }
};

// One thread's working memory for a block of at most `roots`.
template <class A>
struct LayerWork {
  int64_t ld;          // between roots in [roots, H, width]: an odd number of cache lines, products read its columns
  int64_t ld_h, ld_D;  // of [h | 1] and of rows of D, in whole vectors
  AttentionScratch<A> scratch;
  NormScratch<A> norm;
  std::vector<int64_t> place;  // a root's row among those of the block
  std::vector<uint32_t> words;
  A *h, *q, *u, *z;             // [rows, Dq | 1], [rows, 2 D], [rows, H, width], [roots, H, width]
  A *du, *dq, *g, *out, *held;  // [rows, H, width], [rows, 2 D], [roots, D], [roots, D], [roots, D padded]

  LayerWork(const AttentionShape<A>& a, const LayerWeights<A>& w, int64_t roots)
      : ld((a.H * a.width / kLanes<A> | 1) * kLanes<A>),
        ld_h(round_up(w.Dq + 1, kLanes<A>)),
        ld_D(round_up(w.D, kLanes<A>)),
        scratch(a),
        norm(w.D),
        place(roots),
        words(static_cast<size_t>(roots * a.dropout.stride)),
        memory_(roots * (3 * ld + ld_h + 4 * w.D + 2 * round_up(w.D, kLanes<A>) + ld_D)) {
    A* next = memory_.get();
    const auto take = [&next, roots](int64_t row) { return (next += roots * row) - roots * row; };
    u = take(ld), z = take(ld), du = take(ld), h = take(ld_h), held = take(ld_D);
    q = take(2 * w.D), dq = take(2 * w.D), g = take(w.D), out = take(w.D);
    // padding takes part in products that nobody keeps
    std::fill_n(memory_.get(), roots * (3 * ld + ld_h + ld_D), A{0});
    for (int64_t i = 0; i < roots; ++i) h[i * ld_h + w.Dq] = A{1};
    // every neighbour's row ends in a 1
    for (int64_t k = 0; k < a.K; ++k) scratch.x[k * a.width + a.F - 1] = 1;
  }

 private:
  Scratch<A> memory_;
};

// Products over whole vectors of columns: panels are padded with zeros, and so are the results.
template <class A>
Packed<A> padded_panels(Panels<A>& panels) {
  Packed<A> view = panels.view();
  view.N = round_up(panels.N(), kLanes<A>);
  return view;
}

// to [n, H, width] = from [n, heads] panels of each head
template <class A>
void product_by_head(std::vector<Panels<A>>& panels, int64_t n, const A* from, int64_t from_ld, int64_t d, A* to,
                     int64_t to_ld, int64_t width) {
  for (size_t h = 0; h < panels.size(); ++h) {
    const auto head = static_cast<int64_t>(h);
    gemm_panels<A>(n, left_rows(from + head * d, from_ld), padded_panels(panels[h]), 0, panels[h].count(),
                   to + head * width, to_ld, {});
  }
}

// to [n, heads] = from [n, H, width] out of the space of neighbours, n <= kRoots
template <class A>
void product_by_head(HeadOutputs<A>& w, int64_t n, const A* from, int64_t from_ld, A* to, int64_t to_ld) {
  const auto H = static_cast<int64_t>(w.panels.size());
  for (int64_t h = 0; h < H; ++h) {
    Panels<A>& panels = w.panels[static_cast<size_t>(h)];
    const int64_t d = panels.N() + w.rest;
    gemm_panels<A>(n, left_rows(from + h * w.width, from_ld), panels.view(), 0, panels.count(), to + h * d, to_ld, {});
    A dots[HeadOutputs<A>::kFew * kRoots];
    dot_products(from + h * w.width, from_ld, w.rows.get() + h * w.rest * w.width, dots, kRoots, n, w.rest, w.width);
    for (int64_t j = 0; j < w.rest; ++j)
      for (int64_t i = 0; i < n; ++i) to[i * to_ld + h * d + panels.N() + j] = dots[j * kRoots + i];
  }
}

template <class A>
void product(Panels<A>& panels, int64_t n, const A* from, int64_t ld, A* to, int64_t to_ld, bool add_to = false,
             int64_t columns = -1, int64_t first = 0) {
  Packed<A> b = panels.view();
  if (columns >= 0) b.N = columns;
  gemm_panels<A>(n, left_rows(from, ld), b, first / panels.nr(), panels_of(b.N, panels.nr()), to, to_ld,
                 {add_to ? to : nullptr, add_to ? to_ld : 0});
}

// sum [M, N padded] += left^T right for `depth` rows of both, where they lie
template <class A>
void add_products(int64_t depth, const A* left, int64_t left_ld, int64_t M, const A* right, int64_t right_ld, int64_t N,
                  A* sum, bool fresh) {
  const int64_t mr = tile_set<A>().mr, nr = tile_set<A>().nr, columns = round_up(N, kLanes<A>);
  gemm_panels<A>(M, {left, 1, left_ld, mr}, {right, depth, columns, nr, right_ld}, 0, panels_of(columns, nr), sum,
                 columns, {nullptr, 0, true, fresh});
}

// What the forward pass leaves for the backward one, all by place in the order of the roots.
template <class A>
struct LayerSaved {
  A* logit;                         // [R, H, K]
  A *attended, *out, *mean, *rstd;  // [R, D], [R, D] before dropout, [R], [R]; null without a projection
};

// Gradients that are summed over blocks: rows of the weights with padded columns, and whole vectors.
template <class A>
struct LayerSums {
  A *key, *value, *own;
  A *output, *norm_weight, *norm_bias;  // nothing without a projection
};

// The gradient of `columns` columns of a neighbour's row, by table row: dx = sum_h p_h dz_h + e_h u_h. Kept in slices
// of one vector, each of which one thread adds up: [slices, R, H, lanes] of dz, [slices, rows, H, lanes] of u.
template <class A>
struct TableSource {
  bool edges;  // of the edge table
  int64_t column, columns;
  A *dz, *u;
  int64_t* row;  // [R, K] of the table

  int64_t slices() const { return (columns + kLanes<A> - 1) / kLanes<A>; }

  // Slices of [n, H, width], which are number `first` on of `total`.
  void keep(const AttentionShape<A>& a, const A* from, int64_t ld, int64_t first, int64_t n, int64_t total,
            A* to) const {
    for (int64_t s = 0; s < slices(); ++s) {
      // the last slice may read on into what follows in LayerWork: lanes that nobody keeps
      const A* columns_of = from + column + s * kLanes<A>;
      A* slice = to + (s * total + first) * a.H * kLanes<A>;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t h = 0; h < a.H; ++h, slice += kLanes<A>)
          std::memcpy(slice, columns_of + i * ld + h * a.width, kLanes<A> * sizeof(A));
    }
  }
};

// What the backward pass takes and leaves, besides sums.
template <class A>
struct LayerGradients {
  const void* grad;  // of the result, [R, D]
  Load<A> load;
  A* by_row;                           // of h, [rows of all blocks, Dq padded]
  A* coefficients;                     // p and e, [R, 2 H, slots]
  std::vector<TableSource<A>> tables;  // node and edge table, as asked
};

template <class A>
struct Layer {
  const Problem<A>& in;
  const RootOrder& order;
  RowSource<A> root;
  LayerWeights<A>& w;
  NormDropout dropout;
  double eps;
  LayerSaved<A> saved;

  // h, and q with columns [first, columns), of a block. Returns its rows.
  int64_t own_rows(int64_t block, int64_t columns, LayerWork<A>& m, int64_t first = 0) const {
    int64_t rows = 0;
    const int64_t begin = order.begin(block), n = order.roots(block);
    for (int64_t i = 0; i < n; ++i) {
      if (order.new_row(begin + i)) root.get_row(order.row[static_cast<size_t>(begin + i)], m.h + rows++ * m.ld_h);
      m.place[static_cast<size_t>(i)] = rows - 1;
    }
    product(w.from_row, rows, m.h, m.ld_h, m.q, 2 * w.D, false, columns, first);
    return rows;
  }

  // And u, and the words of dropout.
  int64_t queries(int64_t block, int64_t columns, LayerWork<A>& m) const {
    const int64_t rows = own_rows(block, columns, m), begin = order.begin(block);
    product_by_head(w.key, rows, m.q, 2 * w.D, w.d, m.u, m.ld, in.shape.width);
    in.shape.dropout.words(order.root.data() + begin, order.roots(block), m.words.data());
    return rows;
  }

  void gather(int64_t place, int64_t n, LayerWork<A>& m) const {
    const int64_t next = place + 1 < order.R() ? order.root[static_cast<size_t>(place) + 1] : -1;
    in.gather(m.scratch, order.root[static_cast<size_t>(place)], n, next);
  }

  // store(root, values [D]) takes the result.
  template <class Put>
  void forward(int64_t block, LayerWork<A>& m, const Put& store) const {
    const AttentionShape<A>& a = in.shape;
    const int64_t begin = order.begin(block), n_roots = order.roots(block), D = w.D;
    if (block >= order.attending) {
      own_rows(block, 2 * D, m, D);
      std::fill_n(saved.logit + begin * a.H * a.K, n_roots * a.H * a.K, A{0});
      for (int64_t i = 0; i < n_roots; ++i) store(order.root[static_cast<size_t>(begin + i)], m.q + i * 2 * D + D);
      return;
    }
    queries(block, 2 * D, m);
    A *attended = w.projects() ? saved.attended + begin * D : m.g, *out = w.projects() ? saved.out + begin * D : m.out;
    for (int64_t i = 0; i < n_roots; ++i) {
      const int64_t place = m.place[static_cast<size_t>(i)];
      const int64_t n = in.nbrs.count[order.root[static_cast<size_t>(begin + i)]];
      m.scratch.q = m.u + place * m.ld, m.scratch.z = m.z + i * m.ld;
      if (n > 0) {
        gather(begin + i, n, m);
        attend_root(a, m.scratch, m.words.data() + i * a.dropout.stride, n);
      } else {
        std::fill_n(m.scratch.z, a.H * a.width, A{0});
      }
      for (int64_t h = 0; h < a.H; ++h) {
        A* to = saved.logit + ((begin + i) * a.H + h) * a.K;
        std::copy_n(m.scratch.logit + h * a.slots, n, to);
        std::fill_n(to + n, a.K - n, A{0});
      }
      std::copy_n(m.q + place * 2 * D + D, D, out + i * D);  // the root's own term
    }
    product_by_head(w.back, n_roots, m.z, m.ld, attended, D);
    if (!w.projects()) {
      for (int64_t i = 0; i < n_roots; ++i) {
        for (int64_t j = 0; j < D; ++j) out[i * D + j] += attended[i * D + j];
        store(order.root[static_cast<size_t>(begin + i)], out + i * D);
      }
      return;
    }
    product(w.output, n_roots, attended, D, out, D, true);
    for (int64_t i = 0; i < n_roots; i += kNormGroup) {
      const int64_t rows = std::min(kNormGroup, n_roots - i), place = begin + i;
      const int64_t* numbers = order.root.data() + place;
      copy_rows(out + i * D, rows, D, D, m.norm.h, m.norm.width);
      relu_norm_rows(w.of.norm_weight, w.of.norm_bias, dropout, numbers, rows, D, eps, m.norm, saved.mean + place,
                     saved.rstd + place);
      for (int64_t j = 0; j < rows; ++j) store(numbers[j], m.norm.n + j * m.norm.width);
    }
  }

  void backward(int64_t block, LayerWork<A>& m, const LayerGradients<A>& to, const LayerSums<A>& sums,
                bool fresh) const {
    const AttentionShape<A>& a = in.shape;
    const int64_t begin = order.begin(block), n_roots = order.roots(block), D = w.D;
    if (block >= order.attending) return backward_bare(block, m, to, sums, fresh);
    const int64_t first_row = order.first[static_cast<size_t>(block)], rows = queries(block, D, m);
    if (w.projects()) {
      norm_backward(begin, n_roots, m, to, sums);
      product(w.output_back, n_roots, m.out, D, m.g, D);
    } else {
      load_grad(begin, n_roots, to, m.out, D);
      std::copy_n(m.out, n_roots * D, m.g);
    }
    product_by_head(w.value, n_roots, m.g, D, w.d, m.z, m.ld, a.width);
    for (const TableSource<A>& table : to.tables) {
      table.keep(a, m.z, m.ld, begin, n_roots, order.R(), table.dz);
      table.keep(a, m.u, m.ld, first_row, rows, order.rows(), table.u);
    }
    attend_backward(begin, n_roots, m, to);

    // m.out is now the gradient of the output before dropout, m.z the forward pass's z, m.du the gradient of u
    for (int64_t i = 0; i < n_roots; ++i) {
      A* own = m.dq + m.place[static_cast<size_t>(i)] * 2 * D + D;
      if (order.new_row(begin + i)) std::fill_n(own, D, A{0});
      for (int64_t j = 0; j < D; ++j) own[j] += m.out[i * D + j];
      if (w.projects()) std::copy_n(saved.attended + (begin + i) * D, D, m.held + i * m.ld_D);
    }
    product_by_head(w.back, rows, m.du, m.ld, m.dq, 2 * D);
    own_backward(first_row, rows, m, to, sums, fresh);
    if (w.projects()) add_products(n_roots, m.out, D, D, m.held, m.ld_D, D, sums.output, fresh);
    for (int64_t h = 0; h < a.H; ++h) {
      const int64_t at = h * w.d * a.width;
      add_products(n_roots, m.g + h * w.d, D, w.d, m.z + h * a.width, m.ld, a.F, sums.value + at, fresh);
      add_products(rows, m.q + h * w.d, 2 * D, w.d, m.du + h * a.width, m.ld, a.F, sums.key + at, fresh);
    }
  }

 private:
  void load_grad(int64_t begin, int64_t n, const LayerGradients<A>& to, A* rows, int64_t ld) const {
    for (int64_t i = 0; i < n; ++i)
      to.load(to.grad, order.root[static_cast<size_t>(begin + i)] * w.D, w.D, rows + i * ld);
  }

  // From m.dq to h and to the weights that see h alone.
  void own_backward(int64_t first_row, int64_t rows, LayerWork<A>& m, const LayerGradients<A>& to,
                    const LayerSums<A>& sums, bool fresh) const {
    const int64_t ld = round_up(w.Dq, kLanes<A>);
    product(w.to_row, rows, m.dq, 2 * w.D, to.by_row + first_row * ld, ld);
    add_products(rows, m.dq, 2 * w.D, 2 * w.D, m.h, m.ld_h, w.Dq + 1, sums.own, fresh);
  }

  // A block without neighbours (and without a projection): only the roots' own terms. Often nobody looks at those.
  void backward_bare(int64_t block, LayerWork<A>& m, const LayerGradients<A>& to, const LayerSums<A>& sums,
                     bool fresh) const {
    const int64_t begin = order.begin(block), n_roots = order.roots(block), D = w.D;
    const auto clear = [](A* from, int64_t n) { std::fill_n(from, n, A{0}); };
    const int64_t own = round_up(w.Dq + 1, kLanes<A>), by_row = round_up(w.Dq, kLanes<A>);
    for (int64_t i = 0; i < n_roots; ++i) clear(m.dq + i * 2 * D, D);
    load_grad(begin, n_roots, to, m.dq + D, 2 * D);
    if (std::any_of(m.dq, m.dq + n_roots * 2 * D, [](A v) { return v != A{0}; })) {
      own_rows(block, 0, m);
      own_backward(begin, n_roots, m, to, sums, fresh);
    } else {
      clear(to.by_row + begin * by_row, n_roots * by_row);
      if (fresh) clear(sums.own, 2 * D * own);
    }
    if (fresh) clear(sums.key, D * in.shape.width), clear(sums.value, D * in.shape.width);
  }

  // Leaves the gradient of the output before dropout in m.out.
  void norm_backward(int64_t begin, int64_t n_roots, LayerWork<A>& m, const LayerGradients<A>& to,
                     const LayerSums<A>& sums) const {
    const int64_t D = w.D, W = m.norm.width;
    for (int64_t i = 0; i < n_roots; i += kNormGroup) {
      const int64_t rows = std::min(kNormGroup, n_roots - i), place = begin + i;
      const int64_t* numbers = order.root.data() + place;
      copy_rows(saved.out + place * D, rows, D, D, m.norm.h, W);
      load_grad(place, rows, to, m.norm.g, W);
      relu_norm_rows_backward(w.of.norm_weight, saved.mean + place, saved.rstd + place, dropout, numbers, rows, D,
                              m.norm, sums.norm_weight, sums.norm_bias);
      copy_rows(m.norm.g, rows, D, W, m.out + i * D, D);
    }
  }

  // dz in m.z becomes the forward pass's z; m.du the gradient of u.
  void attend_backward(int64_t begin, int64_t n_roots, LayerWork<A>& m, const LayerGradients<A>& to) const {
    const AttentionShape<A>& a = in.shape;
    AttentionScratch<A>& s = m.scratch;
    for (int64_t i = 0; i < n_roots; ++i) {
      const int64_t r = order.root[static_cast<size_t>(begin + i)], n = in.nbrs.count[r], p = begin + i;
      const int64_t place = m.place[static_cast<size_t>(i)];
      s.q = m.u + place * m.ld, s.z = m.du + place * m.ld;
      s.dz = s.value = m.z + i * m.ld;
      if (order.new_row(p)) s.add = false;
      if (n == 0) {
        std::fill_n(s.value, a.H * a.width, A{0});
        if (!s.add) std::fill_n(s.z, a.H * a.width, A{0});
        continue;
      }
      gather(p, n, m);
      for (int64_t h = 0; h < a.H; ++h) std::copy_n(saved.logit + (p * a.H + h) * a.K, n, s.logit + h * a.slots);
      attend_root_backward(a, s, m.words.data() + i * a.dropout.stride, n);
      s.add = true;
      if (to.tables.empty()) continue;
      const int64_t size = a.H * a.slots;
      for (int64_t k = 0; k < size; k += kLanes<A>) {
        at(to.coefficients + 2 * p * size + k) = at(s.p + k);
        at(to.coefficients + (2 * p + 1) * size + k) = at(s.e + k);
      }
      for (const TableSource<A>& table : to.tables)
        for (int64_t k = 0; k < n; ++k)
          table.row[p * a.K + k] = table.edges ? in.nbrs.edge_row(r, k) : in.nbrs.node_row(r, k);
    }
  }
};

// slice [., lanes] of a table's gradient += what n neighbours in these rows get
template <class A>
GNNACCEL_INLINE void add_slice(const int64_t* row, int64_t n, const A* dz, const A* u, const A* coefficients, int64_t H,
                               int64_t slots, A* slice) {
  for (int64_t k = 0; k < n; ++k) {
    // apart from what is there: neighbours are often the same node, and each would wait for the one before
    vec_t<A> values = {}, keys = {};
    for (int64_t h = 0; h < H; ++h) {
      values += coefficients[h * slots + k] * at(dz + h * kLanes<A>);
      keys += coefficients[(H + h) * slots + k] * at(u + h * kLanes<A>);
    }
    at(slice + row[k] * kLanes<A>) += values + keys;
  }
}

#define GNNACCEL_ADD_SLICE(A)                                                                           \
  GNNACCEL_CLONES inline void add_to_slice(const int64_t* row, int64_t n, const A* dz, const A* u,      \
                                           const A* coefficients, int64_t H, int64_t slots, A* slice) { \
    add_slice(row, n, dz, u, coefficients, H, slots, slice);                                            \
  }
GNNACCEL_ADD_SLICE(float)
GNNACCEL_ADD_SLICE(double)
#undef GNNACCEL_ADD_SLICE

}  // namespace gnnaccel
