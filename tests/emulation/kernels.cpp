// The project's kernels and their launcher, as they are, for a host compiler.
#include "cuda/fused_step.cu"
#include "cuda/measure_grads.cu"
#include "cuda/measure_params.cu"
