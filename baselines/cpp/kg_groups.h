// Rows grouped by relation, and products of a group with its relation's matrix.
#pragma once

#include <numeric>

#include "kg_compare.h"
#include "kg_values.h"

namespace gnnaccel {

// Rows of one chunk that share a relation.
struct Group {
  int64_t chunk, relation;
  std::vector<int64_t> rows;
};

// Ordered by relation, then by chunk; rows ascend and are numbers in the whole call.
inline std::vector<Group> groups_of(const Tensor& relation_in, int64_t R, int64_t S) {
  const Tensor relation = torch::stable::contiguous(relation_in);
  const int64_t B = relation.numel();
  std::vector<int64_t> id(static_cast<size_t>(B)), order(static_cast<size_t>(B));
  dispatch_ids(relation.scalar_type(), "kg_score", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(relation);
    for (int64_t b = 0; b < B; ++b) id[static_cast<size_t>(b)] = static_cast<int64_t>(p[b]);
  });
  for (const int64_t i : id)
    if (i < 0 || i >= R)
      throw std::invalid_argument("kg_score: relation must be in [0, " + std::to_string(R) + "), got " +
                                  std::to_string(i));
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto of = [&](int64_t b) { return id[static_cast<size_t>(b)]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return of(a) < of(b); });
  std::vector<Group> groups;
  for (const int64_t b : order) {
    if (groups.empty() || groups.back().relation != of(b) || groups.back().chunk != b / S)
      groups.push_back({b / S, of(b), {}});
    groups.back().rows.push_back(b);
  }
  return groups;
}

// Those rows of x, K wide, together.
template <class A>
Scratch<A> gather(const Group& group, const A* x, int64_t K) {
  const int64_t n = static_cast<int64_t>(group.rows.size());
  Scratch<A> out(n * K);
  for (int64_t i = 0; i < n; ++i) std::copy_n(x + group.rows[static_cast<size_t>(i)] * K, K, out.get() + i * K);
  return out;
}

// out[m, .] = x[m, .] W, or x W^T; W [D, M]. With `add`, out += that.
template <class T, class A = acc_t<T>>
void through(const A* x, int64_t m, const T* w, int64_t D, int64_t M, bool transposed, A* out, bool add = false) {
  const int64_t K = transposed ? M : D, N = transposed ? D : M;
  Panels<A> panels(K, N);
  for (int64_t p = 0; p < panels.count(); ++p) {
    if (transposed)
      panels.pack_transposed(w, M, p);
    else
      panels.pack(w, M, p);
  }
  Epilogue<A> epilogue;
  if (add) epilogue = {out, N, false};
  gemm_panels<A>(m, left_rows(x, K), panels.view(), 0, panels.count(), out, N, epilogue);
}

// out[a, b] = x^T y, x [n, a], y [n, b]. With `add`, out += that.
template <class A>
void outer(const A* x, const A* y, int64_t n, int64_t a, int64_t b, A* out, bool add = false) {
  Panels<A> panels(n, b);
  for (int64_t p = 0; p < panels.count(); ++p) panels.pack(y, b, p);
  Epilogue<A> epilogue;
  if (add) epilogue = {out, b, false};
  gemm_panels<A>(a, Left<A>{x, 1, a, tile_set<A>().mr}, panels.view(), 0, panels.count(), out, b, epilogue);
}

template <class A>
void zero(A* data, int64_t n) {
  parallel_chunks(n, kConverted, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, A(0)); });
}

}  // namespace gnnaccel
