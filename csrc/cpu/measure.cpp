// The norm of the gradients on the CPU: chunks in parallel, each summed up as on a GPU. No torch.
#include <algorithm>

#include "../clipping.h"
#include "../fused_step.h"
#include "memory.h"

namespace sgdr_fused::cpu {
namespace {

// Fewer elements than this per thread take a few microseconds, as starting a team of threads does.
constexpr int64_t kGrain = 65536;

static_assert(kChunk % kLanes == 0 && kLanes % kBlock == 0);

template <class T>
struct SquaresLoop {
  SGDR_HOST_DEVICE static void run(Square<T> square, const T* grad, int64_t count, double* lanes,
                                   int* nonfinite) {
    int found = 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) lanes[i] += square(grad[i], found);
    *nonfinite |= found;
  }
};

struct HalvesLoop {
  SGDR_HOST_DEVICE static void run(double* lanes, int64_t half) {
#pragma GCC ivdep
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[half + i];
  }
};

// The lanes, so many that `count` elements reach them all. The others would add nothing but zeros.
class Lanes {
 public:
  explicit Lanes(int64_t count) : size_(kLanes) {
    while (size_ / 2 >= count && size_ > 1) size_ /= 2;
    std::fill_n(sums_, size_, 0.0);
  }
  double* of(int64_t element) { return sums_ + element % kLanes; }
  double total() {
    for (int64_t half = size_ / 2; half > 0; half /= 2) run<HalvesLoop>(sums_, half);
    return sums_[0];
  }

 private:
  int64_t size_;
  alignas(64) double sums_[kLanes];
};

template <class T>
ChunkNorm chunk_norm(const Memory& grad, const Square<T>& square, int64_t begin, int64_t count) {
  Lanes lanes(count);
  int nonfinite = 0;
  alignas(64) T scratch[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t size = std::min(kBlock, count - done);
    const T* g = fetch(grad, begin + done, size, scratch);
    run<SquaresLoop<T>>(square, g, size, lanes.of(done), &nonfinite);
  }
  return {lanes.total(), nonfinite != 0};
}

// A chunk with gradients.
struct Part {
  const Item* item;
  int64_t chunk;     // its number in the table
  int64_t position;  // where it begins when all parts are laid end to end
};

ChunkNorm part_norm(const Step& step, const Part& part) {
  const Chunk& chunk = step.chunks[part.chunk];
  const Tensor& tensor = step.plan.tensors[chunk.tensor];
  const Clipping& clipping = step.plan.clipping;
  const Layout* layout = tensor.layout < 0 ? nullptr : step.plan.layouts + tensor.layout;
  const Memory grad = {part.item->grad, part.item->dtypes.param, layout, kGrad};
  const int64_t begin = first_element(chunk), count = num_elements(chunk, tensor);
  if (grad.dtype == Dtype::kFloat64) {
    return chunk_norm(grad, Square<double>(step.grad_scale, clipping), begin, count);
  }
  return chunk_norm(grad, Square<float>(step.grad_scale, clipping), begin, count);
}

}  // namespace

void measure(const Step& step, ParallelFor parallel_for) {
  const Clipping& clipping = step.plan.clipping;
  std::vector<Part> parts;
  int64_t elements = 0;
  auto item = step.items.begin();
  for (int64_t i = 0; i < clipping.num_chunks; ++i) {
    const Chunk& chunk = step.chunks[i];
    clipping.chunks[i] = {0.0, false};
    while (item != step.items.end() && item->tensor < chunk.tensor) ++item;
    if (item == step.items.end()) continue;
    if (item->tensor != chunk.tensor || item->grad == nullptr) continue;
    parts.push_back({&*item, i, elements});
    elements += num_elements(chunk, step.plan.tensors[chunk.tensor]);
  }
  // Each thread takes the parts that begin in its share of the elements.
  parallel_for(elements, kGrain, [&](int64_t first, int64_t last) {
    auto part = std::lower_bound(
        parts.begin(), parts.end(), first,
        [](const Part& each, int64_t position) { return each.position < position; });
    for (; part != parts.end() && part->position < last; ++part) {
      clipping.chunks[part->chunk] = part_norm(step, *part);
    }
  });

  Lanes lanes(clipping.num_chunks);
  bool nonfinite = false;
  for (int64_t i = 0; i < clipping.num_chunks; ++i) {
    *lanes.of(i) += clipping.chunks[i].squares;
    nonfinite = nonfinite || clipping.chunks[i].nonfinite;
  }
  finish_measure(clipping, lanes.total(), nonfinite, step.found_inf);
}

}  // namespace sgdr_fused::cpu
