// schedule_value of csrc/math/schedules.h alone, for AddressSanitizer and UBSan: reads schedules
// and steps from stdin and prints a value a line, in hexadecimal. Tables lie on the heap in exactly
// their sizes.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "math/schedule_names.h"
#include "math/schedules.h"

namespace {

int64_t integer() {
  long long value = 0;
  if (std::scanf("%lld", &value) != 1) std::exit(2);
  return value;
}

double number() {
  double value = 0.0;
  if (std::scanf("%lf", &value) != 1) std::exit(2);
  return value;
}

std::string word() {
  char letters[64];
  if (std::scanf("%63s", letters) != 1) std::exit(2);
  return letters;
}

}  // namespace

int main() {
  for (int64_t schedules = integer(); schedules > 0; --schedules) {
    std::vector<sgdr_fused::Segment> segments(integer());
    std::vector<int64_t> steps;
    std::vector<double> values;
    for (sgdr_fused::Segment& segment : segments) {
      segment = {};
      segment.kind = sgdr_fused::kind_named(word());
      segment.mode = sgdr_fused::mode_named(segment.kind, word());
      segment.first_step = integer();
      segment.shift = integer();
      segment.scale = number();
      for (double& value : segment.values) value = number();
      for (int64_t& length : segment.lengths) length = integer();
      segment.table_size = integer();
      const bool of_values = segment.kind == sgdr_fused::ScheduleKind::kTable;
      segment.table = static_cast<int64_t>(of_values ? values.size() : steps.size());
      for (int64_t k = 0; k < segment.table_size; ++k) {
        of_values ? values.push_back(number()) : steps.push_back(integer());
      }
    }
    steps.shrink_to_fit();
    values.shrink_to_fit();
    for (int64_t count = integer(); count > 0; --count) {
      std::printf("%a\n",
                  sgdr_fused::schedule_value(segments.data(), static_cast<int32_t>(segments.size()),
                                             {steps.data(), values.data()}, integer()));
    }
  }
  return 0;
}
