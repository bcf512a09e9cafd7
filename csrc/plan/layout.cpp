// Describes how the operands of a tensor lie in memory; see plan.h.
#include <algorithm>

#include "plan/plan.h"

namespace sgdr_fused {

// Puts the dimensions in the memory order of the parameter, and merges neighbours where every
// operand allows it. Returns -1 where one dimension of stride 1 is left: then a kernel needs no
// layout.
int32_t OptimizerPlan::add_layout(const ParamSpec& spec) {
  const at::Tensor& param = spec.memory;
  std::vector<at::Tensor> operands(kFirstState, param);
  for (size_t i = 0; i < kNumCarried; ++i) {
    const int operand = kCarried[i].operand;
    if (operand != kNoOperand && spec.carried[i].defined()) operands[operand] = spec.carried[i];
  }
  if (spec.grad.defined()) operands[kGrad] = spec.grad;
  operands.insert(operands.end(), spec.states.begin(), spec.states.end());
  std::vector<int64_t> order;
  for (int64_t dim = 0; dim < param.dim(); ++dim) {
    if (param.size(dim) != 1) order.push_back(dim);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return param.stride(a) > param.stride(b); });

  std::vector<int64_t> sizes;
  std::vector<std::vector<int64_t>> strides;  // per dimension, per operand
  for (const int64_t dim : order) {
    std::vector<int64_t> dim_strides;
    for (const at::Tensor& operand : operands) dim_strides.push_back(operand.stride(dim));
    const int64_t size = param.size(dim);
    bool merges = !sizes.empty();
    for (size_t k = 0; merges && k < operands.size(); ++k) {
      merges = strides.back()[k] == dim_strides[k] * size;
    }
    if (merges) {
      sizes.back() *= size;
      strides.back() = dim_strides;
    } else {
      sizes.push_back(size);
      strides.push_back(dim_strides);
    }
  }
  const auto all_ones = [](const std::vector<int64_t>& s) {
    return std::all_of(s.begin(), s.end(), [](int64_t stride) { return stride == 1; });
  };
  if (sizes.empty() || param.numel() == 0 || (sizes.size() == 1 && all_ones(strides[0]))) {
    return -1;
  }
  TORCH_CHECK_VALUE(sizes.size() <= kMaxDims, "sgdr_fused: parameter of shape ", param.sizes(),
                    " with strides ", param.strides(), " and its gradient or state have more than ",
                    kMaxDims, " dimensions in different orders; make them contiguous");
  Layout layout = {};
  layout.dims = static_cast<int32_t>(sizes.size());
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    layout.sizes[dim] = sizes[dim];
    for (size_t k = 0; k < operands.size(); ++k) layout.strides[k][dim] = strides[dim][k];
  }
  layouts_.push_back(layout);
  return static_cast<int32_t>(layouts_.size()) - 1;
}

}  // namespace sgdr_fused
