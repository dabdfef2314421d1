// Losses of query rows against candidates, gradients of the scores, and how queries are made: what `kg_loss` does a
// row. Scores lie transposed, a candidate a row: lanes are queries, and every sum over candidates stays in its lane.
#pragma once

#include "kg_compare.h"

namespace gnnaccel {

enum class Loss : int64_t { kLogsigmoid, kHinge, kBce, kPairwiseHinge, kPairwiseLogistic, kSoftmax };

// y = exp(x) for x <= 0, about an ulp; 0 below the smallest normal number.
template <class A>
GNNACCEL_INLINE void exponential(const typename Wide<A>::V& x, typename Wide<A>::V& y) {
  using W = Wide<A>;
  using V = typename W::V;
  if constexpr (std::is_same_v<A, float>) {
    // 2^k exp(r): a large number rounds k to an integer and leaves it in its low bits
    constexpr float kRound = 12582912.f, kLeast = -87.f;
    const V shifted = x * 1.44269504f + kRound, k = shifted - kRound, r = (x - k * 0.693145752f) - k * 1.42860677e-6f;
    V p = r * 1.39517197e-3f + 8.36959854e-3f;
    p = p * r + 4.16661873e-2f;
    p = p * r + 1.66665122e-1f;
    p = (p * r + 0.5f) * (r * r) + r + 1.f;
    p = reinterpret_cast<V>(reinterpret_cast<typename W::I>(p) + (reinterpret_cast<typename W::I>(shifted) << 23));
    p = x < kLeast ? V{} : p;
    y = x == x ? p : x;
  } else {
    for (int64_t l = 0; l < W::L; ++l) y[l] = std::exp(x[l]);
  }
}

// more = log(1 + e) and less = 1 / (1 + e) for e in [0, 1], about an ulp.
template <class A>
GNNACCEL_INLINE void log_of_one_and(const typename Wide<A>::V& e, typename Wide<A>::V& more,
                                    typename Wide<A>::V& less) {
  using W = Wide<A>;
  if constexpr (std::is_same_v<A, float>) {
    // 2 atanh(e / (2 + e)); one division for both
    const typename W::V one = e + 1.f, two = e + 2.f, inverse = 1.f / (one * two), s = e * one * inverse, z = s * s;
    typename W::V p = z * 0.280312777f + 0.279978633f;
    p = p * z + 0.400217712f;
    p = p * z + 0.666664124f;
    more = (p * z) * s + 2.f * s;
    less = two * inverse;
  } else {
    for (int64_t l = 0; l < W::L; ++l) more[l] = std::log1p(e[l]);
    less = A(1) / (e + A(1));
  }
}

enum class Term { kSoft, kHinge, kExponential };

// What a group of L rows needs and gives, by lane.
template <class A>
struct GroupRows {
  using V = typename Wide<A>::V;
  V shift;   // added to scores
  V factor;  // multiplies the gradients; 0 for lanes that are no rows
  V top;     // kExponential: the score of the triple, then the largest of all
  // sums over the candidates: of the weights or of exponentials, weighted terms, and of gradients after `factor`
  V mass, terms, slopes;
  V roots;  // sum of gradients / distance
};

// Scores x [N], ld apart, of L rows: into their gradients, or for `roots` from distances into gradients / distance.
// A negative distance is a near pair: what is left there is the gradient. -inf, or an infinite distance, is no
// candidate.
template <class A, Term term, bool weighted, bool roots>
GNNACCEL_INLINE void group_losses(int64_t N, int64_t ld, A gamma, A temperature, bool grads, A* x, GroupRows<A>& rows) {
  using W = Wide<A>;
  using V = typename W::V;
  using I = typename W::I;
  constexpr bool relative = weighted || term == Term::kExponential;
  constexpr int64_t kBlock = 128;  // sums of sums: their error grows with the block, not with N
  constexpr A kNone = -std::numeric_limits<A>::infinity();
  const auto load = [&](int64_t j, V& score, V& distance, I& near) __attribute__((always_inline)) {
    std::memcpy(&score, x + j * ld, sizeof(score));
    if constexpr (roots) {
      near = reinterpret_cast<I>(score) < 0;
      distance = reinterpret_cast<V>(reinterpret_cast<I>(score) & ~W::kSign);
      score = gamma - distance;
    }
  };
  V top = term == Term::kExponential ? rows.top : V{} + kNone;
  if constexpr (relative) {
    for (int64_t j = 0; j < N; ++j) {
      V score, distance;
      I near;
      load(j, score, distance, near);
      top = score > top ? score : top;
    }
    top = top == kNone ? V{} : top;
  }
  rows.top = top;
  const V shift = rows.shift, factor = relative ? V{} + A(1) : rows.factor;
  V mass{}, terms{}, slopes{}, root_sums{};
  for (int64_t j0 = 0; j0 < N; j0 += kBlock) {
    V b_mass{}, b_terms{}, b_slopes{}, b_roots{};
    for (int64_t j = j0; j < std::min(j0 + kBlock, N); ++j) {
      V score, distance, g;
      I near;
      load(j, score, distance, near);
      if constexpr (term == Term::kExponential) {
        const V lower = score - top;
        exponential<A>(lower, g);
        b_mass += g;
      } else {
        const V y = score + shift;
        V t;
        if constexpr (term == Term::kSoft) {
          V e, more, inverse;
          const V below = reinterpret_cast<V>(reinterpret_cast<I>(y) | W::kSign);  // -|y|
          exponential<A>(below, e);
          log_of_one_and<A>(e, more, inverse);
          t = (y > 0 ? y : V{}) + more;
          g = (y > 0 ? V{} + A(1) : e) * inverse;
        } else {
          t = y < 0 ? V{} : y;
          g = y > 0 ? V{} + A(1) : V{};
        }
        if constexpr (weighted) {
          V w;
          const V lower = (score - top) * temperature;
          exponential<A>(lower, w);
          b_mass += w;
          t *= w, g *= w;
        }
        b_terms += t;
        g *= factor;
      }
      b_slopes += g;
      if constexpr (roots) {
        const V w = g / distance;
        b_roots += near ? V{} : w;
        g = near ? g : w;
      }
      if (grads) std::memcpy(x + j * ld, &g, sizeof(g));
    }
    mass += b_mass, terms += b_terms, slopes += b_slopes, root_sums += b_roots;
  }
  rows.mass = mass, rows.terms = terms, rows.slopes = slopes, rows.roots = root_sums;
}

template <class A>
GNNACCEL_INLINE void any_losses(Term term, bool weighted, bool roots, int64_t N, int64_t ld, A gamma, A temperature,
                                bool grads, A* x, GroupRows<A>& rows) {
#define GNNACCEL_LOSSES(kind, relative)                                               \
  if (roots)                                                                          \
    group_losses<A, kind, relative, true>(N, ld, gamma, temperature, grads, x, rows); \
  else                                                                                \
    group_losses<A, kind, relative, false>(N, ld, gamma, temperature, grads, x, rows);
  if (term == Term::kExponential) {
    GNNACCEL_LOSSES(Term::kExponential, false)
  } else if (term == Term::kSoft && weighted) {
    GNNACCEL_LOSSES(Term::kSoft, true)
  } else if (term == Term::kSoft) {
    GNNACCEL_LOSSES(Term::kSoft, false)
  } else if (weighted) {
    GNNACCEL_LOSSES(Term::kHinge, true)
  } else {
    GNNACCEL_LOSSES(Term::kHinge, false)
  }
#undef GNNACCEL_LOSSES
}

// What relative weights were divided by is known in the end.
template <class A>
GNNACCEL_INLINE void scale_lanes(int64_t N, int64_t ld, const typename Wide<A>::V& by, A* x) {
  for (int64_t j = 0; j < N; ++j) {
    typename Wide<A>::V g;
    std::memcpy(&g, x + j * ld, sizeof(g));
    g *= by;
    std::memcpy(x + j * ld, &g, sizeof(g));
  }
}

// Squared distances of L queries from `rows` centred candidates, from products x: roots, or -1 for pairs too near.
// Returns whether there are any.
template <class A>
GNNACCEL_INLINE bool roots_of_products(int64_t rows, int64_t width, int64_t ld, const A* n_norm, const A* q_norm,
                                       A* x) {
  using W = Wide<A>;
  using V = typename W::V;
  constexpr A kNear = A(1e-2);  // as block_distances
  typename W::I any{};
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t i = 0; i < width; i += W::L) {
      V product, norm;
      std::memcpy(&product, x + j * ld + i, sizeof(product));
      std::memcpy(&norm, q_norm + i, sizeof(norm));
      norm += n_norm[j];
      const V square = norm - A(2) * product;
      const typename W::I far = square > kNear * norm;
      any |= ~far;
      V root;
      for (int64_t l = 0; l < W::L; ++l) root[l] = std::sqrt(square[l]);
      root = far ? root : V{} - A(1);
      std::memcpy(x + j * ld + i, &root, sizeof(root));
    }
  for (int64_t l = 0; l < W::L; ++l)
    if (any[l] != 0) return true;
  return false;
}

