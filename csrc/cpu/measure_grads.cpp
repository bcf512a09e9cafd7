// What is measured of the gradients on the CPU: the sum of their squares. No torch.
#include <algorithm>
#include <cmath>

#include "cpu/chunks.h"
#include "math/prefetch.h"

namespace sgdr_fused::cpu {
namespace {

template <class T>
struct SquaresLoop {
  SGDR_HOST_DEVICE static void run(Square<T> square, const T* grad, int64_t count,
                                   double* partial_sums, int* nonfinite) {
    int found = 0;
    SGDR_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) partial_sums[i] += square(grad[i], found);
    *nonfinite |= found;
  }
};

// A row of at most kPartialSums floats, of which nothing is clamped: a sum is not finite if, and
// only if, one of them is not. The first row makes the partial sums. Each asks for the next row's
// memory, for which the processor by itself asks too late: rows are short, and the partial sums lie
// between them.
template <bool kFirst>
struct RowLoop {
  static constexpr int64_t kStrip = 128;  // whose next are asked for together
  SGDR_HOST_DEVICE static void run(Square<float> square, const float* grad, int64_t count,
                                   double* partial_sums) {
    for (int64_t begin = 0; begin < count; begin += kStrip) {
      const int64_t end = begin + kStrip < count ? begin + kStrip : count;
      prefetch(grad + kPartialSums + begin, (end - begin) * sizeof(float));
      SGDR_INDEPENDENT
      for (int64_t i = begin; i < end; ++i) {
        const double value = square.unscaled(grad[i]);
        partial_sums[i] = kFirst ? value * value : partial_sums[i] + value * value;
      }
    }
  }
};

ChunkGradSums plain_norm(const float* grad, const Square<float>& square, int64_t count) {
  int64_t done = std::min<int64_t>(kPartialSums, count);
  PartialSums<kPartialSums> partial_sums(count, done);
  run<RowLoop<true>>(square, grad, done, partial_sums.of(0));
  for (; done < count; done += kPartialSums) {
    run<RowLoop<false>>(square, grad + done, std::min<int64_t>(kPartialSums, count - done),
                        partial_sums.of(0));
  }
  const double total = partial_sums.total();
  return {total, !std::isfinite(total), 0};
}

template <class T>
ChunkGradSums chunk_norm(const OperandIO& grad, const Square<T>& square, int64_t begin,
                         int64_t count) {
  PartialSums<kPartialSums> partial_sums(count);
  int nonfinite = 0;
  alignas(64) T scratch[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t size = std::min(kBlock, count - done);
    const T* g = fetch(grad, begin + done, size, scratch);
    run<SquaresLoop<T>>(square, g, size, partial_sums.of(done), &nonfinite);
  }
  return {partial_sums.total(), nonfinite != 0, 0};
}

ChunkGradSums sums_of(const Step& step, const Item& item, const Chunk& chunk) {
  const Tensor& tensor = step.plan.tensors[chunk.tensor];
  const Clipping& clipping = step.plan.clipping;
  const Layout* layout = tensor.layout < 0 ? nullptr : step.plan.layouts + tensor.layout;
  const OperandIO grad = {item.grad, tensor.grad_dtype, layout, kGrad, nullptr, nullptr};
  const int64_t begin = first_element(chunk), count = num_elements(chunk, tensor);
  if (grad.dtype == Dtype::kFloat64) {
    return chunk_norm(grad, Square<double>(step.grad_scale, clipping), begin, count);
  }
  const Square<float> square(step.grad_scale, clipping);
  if (in_place<float>(grad) && std::isinf(square.max_value)) {
    return plain_norm(static_cast<const float*>(grad.data) + begin, square, count);
  }
  return chunk_norm(grad, square, begin, count);
}

}  // namespace

void measure_grads(const Step& step, const Threads& threads) {
  const Clipping& clipping = step.plan.clipping;
  std::fill_n(clipping.chunks, clipping.num_chunks, ChunkGradSums{});
  for_chunks(
      step, threads, [](const Item&) { return true; },
      [&](const Item& item, int64_t i) {
        const Chunk& chunk = step.chunks[i];
        clipping.chunks[i] = sums_of(step, item, chunk);
        clipping.chunks[i].norm_sum = step.plan.tensors[chunk.tensor].norm_sum;
      });

  bool nonfinite = false;
  for (int64_t i = 0; i < clipping.num_chunks; ++i) {
    nonfinite = nonfinite || clipping.chunks[i].nonfinite;
  }
  for (int32_t sum = 0; sum < clipping.num_sums; ++sum) {
    PartialSums<kPartialSums> partial_sums(clipping.num_chunks);
    for (int64_t i = 0; i < clipping.num_chunks; ++i) {
      const ChunkGradSums& chunk = clipping.chunks[i];
      *partial_sums.of(i) += added_to(sum, chunk);
    }
    clipping.sums[sum] = {partial_sums.total(), nonfinite ? 1.0 : 0.0};
  }
}

}  // namespace sgdr_fused::cpu
