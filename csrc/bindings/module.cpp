// The extension module: what Python calls.
// Not torch/extension.h: that has all of torch, and takes three times as long to compile.
#include <torch/csrc/utils/pybind.h>

#include "bindings/specs.h"
#include "bindings/step_call.h"

namespace sgdr_fused {
namespace {

namespace py = pybind11;

std::optional<at::Tensor> or_none(const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

// A Membership holds Python objects, which may hold the optimizer in turn. Python's collector has
// to see them, or none of these objects would ever be freed.
Membership* membership_of(PyObject* self) {
  const auto held = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
  return held.holder_constructed() ? held.value_ptr<Membership>() : nullptr;
}

void let_gc_visit(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Membership* membership = membership_of(self);
    return membership == nullptr ? 0 : membership->visit(visit, arg);
  };
  type.tp_clear = [](PyObject* self) {
    if (Membership* membership = membership_of(self)) membership->clear();
    return 0;
  };
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Kernels of sgdr_fused; use the Python package.";
#if defined(SGDR_FUSED_WITH_CUDA)
  module.attr("has_cuda") = true;
#else
  module.attr("has_cuda") = false;
#endif
  bind_specs(module);
  py::class_<OptimizerPlan>(module, "Plan")
      .def(py::init<const std::string&, const std::string&, at::Tensor,
                    const std::vector<GroupSpec>&, std::vector<ParamSpec>, bool,
                    const std::optional<AverageSpec>&, std::optional<uint64_t>, ClippingSpec>(),
           py::kw_only(), py::arg("algorithm"), py::arg("backend"), py::arg("clock"),
           py::arg("groups"), py::arg("params"), py::arg("steps_are_state"), py::arg("average"),
           py::arg("rounding_seed"), py::arg("clipping"))
      .def("show", &OptimizerPlan::show)
      .def("set_number", &OptimizerPlan::set_number, py::arg("group"), py::arg("hyper"),
           py::arg("value"))
      .def_property_readonly("device", [](const OptimizerPlan& plan) { return plan.device(); })
      .def_property_readonly("grad_sums",
                             [](const OptimizerPlan& plan) { return or_none(plan.grad_sums()); })
      .def_property_readonly("param_sums",
                             [](const OptimizerPlan& plan) { return or_none(plan.param_sums()); })
      .def_property_readonly("order", &OptimizerPlan::order)
      .def_property_readonly("captured", &OptimizerPlan::captured);
  py::class_<Membership>(module, "Membership", py::custom_type_setup(&let_gc_visit))
      .def(py::init<const py::list&, const py::list&, const py::object&, const py::object&>(),
           py::arg("param_groups"), py::arg("aliases"), py::arg("changes"), py::arg("seen"))
      .def("unchanged", &Membership::unchanged, py::arg("param_groups"))
      .def_property_readonly("seen", &Membership::seen);
  module.def("step", &step, py::arg("membership"), py::arg("param_groups"), py::arg("plans"),
             py::arg("grad_scales"), py::arg("found_infs"), py::arg("pending"));
  module.def("measure_grads", &measure_grads, py::arg("membership"), py::arg("param_groups"),
             py::arg("plans"), py::arg("grad_scales"), py::arg("found_infs"));
  module.def("measure_params", &measure_params, py::arg("membership"), py::arg("param_groups"),
             py::arg("plans"), py::arg("grad_scales"), py::arg("found_infs"));
  module.def("update", &update, py::arg("membership"), py::arg("param_groups"), py::arg("plans"),
             py::arg("grad_scales"), py::arg("found_infs"), py::arg("pending"));
  module.def("memory_fault", &memory_fault, py::arg("tensor"));
  module.def("instruction_sets", &cpu::instruction_sets);
  module.def("use_instruction_set", &cpu::use_instruction_set, py::arg("name"));
}

}  // namespace sgdr_fused
