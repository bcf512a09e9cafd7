// Sums over chunks on the CPU. The chunks are distributed among threads, and each is summed up as
// on a GPU.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/instruction_set.h"
#include "cpu/operand_io.h"
#include "cpu/threads.h"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cpu {

static_assert(kChunk % kPartialSums == 0 && kPartialSums % kBlock == 0);

struct HalvesLoop {
  SGDR_HOST_DEVICE static void run(double* partial_sums, int64_t size) {
    for (int64_t half = size / 2; half > 0; half /= 2) {
      SGDR_INDEPENDENT
      for (int64_t i = 0; i < half; ++i) partial_sums[i] += partial_sums[half + i];
    }
  }
};

// The partial sums of `count` summands. All are 0 but the first `written`, which the caller writes.
template <int kMost>
class PartialSums {
 public:
  explicit PartialSums(int64_t count, int64_t written = 0) : size_(num_partial_sums(kMost, count)) {
    std::fill(sums_ + written, sums_ + size_, 0.0);
  }
  double* of(int64_t summand) { return sums_ + summand % kMost; }
  double total() {
    run<HalvesLoop>(sums_, size_);
    return sums_[0];
  }

 private:
  int64_t size_;
  alignas(64) double sums_[kMost];
};

// Calls body(item, number of the chunk) for each chunk of a tensor that has a gradient and is
// wanted(item), in parallel.
template <class Wanted, class Body>
void for_chunks(const Step& step, const Threads& threads, const Wanted& wanted, const Body& body) {
  // Fewer elements than this per thread take a few microseconds, as starting a team of threads
  // does.
  constexpr int64_t kGrain = 65536;
  constexpr int64_t kAtATime = 2 * kChunk;
  struct Part {
    const Item* item;
    int64_t chunk;     // its number in the table
    int64_t position;  // where it begins when all parts are laid end to end
  };
  std::vector<Part> parts;
  int64_t elements = 0;
  auto item = step.items.begin();
  for (int64_t i = 0; i < step.num_chunks; ++i) {
    const Chunk& chunk = step.chunks[i];
    while (item != step.items.end() && item->tensor < chunk.tensor) ++item;
    if (item == step.items.end()) break;
    if (item->tensor != chunk.tensor || item->grad == nullptr || !wanted(*item)) continue;
    parts.push_back({&*item, i, elements});
    elements += num_elements(chunk, step.plan.tensors[chunk.tensor]);
  }
  // A thread takes the parts that begin in its range.
  distribute(elements, kGrain, kAtATime, threads, [&](int64_t first, int64_t last) {
    auto part = std::lower_bound(
        parts.begin(), parts.end(), first,
        [](const Part& each, int64_t position) { return each.position < position; });
    for (; part != parts.end() && part->position < last; ++part) body(*part->item, part->chunk);
  });
}

}  // namespace sgdr_fused::cpu
