// How the work of a step is shared among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

#include "step/fused_step.h"

namespace sgdr_fused::cpu {

// Calls body on disjoint ranges that cover [0, total): all of it at once where it is no more than
// `grain`, too little to start a team of threads for. Else each thread has an equal range, which is
// in its caches since the last step if it fits there, and takes `step` of it at a time. A thread
// that is done helps the others, for threads start one after another, and a core may be slower than
// the next, or busy.
template <class Body>
void distribute(int64_t total, int64_t grain, int64_t step, const Threads& threads,
                const Body& body) {
  struct alignas(64) ThreadRange {
    std::atomic<int64_t> next;
    int64_t end;
  };
  if (total == 0) return;
  const int64_t count = std::min(threads.count(), (total + grain - 1) / grain);
  if (count <= 1) return body(0, total);
  const std::unique_ptr<ThreadRange[]> ranges(new ThreadRange[count]);
  for (int64_t i = 0; i < count; ++i) {
    ranges[i].next.store(total * i / count, std::memory_order_relaxed);
    ranges[i].end = total * (i + 1) / count;
  }
  threads.run(count, [&](int64_t own) {
    for (int64_t i = 0; i < count; ++i) {
      ThreadRange& range = ranges[(own + i) % count];
      int64_t first;
      while ((first = range.next.fetch_add(step, std::memory_order_relaxed)) < range.end) {
        body(first, std::min(range.end, first + step));
      }
    }
  });
}

}  // namespace sgdr_fused::cpu
