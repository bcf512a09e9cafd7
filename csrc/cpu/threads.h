// How the work of a step is shared among threads.
#pragma once

#include <algorithm>
#include <atomic>

#include "../fused_step.h"

namespace sgdr_fused::cpu {

// Calls body on disjoint ranges that cover [0, total): all of it at once where it is no more than
// `grain`, too little to start a team of threads for. Else whoever is free takes the next range,
// for threads start one after another, and a core may be slower than the next, or busy. That is
// half of an equal share of what is left, in whole pieces: memory is fastest in long ranges, and
// with short ones at the end nobody waits long for the last.
template <class Body>
void share_out(int64_t total, int64_t grain, int64_t piece, ParallelFor parallel_for,
               const Body& body) {
  if (total == 0) return;
  if (total <= grain) return body(0, total);
  std::atomic<int64_t> taken{0};
  parallel_for(total, grain, [&](int64_t begin, int64_t end) {
    const int64_t threads = (total + end - begin - 1) / (end - begin);  // each has such a share
    int64_t first = taken.load(std::memory_order_relaxed);
    while (first < total) {
      const int64_t pieces = std::max<int64_t>(1, (total - first) / (2 * threads * piece));
      const int64_t last = std::min(total, first + pieces * piece);
      if (!taken.compare_exchange_weak(first, last, std::memory_order_relaxed)) continue;
      body(first, last);
      first = taken.load(std::memory_order_relaxed);
    }
  });
}

}  // namespace sgdr_fused::cpu
