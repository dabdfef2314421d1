#include <optional>
#include <string>
#include <tuple>

#include "commit_events.h"
#include "common.h"
#include "memory_update_call.h"

namespace gnnaccel {
namespace {

constexpr int64_t kMails = 32;  // a task

const int64_t* ids(const Tensor& t, const char* name, int64_t low, int64_t limit) {
  const int64_t* p = ptr<int64_t>(t);
  for (int64_t i = 0, n = t.numel(); i < n; ++i)
    if (p[i] < low || p[i] >= limit)
      throw std::invalid_argument("memory_levels: " + std::string(name) + " is out of range, got " +
                                  std::to_string(p[i]));
  return p;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> memory_levels_cpu(
    const Tensor& old_in, const Tensor& old_update_in, const Tensor& node_in, const Tensor& row_in,
    const Tensor& before_in, const Tensor& last_in, const Tensor& order_in, const Tensor& offset_in,
    const Tensor& times_in, const Tensor& event_in, std::optional<Tensor> features_in, const Tensor& time_w,
    const Tensor& time_b, const Tensor& w_ih, const Tensor& w_hh, const Tensor& b_ih, const Tensor& b_hh, bool gru) {
  const auto dense = [](const Tensor& t) { return torch::stable::contiguous(t); };
  const Tensor old = dense(old_in), old_update = dense(old_update_in), node_t = dense(node_in), row_t = dense(row_in),
               before_t = dense(before_in), last_t = dense(last_in), order_t = dense(order_in),
               offset_t = dense(offset_in), times = dense(times_in), event_t = dense(event_in),
               features = with_dense_rows(features_in.value_or(old_in));
  const int64_t B = event_t.numel(), R = before_t.numel(), D = old.size(1),
                De = features_in.has_value() ? features.size(1) : 0, M = 2 * D + De, levels = offset_t.numel() - 1;
  const int64_t *node = ids(node_t, "node", 0, old.size(0)), *row = ids(row_t, "row", 0, R),
                *before = ids(before_t, "before", -1, R), *last = ids(last_t, "last", 0, 2 * B),
                *order = ids(order_t, "order", 0, R), *offset = ids(offset_t, "offset", 0, R + 1),
                *event = De ? ids(event_t, "event_ids", 0, features.size(0)) : nullptr;
  Tensor memory = empty({R, D}, old.scalar_type()), mail = empty({R, M}, old.scalar_type()),
         last_update = empty({R}, times.scalar_type()), mail_time = empty({R}, times.scalar_type());

  // rows by level, as the cell takes them
  MemoryRows rows;
  rows.row.emplace(static_cast<size_t>(R), 0);
  rows.place.emplace(order, order + R);
  rows.dt.resize(static_cast<size_t>(R), 0.0);
  dispatch_time(times.scalar_type(), "memory_levels", [&](auto tag) {
    using T = decltype(tag);
    const T *t = ptr<T>(times), *from = ptr<T>(old_update);
    T *updated = ptr<T>(last_update), *sent = ptr<T>(mail_time);
    for (int64_t r = 0; r < R; ++r) {
      sent[r] = t[last[r]];
      updated[r] = before[r] < 0 ? from[node[last[r]]] : t[last[before[r]]];
    }
    for (int64_t i = 0; i < R; ++i) {
      const int64_t source = before[order[i]];
      if (source < 0) continue;
      (*rows.row)[static_cast<size_t>(i)] = source;
      rows.dt[static_cast<size_t>(i)] = static_cast<double>(sent[source] - updated[source]);
    }
  });

  const auto run = [&](auto scalar, auto feature) {
    using S = decltype(scalar);
    using E = decltype(feature);
    S *out = ptr<S>(memory), *mails = ptr<S>(mail);
    const auto leave = [&](int64_t r) {
      const int64_t end = last[r], other = row[end < B ? end + B : end - B];
      write_mail(out + r * D, out + other * D, D,
                 ptr<E>(std::as_const(features)) + (De ? event[end % B] * features.stride(0) : 0), De, mails + r * M);
    };
    const MemoryCall<S> call(mail, memory, time_w, time_b, w_ih, w_hh, rows, gru);
    PackedCell<S> cell(call, b_ih, b_hh);
    std::vector<char> left(static_cast<size_t>(R), 0);
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t first = offset[level], n = offset[level + 1] - first;
      if (level == 0) {
        for (int64_t i = 0; i < n; ++i)
          copy_row(ptr<S>(std::as_const(old)) + node[last[order[i]]] * D, out + order[i] * D, D);
        continue;
      }
      // at most one row reads what a row left: no two tasks write one mail
      parallel_chunks(n, even_chunk(n, kRowTile), [&](int64_t begin, int64_t end) {
        for (int64_t i = first + begin; i < first + end; ++i) {
          const int64_t source = (*rows.row)[static_cast<size_t>(i)];
          leave(source);
          left[static_cast<size_t>(source)] = 1;
        }
        cell.tile(first + begin, first + end, out, nullptr);
      });
    }
    parallel_chunks(R, kMails, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        if (!left[static_cast<size_t>(r)]) leave(r);
    });
  };
  const auto by_feature = [&](auto scalar) {
    if (!De) return run(scalar, scalar);
    dispatch_floating_as<HalfBits, BFloat16Bits>(features.scalar_type(), "memory_levels",
                                                 [&](auto feature) { run(scalar, feature); });
  };
  if (old.scalar_type() == ScalarType::Double)
    by_feature(double{});
  else
    by_feature(float{});
  return {memory, last_update, mail, mail_time};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("memory_levels", TORCH_BOX(&gnnaccel::memory_levels_cpu)); }