// Columns of rows that are ld apart, less those of `centre` if there is one, as a panel [rows][nr].
template <class A>
GNNACCEL_INLINE void pack_less_centre(const A* from, int64_t ld, int64_t rows, int64_t n, int64_t nr, const A* centre,
                                      A* to) {
  for (int64_t k = 0; k < rows; ++k, from += ld, to += nr) {
    if (centre)
      for (int64_t j = 0; j < n; ++j) to[j] = from[j] - centre[j];
    else
      for (int64_t j = 0; j < n; ++j) to[j] = from[j];
    for (int64_t j = n; j < nr; ++j) to[j] = A(0);
  }
}

constexpr int64_t kSumLanes = 16;  // sums in so many lanes, whatever the machine's vectors are

// to = from - centre; returns the sum of its squares.
template <class A>
GNNACCEL_INLINE A difference(const A* from, const A* centre, int64_t n, A* __restrict to) {
  A part[kSumLanes] = {}, sum = 0;
  const auto one = [&](int64_t l, int64_t k) __attribute__((always_inline)) {
    const A x = from[k] - centre[k];
    to[k] = x;
    part[l] += x * x;
  };
  int64_t k = 0;
  for (; k + kSumLanes <= n; k += kSumLanes)
    for (int64_t l = 0; l < kSumLanes; ++l) one(l, k + l);
  for (int64_t l = 0; k + l < n; ++l) one(l, k + l);
  for (int64_t l = 0; l < kSumLanes; ++l) sum += part[l];
  return sum;
}

