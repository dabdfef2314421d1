#include "commit_events.h"

#include <algorithm>
#include <optional>
#include <string>

#include "common.h"

namespace gnnaccel {
namespace {

constexpr int64_t kNodes = 32;  // a task

template <class F>
void dispatch_rows(ScalarType dtype, const F& f) {
  dispatch_floating_as<HalfBits, BFloat16Bits>(dtype, "commit_events", f);
}

template <class T>
void check_range(const char* name, const T* values, int64_t n, int64_t limit) {
  for (int64_t i = 0; i < n; ++i)
    if (values[i] < 0 || values[i] >= limit)
      throw std::invalid_argument("commit_events: " + std::string(name) + " must be in [0, " + std::to_string(limit) +
                                  "), got " + std::to_string(values[i]));
}

void commit_events_cpu(Tensor memory, Tensor last_update, Tensor mail, Tensor mail_time, Tensor has_mail,
                       const Tensor& ends_in, const Tensor& times_in, const Tensor& row_in, const Tensor& rows_in,
                       const Tensor& rows_time_in, const Tensor& event_in, std::optional<Tensor> features_in) {
  const Tensor ends = torch::stable::contiguous(ends_in), times = torch::stable::contiguous(times_in),
               row = torch::stable::contiguous(row_in), rows = torch::stable::contiguous(rows_in),
               rows_time = torch::stable::contiguous(rows_time_in), event = torch::stable::contiguous(event_in);
  const Tensor features = with_dense_rows(features_in.value_or(rows));
  const int64_t B = event.numel(), D = memory.size(1), De = features_in.has_value() ? features.size(1) : 0;
  const int64_t* e = ptr<int64_t>(event);
  if (features_in.has_value()) check_range("event_ids", e, B, features.size(0));
  dispatch_ids(row.scalar_type(), "commit_events", [&](auto row_tag) {
    dispatch_ids(ends.scalar_type(), "commit_events", [&](auto id_tag) {
      dispatch_time(times.scalar_type(), "commit_events", [&](auto time_tag) {
        using Time = decltype(time_tag);
        const auto* r = ptr<decltype(row_tag)>(row);
        const auto* node = ptr<decltype(id_tag)>(ends);
        const Time *t = ptr<Time>(times), *updated = ptr<Time>(rows_time);
        check_range("row", r, 2 * B, rows.size(0));
        check_range("ends", node, 2 * B, memory.size(0));
        const std::vector<int64_t> last = last_ends(r, t, e, B, rows.size(0));
        dispatch_rows(memory.scalar_type(), [&](auto table_tag) {
          dispatch_rows(features.scalar_type(), [&](auto feature_tag) {
            using T = decltype(table_tag);
            using E = decltype(feature_tag);
            const T* from = ptr<T>(rows);
            const E* extra = ptr<E>(features);
            parallel_chunks(static_cast<int64_t>(last.size()), kNodes, [&](int64_t begin, int64_t end) {
              const auto at = [&](int64_t i) { return last[static_cast<size_t>(i)]; };
              for (int64_t i = begin; i < end; ++i) {
                if (De > 0 && i + 4 < end) prefetch_row(extra + e[at(i + 4) % B] * features.stride(0));
                const int64_t p = at(i), n = static_cast<int64_t>(node[p]);
                const T *own = from + r[p] * D, *other = from + r[(p + B) % (2 * B)] * D;
                copy_row(own, ptr<T>(memory) + n * D, D);
                write_mail(own, other, D, extra + (De > 0 ? e[p % B] * features.stride(0) : 0), De,
                           ptr<T>(mail) + n * (2 * D + De));
                ptr<Time>(last_update)[n] = updated[r[p]];
                ptr<Time>(mail_time)[n] = t[p];
                ptr<bool>(has_mail)[n] = true;
              }
            });
          });
        });
      });
    });
  });
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("commit_events", TORCH_BOX(&gnnaccel::commit_events_cpu)); }
