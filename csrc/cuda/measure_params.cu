// What is measured of each parameter on the GPU, before the update: the squares of its elements and
// of its direction. No torch.
#include <cuda_runtime.h>

#include <type_traits>

#include "cuda/arguments.cuh"
#include "cuda/measure_params_dense.cuh"
#include "cuda/partial_sums.cuh"
#include "cuda/work.cuh"
#include "step/clipping.h"
#include "step/fused_step.h"

namespace sgdr_fused::cuda {
namespace {

template <class Algorithm, class param_t, class state_t>
__device__ void measure_chunk(const typename Algorithm::Scalars& scalars,
                              const volatile GradFactors<opmath_t<param_t>>& factors,
                              const Work& work, const Header& header, SquareSums& partial_sums) {
  constexpr int kStates = Algorithm::kMeasuredStates;
  using Rule = typename Algorithm::template Rule<opmath_t<param_t>, kStates>;
#pragma unroll 1
  for (int i = threadIdx.x; i < kPairSums; i += kThreads) {
    partial_sums.param[i] = partial_sums.direction[i] = 0.0;
  }
  __syncthreads();
  const Rule rule(scalars);
  const GradChanges changes = grad_changes(header.plan.clipping, header.grad_scale);
  if (work.tensor.layout < 0) {
    measure_dense<kStates, Rule, param_t, state_t>(rule, changes, factors, work.operands,
                                                   work.count, partial_sums);
  } else {
    measure_strided<kStates, Rule, param_t, state_t>(
        rule, changes, factors, work.tensor, header.plan.layouts[work.tensor.layout], work.grad,
        work.start, work.count, partial_sums);
  }
}

// The sums of a tensor's chunks, in every thread.
__device__ Squares add_chunks(const Squares* chunks, int64_t count, SquareSums& partial_sums) {
  const int size = num_partial_sums(kPairSums, count);
  for (int i = threadIdx.x; i < size; i += kThreads) {
    double of_param = 0.0, of_direction = 0.0;
    for (int64_t k = i; k < count; k += kPairSums) {
      of_param += chunks[k].param;
      of_direction += chunks[k].direction;
    }
    partial_sums.param[i] = of_param;
    partial_sums.direction[i] = of_direction;
  }
  return {add_up(partial_sums.param, size), add_up(partial_sums.direction, size)};
}

// Each block measures a chunk, and the last one of a tensor adds up the chunks of that tensor.
template <class Algorithm, class param_t, class state_t, int kBytes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Algorithm, param_t>)
    measure_params_kernel(const __grid_constant__ Arguments<kBytes> arguments) {
  __shared__ typename Algorithm::Scalars scalars;
  __shared__ GradFactors<opmath_t<param_t>> factors;
  __shared__ Work work;
  __shared__ SquareSums partial_sums;
  __shared__ bool measured;
  const Header& header = arguments.header;
  const PlanView& plan = header.plan;

  if (skips(plan.clipping, header.found_inf) || blockIdx.x >= header.num_chunks) return;
  find_work<Algorithm, param_t, state_t>(work, header, arguments.numbers(), arguments.grads(),
                                         blockIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    measured = work.grad != nullptr && Algorithm::measures(work.constants);
    if (measured) {
      scalars = Algorithm::scalars(work.hypers, work.constants, work.stats);
      factors = grad_factors<opmath_t<param_t>>(plan.clipping, header.grad_scale);
    }
  }
  __syncthreads();
  if (!measured) return;
  measure_chunk<Algorithm, param_t, state_t>(scalars, factors, work, header, partial_sums);
  const Squares squares = {add_up(partial_sums.param, kPairSums),
                           add_up(partial_sums.direction, kPairSums)};
  const ParamNorms& norms = plan.param_norms;
  Squares* chunks = norms.chunks + header.first_chunk + blockIdx.x - work.chunk.index;
  if (threadIdx.x == 0) chunks[work.chunk.index] = squares;

  const int64_t count = num_chunks(work.tensor);
  if (!is_last_block(norms.tickets + work.chunk.tensor, static_cast<uint32_t>(count))) return;
  const Squares sums = add_chunks(chunks, count, partial_sums);
  if (threadIdx.x == 0) norms.tensors[work.chunk.tensor] = sums;
}

template <class Algorithm>
cudaError_t launch_any(const Step& step, const Launch& range, cudaStream_t stream) {
  if constexpr (kMeasures<Algorithm>) {
    return with_storage_types(range.types, [&](auto param, auto state) {
      using param_t = decltype(param);
      // States that are not looked at make no kernel of their own.
      using state_t = std::conditional_t<Algorithm::kMeasuredStates == 0, param_t, decltype(state)>;
      return launch_range(
          step, range, step.measured_chunks, range.measured_chunks, false, 0, stream,
          [](auto bytes) {
            return measure_params_kernel<Algorithm, param_t, state_t, decltype(bytes)::value>;
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

int measure_params(int algorithm, const Step& step, const std::vector<Launch>& launches,
                   void* stream) {
  for (const Launch& range : launches) {
    const cudaError_t error =
        dispatch(AllAlgorithms{}, algorithm, step, range, static_cast<cudaStream_t>(stream));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sgdr_fused::cuda