template <class A>
GNNACCEL_INLINE A sum_in_lanes(const A* x, int64_t n) {
  A part[kSumLanes] = {}, sum = 0;
  int64_t k = 0;
  for (; k + kSumLanes <= n; k += kSumLanes)
    for (int64_t l = 0; l < kSumLanes; ++l) part[l] += x[k + l];
  for (int64_t l = 0; k + l < n; ++l) part[l] += x[k + l];
  for (int64_t l = 0; l < kSumLanes; ++l) sum += part[l];
  return sum;
}

// How queries are made of entity rows e and relation rows r; the second of a pair is that of heads.
enum class Operation : int64_t {
  kGiven,
  kPlus,
  kMinus,
  kTimes,
  kTurn,
  kTurnBack,
  kRotate,
  kRotateBack,
  kCross,
  kCrossBack
};

// cos and sin of a phase, within an ulp of 1, and exact for 0: what no turn turns stays as it is.
GNNACCEL_INLINE void cos_and_sin(float phase, float& cos, float& sin) {
  // quarters of a turn, less the nearest whole number of them
  const double quarters = static_cast<double>(phase) * (4 * kInvTwoPi), whole = std::nearbyint(quarters);
  const float g = static_cast<float>(quarters - whole), z = g * g;
  const double turns = whole * 0.25, rest = 4 * (turns - std::floor(turns));
  const float s = (((-4.592289e-3f * z + 7.9675905e-2f) * z - 0.64596295f) * z + 1.5707963f) * g;
  const float c = (((9.0402167e-4f * z - 2.0860288e-2f) * z + 0.25366923f) * z - 1.2337005f) * z + 1.f;
  const bool odd = rest == 1 || rest == 3;
  const float x = odd ? s : c, y = odd ? c : s;
  cos = rest == 1 || rest == 2 ? -x : x;
  sin = rest >= 2 ? -y : y;
}
GNNACCEL_INLINE void cos_and_sin(double phase, double& cos, double& sin) {
  cos = std::cos(phase);
  sin = std::sin(phase);
}

