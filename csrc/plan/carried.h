// What a parameter may carry beside its states.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <iterator>
#include <string>

#include "plan/tensor_memory.h"
#include "step/args.h"

namespace sgdr_fused {

struct CarriedEntry {
  const char* name;  // of Python's argument
  // Where the entry has an element for each of the parameter's: its place in Layout::strides. A
  // single number has kNoOperand.
  int operand;
  // A step may write the entry although the parameter has no gradient.
  bool is_written_anyway;
  // A user can reach the entry only where the plan says so, and nothing else ever writes it.
  bool may_be_hidden;
  // Gives a kernel the address.
  void (*hand_over)(const at::Tensor& from, Tensor& to);
};

constexpr int kNoOperand = -1;

// The one list of these entries: what Python hands over, the guards, the layout and the kernels'
// Tensor go by it. An entry that is added here needs a field of Tensor, and code that uses it.
inline constexpr CarriedEntry kCarried[] = {
    {"remainder", kRemainder, false, false,
     [](const at::Tensor& from, Tensor& to) {
       to.remainder = static_cast<int16_t*>(data_of(from));
     }},
    {"average", kAverage, true, false,
     [](const at::Tensor& from, Tensor& to) { to.average = data_of(from); }},
    {"steps", kNoOperand, false, true,
     [](const at::Tensor& from, Tensor& to) { to.steps = from.mutable_data_ptr<double>(); }},
    {"product", kNoOperand, false, false,
     [](const at::Tensor& from, Tensor& to) { to.product = from.mutable_data_ptr<double>(); }},
};

constexpr size_t kNumCarried = std::size(kCarried);

// A parameter's tensors in the order of kCarried; undefined: it does not carry that.
using CarriedTensors = std::array<at::Tensor, kNumCarried>;

inline size_t carried_named(const std::string& name) {
  for (size_t i = 0; i < kNumCarried; ++i) {
    if (name == kCarried[i].name) return i;
  }
  TORCH_CHECK_TYPE(false, "a parameter carries nothing that is named '", name, "'");
}

}  // namespace sgdr_fused
