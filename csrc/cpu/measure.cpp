// The norm of the gradients on the CPU. No torch.
#include <algorithm>
#include <cmath>

#include "cpu/chunks.h"
#include "math/prefetch.h"

namespace sgdr_fused::cpu {
namespace {

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

// A row of at most kLanes floats, of which nothing is clamped: a sum is not finite if, and only if,
// one of them is not. The first row makes the lanes. Each asks for the next one's memory, for which
// the processor by itself asks too late: rows are short, and the lanes lie between them.
template <bool kFirst>
struct RowLoop {
  static constexpr int64_t kStrip = 128;  // whose next are asked for together
  SGDR_HOST_DEVICE static void run(Square<float> square, const float* grad, int64_t count,
                                   double* lanes) {
    for (int64_t begin = 0; begin < count; begin += kStrip) {
      const int64_t end = begin + kStrip < count ? begin + kStrip : count;
      prefetch(grad + kLanes + begin, (end - begin) * sizeof(float));
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) {
        const double value = square.unscaled(grad[i]);
        lanes[i] = kFirst ? value * value : lanes[i] + value * value;
      }
    }
  }
};

ChunkNorm plain_norm(const float* grad, const Square<float>& square, int64_t count) {
  int64_t done = std::min<int64_t>(kLanes, count);
  Lanes<kLanes> lanes(count, done);
  run<RowLoop<true>>(square, grad, done, lanes.of(0));
  for (; done < count; done += kLanes) {
    run<RowLoop<false>>(square, grad + done, std::min<int64_t>(kLanes, count - done), lanes.of(0));
  }
  const double total = lanes.total();
  return {total, !std::isfinite(total)};
}

template <class T>
ChunkNorm chunk_norm(const Memory& grad, const Square<T>& square, int64_t begin, int64_t count) {
  Lanes<kLanes> lanes(count);
  int nonfinite = 0;
  alignas(64) T scratch[kBlock];
  for (int64_t done = 0; done < count; done += kBlock) {
    const int64_t size = std::min(kBlock, count - done);
    const T* g = fetch(grad, begin + done, size, scratch);
    run<SquaresLoop<T>>(square, g, size, lanes.of(done), &nonfinite);
  }
  return {lanes.total(), nonfinite != 0};
}

ChunkNorm norm_of(const Step& step, const Item& item, const Chunk& chunk) {
  const Tensor& tensor = step.plan.tensors[chunk.tensor];
  const Clipping& clipping = step.plan.clipping;
  const Layout* layout = tensor.layout < 0 ? nullptr : step.plan.layouts + tensor.layout;
  const Memory grad = {item.grad, tensor.grad_dtype, layout, kGrad, nullptr, nullptr};
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

void measure(const Step& step, const Threads& threads) {
  const Clipping& clipping = step.plan.clipping;
  std::fill_n(clipping.chunks, clipping.num_chunks, ChunkNorm{});
  for_chunks(
      step, threads, [](const Item&) { return true; },
      [&](const Item& item, int64_t i) {
        clipping.chunks[i] = norm_of(step, item, step.chunks[i]);
      });

  Lanes<kLanes> lanes(clipping.num_chunks);
  bool nonfinite = false;
  for (int64_t i = 0; i < clipping.num_chunks; ++i) {
    *lanes.of(i) += clipping.chunks[i].squares;
    nonfinite = nonfinite || clipping.chunks[i].nonfinite;
  }
  *clipping.sums = {lanes.total(), nonfinite ? 1.0 : 0.0};
}

}  // namespace sgdr_fused::cpu
