// See schedule.h.
#include "plan/schedule.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <iterator>

#include "math/schedule_names.h"

namespace sgdr_fused {

CompiledSchedule::CompiledSchedule(const std::vector<SegmentSpec>& segments) {
  for (const SegmentSpec& spec : segments) {
    Segment segment = {};
    segment.kind = kind_named(spec.kind);
    segment.mode = mode_named(segment.kind, spec.mode);
    segment.first_step = spec.first_step;
    segment.shift = spec.shift;
    segment.scale = spec.scale;
    TORCH_CHECK_VALUE(spec.values.size() <= std::size(segment.values) &&
                          spec.lengths.size() <= std::size(segment.lengths),
                      "a segment has at most ", std::size(segment.values), " values and ",
                      std::size(segment.lengths), " lengths, got ", spec.values.size(), " and ",
                      spec.lengths.size());
    std::copy(spec.values.begin(), spec.values.end(), segment.values);
    std::copy(spec.lengths.begin(), spec.lengths.end(), segment.lengths);
    const auto append = [&segment](auto& to, const auto& entries) {
      segment.table = static_cast<int64_t>(to.size());
      segment.table_size = static_cast<int64_t>(entries.size());
      to.insert(to.end(), entries.begin(), entries.end());
    };
    if (segment.kind == ScheduleKind::kTable) {
      append(value_table_, spec.value_table);
    } else {
      append(step_table_, spec.step_table);
    }
    segments_.push_back(segment);
  }
}

double CompiledSchedule::operator()(int64_t t) const {
  return schedule_value(segments_.data(), static_cast<int32_t>(segments_.size()),
                        {step_table_.data(), value_table_.data()}, t);
}

at::Tensor CompiledSchedule::values(int64_t n) const {
  at::Tensor values = at::empty({n}, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  for (int64_t t = 0; t < n; ++t) data[t] = (*this)(t);
  return values;
}

}  // namespace sgdr_fused
