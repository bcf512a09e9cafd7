// How the work of a step is shared among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

#include "step/fused_step.h"

namespace sgdr_fused::cpu {

// Calls body on disjoint ranges that cover [0, total): all of it at once where it is no more than
// `grain`, too little to start a team of threads for. Else each thread has an equal share, which is
// in its caches since the last step if it fits there, and takes a `piece` of it at a time. Who is
// done helps the others, for threads start one after another, and a core may be slower than the
// next, or busy.
template <class Body>
void share_out(int64_t total, int64_t grain, int64_t piece, const Threads& threads,
               const Body& body) {
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  if (total == 0) return;
  const int64_t count = std::min(threads.count(), (total + grain - 1) / grain);
  if (count <= 1) return body(0, total);
  const std::unique_ptr<Share[]> shares(new Share[count]);
  for (int64_t i = 0; i < count; ++i) {
    shares[i].next.store(total * i / count, std::memory_order_relaxed);
    shares[i].end = total * (i + 1) / count;
  }
  threads.run(count, [&](int64_t own) {
    for (int64_t i = 0; i < count; ++i) {
      Share& share = shares[(own + i) % count];
      int64_t first;
      while ((first = share.next.fetch_add(piece, std::memory_order_relaxed)) < share.end) {
        body(first, std::min(share.end, first + piece));
      }
    }
  });
}

}  // namespace sgdr_fused::cpu
