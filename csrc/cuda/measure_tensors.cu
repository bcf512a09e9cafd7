// The norms of each parameter and of its direction on the GPU, launched before the update. No
// torch.
#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/arguments.cuh"
#include "cuda/lanes.cuh"
#include "cuda/measure_dense.cuh"
#include "cuda/work.cuh"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {
namespace {

template <class Algorithm, class param_t, class state_t>
__device__ void measure_chunk(const typename Algorithm::Scalars& scalars,
                              const volatile GradFactors<opmath_t<param_t>>& factors,
                              const Work& work, const Header& header, SquareLanes& lanes) {
  constexpr int kStates = Algorithm::kMeasuredStates;
  using Rule = typename Algorithm::template Rule<opmath_t<param_t>, kStates>;
#pragma unroll 1
  for (int i = threadIdx.x; i < kPairLanes; i += kThreads) {
    lanes.param[i] = lanes.direction[i] = 0.0;
  }
  __syncthreads();
  const Rule rule(scalars);
  const GradChanges changes = {header.grad_scale != nullptr, header.plan.clipping.is_on};
  if (work.tensor.layout < 0) {
    measure_dense<kStates, Rule, param_t, state_t>(rule, changes, factors, work.memory, work.count,
                                                   lanes);
  } else {
    measure_strided<kStates, Rule, param_t, state_t>(rule, changes, factors, work.tensor,
                                                     header.plan.layouts[work.tensor.layout],
                                                     work.grad, work.start, work.count, lanes);
  }
}

// The sums of a tensor's chunks, in every thread.
__device__ Squares add_chunks(const Squares* chunks, int64_t count, SquareLanes& lanes) {
  const int size = num_lanes(kPairLanes, count);
  for (int i = threadIdx.x; i < size; i += kThreads) {
    double of_param = 0.0, of_direction = 0.0;
    for (int64_t k = i; k < count; k += kPairLanes) {
      of_param += chunks[k].param;
      of_direction += chunks[k].direction;
    }
    lanes.param[i] = of_param;
    lanes.direction[i] = of_direction;
  }
  return {add_up(lanes.param, size), add_up(lanes.direction, size)};
}

// Each block measures a chunk, and the one that is last of a tensor adds up that tensor's.
template <class Algorithm, class param_t, class state_t, int kBytes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Algorithm, param_t>)
    measure_tensors_kernel(const __grid_constant__ Arguments<kBytes> arguments) {
  __shared__ typename Algorithm::Scalars scalars;
  __shared__ GradFactors<opmath_t<param_t>> factors;
  __shared__ Work work;
  __shared__ SquareLanes lanes;
  __shared__ bool measured;
  const Header& header = arguments.header;
  const Plan& plan = header.plan;

  if (skips(plan.clipping, header.found_inf) || blockIdx.x >= header.num_chunks) return;
  find_work<Algorithm, param_t, state_t>(work, header, arguments.numbers(), arguments.grads(),
                                         blockIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    measured = work.grad != nullptr && Algorithm::measures(work.constants);
    if (measured) {
      scalars = Algorithm::scalars(work.hypers, work.constants, work.stats);
      factors = grad_factors<opmath_t<param_t>>(header);
    }
  }
  __syncthreads();
  if (!measured) return;
  measure_chunk<Algorithm, param_t, state_t>(scalars, factors, work, header, lanes);
  const Squares squares = {add_up(lanes.param, kPairLanes), add_up(lanes.direction, kPairLanes)};
  const Measures& measures = plan.measures;
  Squares* chunks = measures.chunks + header.first_chunk + blockIdx.x - work.chunk.index;
  if (threadIdx.x == 0) chunks[work.chunk.index] = squares;

  const int64_t count = num_chunks(work.tensor);
  if (!is_last_block(measures.tickets + work.chunk.tensor, static_cast<uint32_t>(count))) return;
  const Squares sums = add_chunks(chunks, count, lanes);
  if (threadIdx.x == 0) measures.tensors[work.chunk.tensor] = sums;
}

template <class Algorithm>
cudaError_t launch_any(const Step& step, const Launch& range, cudaStream_t stream) {
  if constexpr (kMeasures<Algorithm>) {
    return with_storage_types(range.dtypes, [&](auto param, auto state) {
      using param_t = decltype(param);
      // States that are not looked at make no kernel of their own.
      using state_t = std::conditional_t<Algorithm::kMeasuredStates == 0, param_t, decltype(state)>;
      return launch_range(step, range, step.sums, range.sums, false, 0, stream, [](auto bytes) {
        return measure_tensors_kernel<Algorithm, param_t, state_t, decltype(bytes)::value>;
      });
    });
  } else {
    return cudaErrorInvalidValue;  // not reached: nobody asks
  }
}

template <class... Algorithms>
cudaError_t dispatch(AlgorithmList<Algorithms...>, int algorithm, const Step& step,
                     const Launch& range, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  int index = 0;
  ((index++ == algorithm ? void(error = launch_any<Algorithms>(step, range, stream)) : void()),
   ...);
  return error;
}

}  // namespace

int measure_tensors(int algorithm, const Step& step, const std::vector<Launch>& launches,
                    void* stream) {
  for (const Launch& range : launches) {
    const cudaError_t error =
        dispatch(AllAlgorithms{}, algorithm, step, range, static_cast<cudaStream_t>(stream));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sgdr_fused::cuda
