// Tensors that stand for one which is shared out among processes: Python's DTensor.
#pragma once

#include <ATen/core/Tensor.h>

namespace sgdr_fused {

// The part of the tensor that is in this process, null where the tensor is not a shared one. It is
// that tensor's own, so it lives as long. Python's lock has to be held, as for the next.
const at::Tensor* local_part(const at::Tensor& tensor);

// Whether two shared tensors have their elements on the same processes.
bool placed_alike(const at::Tensor& a, const at::Tensor& b);

}  // namespace sgdr_fused