// re + i im: what turns. For phases cos and sin, formed in `memory` [D].
template <class A>
GNNACCEL_INLINE void turns_of(Operation op, const A* r, int64_t half, A* memory, const A*& re, const A*& im) {
  if (op == Operation::kTurn || op == Operation::kTurnBack) {
    re = r, im = r + half;
    return;
  }
  for (int64_t k = 0; k < half; ++k) cos_and_sin(r[k], memory[k], memory[half + k]);
  re = memory, im = memory + half;
}

template <class A>
GNNACCEL_INLINE void query_row(Operation op, int64_t D, const A* e, const A* r, A* memory, A* __restrict q) {
  const int64_t half = D / 2;
  switch (op) {
    case Operation::kGiven:
      for (int64_t k = 0; k < D; ++k) q[k] = e[k];
      return;
    case Operation::kPlus:
      for (int64_t k = 0; k < D; ++k) q[k] = e[k] + r[k];
      return;
    case Operation::kMinus:
      for (int64_t k = 0; k < D; ++k) q[k] = e[k] - r[k];
      return;
    case Operation::kTimes:
      for (int64_t k = 0; k < D; ++k) q[k] = e[k] * r[k];
      return;
    case Operation::kCross:
    case Operation::kCrossBack: {
      const A *first = op == Operation::kCross ? r + half : r, *second = op == Operation::kCross ? r : r + half;
      for (int64_t k = 0; k < half; ++k) {
        q[k] = A(0.5) * (e[half + k] * first[k]);
        q[half + k] = A(0.5) * (e[k] * second[k]);
      }
      return;
    }
    default: {
      const A *re, *im, back = op == Operation::kTurnBack || op == Operation::kRotateBack ? A(-1) : A(1);
      turns_of(op, r, half, memory, re, im);
      for (int64_t k = 0; k < half; ++k) {
        const A a = e[k], b = e[half + k], x = re[k], y = back * im[k];
        q[k] = a * x - b * y;
        q[half + k] = a * y + b * x;
      }
    }
  }
}

