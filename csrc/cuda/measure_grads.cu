// What is measured of the gradients on the GPU, before the update: the sum of their squares. No
// torch.
#include <cuda_runtime.h>

#include "cuda/arguments.cuh"
#include "cuda/gradient.cuh"
#include "cuda/partial_sums.cuh"
#include "cuda/vector.cuh"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {
namespace {

// Writes the partial sums of a chunk. Whole rows of kPartialSums elements are loaded as vectors,
// where the gradient is dense and aligned; the rest, and any other, element by element. Returns
// whether an element that this thread has seen is not finite.
template <class grad_t>
__device__ bool add_squares(double* partial_sums, const Square<opmath_t<grad_t>>& square,
                            void* grad, const Layout* layout, const int64_t (&start)[kMaxDims],
                            int64_t begin, int count) {
  constexpr int kCount = Vector<grad_t>::kCount;
  constexpr int kVectors = kPartialSums / (kThreads * kCount);  // of a thread, in a row
  grad_t* grads = global<grad_t>(grad);
  const int first = threadIdx.x * kCount;
  double sums[kVectors * kCount] = {};
  int nonfinite = 0;
  int row = 0;
  if (layout == nullptr && reinterpret_cast<uintptr_t>(grads + begin) % kVectorBytes == 0) {
#pragma unroll 2
    for (; row + kPartialSums <= count; row += kPartialSums) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        Elements<grad_t, kCount> g;
        g.load(grads + begin, row + v * kThreads * kCount + first);
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          sums[v * kCount + j] += square(load(g.at(0, j)), nonfinite);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kVectors * kCount; ++i) {
    partial_sums[i / kCount * kThreads * kCount + first + i % kCount] = sums[i];
  }
  __syncthreads();
#pragma unroll 1
  for (int i = row + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    int64_t offsets[1] = {begin + i};
    if (layout != nullptr) offsets_of<kGrad>(*layout, start, i, offsets);
    partial_sums[i % kPartialSums] += square(load(grads[offsets[0]]), nonfinite);
  }
  return nonfinite != 0;
}

// What a block works on.
struct MeasuredChunk {
  void* grad;
  Dtype dtype;
  int32_t norm_sum;
  const Layout* layout;
  int64_t begin;
  int count;
  int64_t start[kMaxDims];  // coordinates of the first element, where there is a layout
};

// One thread does this, so that the others need not read the tensor from global memory.
__device__ void find_chunk(MeasuredChunk& work, const PlanView& plan, const Chunk& chunk,
                           void* grad) {
  const Tensor& tensor = plan.tensors[chunk.tensor];
  work.grad = grad;
  work.dtype = tensor.grad_dtype;
  work.norm_sum = tensor.norm_sum;
  work.layout = tensor.layout < 0 ? nullptr : plan.layouts + tensor.layout;
  work.begin = first_element(chunk);
  work.count = grad == nullptr ? 0 : num_elements(chunk, tensor);
  if (work.layout != nullptr) coordinates_of(*work.layout, work.begin, work.start);
}

// Writes one of the sums of all gradients. Each tells whether any gradient is not finite.
__device__ void add_up_chunks(double* partial_sums, const Clipping& clipping, int32_t sum) {
  int nonfinite = 0;
  double sums[kPartialSums / kThreads] = {};
#pragma unroll 1
  for (int64_t first = threadIdx.x; first < clipping.num_chunks; first += kPartialSums) {
#pragma unroll
    for (int k = 0; k < kPartialSums / kThreads; ++k) {  // side by side: none waits for another
      const int64_t i = first + k * kThreads;
      const ChunkGradSums chunk = i < clipping.num_chunks ? clipping.chunks[i] : ChunkGradSums{};
      sums[k] += added_to(sum, chunk);
      nonfinite |= chunk.nonfinite;
    }
  }
#pragma unroll
  for (int k = 0; k < kPartialSums / kThreads; ++k) {
    partial_sums[threadIdx.x + k * kThreads] = sums[k];
  }
  nonfinite = __syncthreads_or(nonfinite);
  const double squares = add_up(partial_sums, kPartialSums);
  if (threadIdx.x == 0) clipping.sums[sum] = {squares, nonfinite != 0 ? 1.0 : 0.0};
}

template <class param_t, int kBytes>
__global__ void __launch_bounds__(kThreads, 4)
    measure_grads_kernel(const __grid_constant__ Arguments<kBytes> arguments) {
  __shared__ double partial_sums[kPartialSums];
  __shared__ MeasuredChunk work;
  const Header& header = arguments.header;
  const PlanView& plan = header.plan;
  const Clipping& clipping = plan.clipping;
  if (blockIdx.x < header.num_chunks) {
    const int64_t index = header.first_chunk + blockIdx.x;
    if (threadIdx.x == 0) {
      const Chunk chunk = header.chunks[index];
      find_chunk(work, plan, chunk, arguments.grads()[chunk.tensor - header.first_tensor]);
    }
    __syncthreads();
    const Square<opmath_t<param_t>> square(header.grad_scale, clipping);
    const bool found = with_grad_type<param_t>(work.dtype, [&](auto grad) {
      return add_squares<decltype(grad)>(partial_sums, square, work.grad, work.layout, work.start,
                                         work.begin, work.count);
    });
    const int nonfinite = __syncthreads_or(found);
    const double squares = add_up(partial_sums, kPartialSums);
    if (threadIdx.x == 0) clipping.chunks[index] = {squares, nonfinite != 0, work.norm_sum};
  }

  if (!header.is_last_launch || !is_last_block(header.ticket, gridDim.x)) return;
#pragma unroll 1
  for (int32_t sum = 0; sum < clipping.num_sums; ++sum) add_up_chunks(partial_sums, clipping, sum);
  // The update would need registers for the root that some of its kernels do not have.
  if (threadIdx.x == 0) report_norm(clipping);
}

}  // namespace

int measure_grads(const Step& step, const std::vector<Launch>& launches, void* stream) {
  for (size_t i = 0; i < launches.size(); ++i) {
    const bool last = i + 1 == launches.size();
    const cudaError_t error = with_storage_types(launches[i].types, [&](auto param, auto) {
      return launch_range(step, launches[i], step.measured_chunks, launches[i].measured_chunks,
                          last, 0, static_cast<cudaStream_t>(stream), [](auto bytes) {
                            return measure_grads_kernel<decltype(param), decltype(bytes)::value>;
                          });
    });
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sgdr_fused::cuda
