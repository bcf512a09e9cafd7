// How the work of a step is shared among threads.
#pragma once

#include <algorithm>
#include <atomic>

#include "../fused_step.h"

namespace sgdr_fused::cpu {

// Calls body on disjoint ranges that cover [0, total): all of it at once where it is no more than
// `grain`, too little to start a team of threads for. Else whoever is free takes the next `piece`,
// for threads start one after another, and a core may be slower than the next, or busy.
template <class Body>
void share_out(int64_t total, int64_t grain, int64_t piece, ParallelFor parallel_for,
               const Body& body) {
  if (total == 0) return;
  if (total <= grain) return body(0, total);
  std::atomic<int64_t> taken{0};
  parallel_for(total, grain, [&](int64_t, int64_t) {
    int64_t first;
    while ((first = taken.fetch_add(piece, std::memory_order_relaxed)) < total) {
      body(first, std::min(total, first + piece));
    }
  });
}

}  // namespace sgdr_fused::cpu