// Gradients of e, in place of that of the query, and of r.
template <class A>
GNNACCEL_INLINE void query_row_gradients(Operation op, int64_t D, const A* e, const A* r, const A* q, A* memory,
                                         A* __restrict d, A* __restrict dr) {
  const int64_t half = D / 2;
  switch (op) {
    case Operation::kGiven: return;
    case Operation::kPlus:
      for (int64_t k = 0; k < D; ++k) dr[k] = d[k];
      return;
    case Operation::kMinus:
      for (int64_t k = 0; k < D; ++k) dr[k] = -d[k];
      return;
    case Operation::kTimes:
      for (int64_t k = 0; k < D; ++k) {
        const A g = d[k];
        dr[k] = g * e[k], d[k] = g * r[k];
      }
      return;
    case Operation::kCross:
    case Operation::kCrossBack: {
      const bool tail = op == Operation::kCross;
      const A *first = tail ? r + half : r, *second = tail ? r : r + half;
      A *to_first = tail ? dr + half : dr, *to_second = tail ? dr : dr + half;
      for (int64_t k = 0; k < half; ++k) {
        const A x = A(0.5) * d[k], y = A(0.5) * d[half + k];
        to_first[k] = x * e[half + k], to_second[k] = y * e[k];
        d[k] = y * second[k], d[half + k] = x * first[k];
      }
      return;
    }
    default: {
      const bool phases = op == Operation::kRotate || op == Operation::kRotateBack;
      const A *re, *im, back = op == Operation::kTurnBack || op == Operation::kRotateBack ? A(-1) : A(1);
      turns_of(op, r, half, memory, re, im);
      for (int64_t k = 0; k < half; ++k) {
        const A x = d[k], y = d[half + k], c = re[k], s = back * im[k];
        if (phases) {
          dr[k] = back * (y * q[k] - x * q[half + k]);
        } else {
          dr[k] = x * e[k] + y * e[half + k];
          dr[half + k] = back * (y * e[k] - x * e[half + k]);
        }
        d[k] = x * c + y * s;
        d[half + k] = y * c - x * s;
      }
    }
  }
}

#define GNNACCEL_KG_LOSS(A)                                                                                            \
  GNNACCEL_CLONES inline void losses_of_group(Term term, bool weighted, bool roots, int64_t N, int64_t ld, A gamma,    \
                                              A temperature, bool grads, A* x, GroupRows<A>& rows) {                   \
    any_losses<A>(term, weighted, roots, N, ld, gamma, temperature, grads, x, rows);                                   \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void scale_group(int64_t N, int64_t ld, const Wide<A>::V& by, A* x) {                         \
    scale_lanes<A>(N, ld, by, x);                                                                                      \
  }                                                                                                                    \
  GNNACCEL_CLONES inline bool roots_of_tile(int64_t rows, int64_t width, int64_t ld, const A* n_norm, const A* q_norm, \
                                            A* x) {                                                                    \
    return roots_of_products<A>(rows, width, ld, n_norm, q_norm, x);                                                   \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void pack_columns_of(const A* from, int64_t ld, int64_t rows, int64_t n, int64_t nr,          \
                                              const A* centre, A* to) {                                                \
    if (n == 48 && nr == 48)                                                                                           \
      pack_less_centre<A>(from, ld, rows, 48, 48, centre, to);                                                         \
    else                                                                                                               \
      pack_less_centre<A>(from, ld, rows, n, nr, centre, to);                                                          \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void make_query(Operation op, int64_t D, const A* e, const A* r, A* memory, A* q) {           \
    query_row<A>(op, D, e, r, memory, q);                                                                              \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void gradients_of_query(Operation op, int64_t D, const A* e, const A* r, const A* q,          \
                                                 A* memory, A* d, A* dr) {                                             \
    query_row_gradients<A>(op, D, e, r, q, memory, d, dr);                                                             \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void add_scaled(A by, const A* from, int64_t n, A* to) {                                      \
    for (int64_t k = 0; k < n; ++k) to[k] += by * from[k];                                                             \
  }                                                                                                                    \
  GNNACCEL_CLONES inline void take_scaled(A by, const A* from, const A* centre, int64_t n, A* __restrict to) {         \
    for (int64_t k = 0; k < n; ++k) to[k] -= by * (from[k] - centre[k]);                                               \
  }                                                                                                                    \
  GNNACCEL_CLONES inline A sum_of(const A* x, int64_t n) { return sum_in_lanes(x, n); }                                \
  GNNACCEL_CLONES inline A less_centre(const A* from, const A* centre, int64_t n, A* to) {                             \
    return difference(from, centre, n, to);                                                                            \
  }
GNNACCEL_KG_LOSS(float)
GNNACCEL_KG_LOSS(double)
#undef GNNACCEL_KG_LOSS

}  // namespace gnnaccel
