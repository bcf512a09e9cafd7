// A schedule on the host.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "math/schedules.h"

namespace sgdr_fused {

// A Segment as Python hands it over, with words for kind and mode and a table of its own.
struct SegmentSpec {
  std::string kind, mode;  // see schedule_names.h
  std::vector<double> values;
  std::vector<int64_t> lengths;
  std::vector<int64_t> step_table;
  std::vector<double> value_table;  // of the kind "table", which has no step_table
  int64_t first_step = 0;
  int64_t shift = 0;
  double scale = 1.0;
};

// A schedule that can be evaluated: its segments, and the tables that they point into.
class CompiledSchedule {
 public:
  explicit CompiledSchedule(const std::vector<SegmentSpec>& segments);

  double operator()(int64_t t) const;
  at::Tensor values(int64_t n) const;

  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<int64_t>& step_table() const { return step_table_; }
  const std::vector<double>& value_table() const { return value_table_; }

 private:
  std::vector<Segment> segments_;
  std::vector<int64_t> step_table_;
  std::vector<double> value_table_;
};

}  // namespace sgdr_fused
