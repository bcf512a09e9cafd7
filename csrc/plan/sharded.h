// Tensors that stand for one which is shared out among processes: Python's DTensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace sgdr_fused {

// The part of the tensor that is in this process, null where the tensor is not a shared one. It is
// that tensor's own, so it lives as long. Python's lock has to be held, as for the next.
const at::Tensor* local_part(const at::Tensor& tensor);

// What says on which processes a shared tensor has its elements: an object of Python, or none.
using Placement = std::shared_ptr<void>;

// Whether a shared tensor has its elements on the same processes as another one. To compare two
// placements takes long, so `known` becomes the first one for which it was found, if it is none.
// FSDP2 and autograd give a gradient the same object in each step.
bool placed_like(const at::Tensor& tensor, const at::Tensor& other, Placement& known);

}  // namespace sgdr_fused
