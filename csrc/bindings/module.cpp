// The extension module: the structs that Python makes a plan from, under the names of their fields,
// and what it calls.
// Not torch/extension.h: that has all of torch, and takes three times as long to compile.
#include <torch/csrc/utils/pybind.h>

#include "bindings/membership.h"
#include "bindings/python_tensors.h"
#include "bindings/step_call.h"
#include "plan/sharded.h"
#include "plan/specs.h"

namespace sgdr_fused {
namespace {

namespace py = pybind11;

using OptionalTensor = std::optional<at::Tensor>;

SegmentSpec make_segment(std::string kind, std::string mode, std::vector<double> values,
                         std::vector<int64_t> lengths, const py::object& table, int64_t first_step,
                         int64_t shift, double scale) {
  SegmentSpec segment = {std::move(kind),
                         std::move(mode),
                         std::move(values),
                         std::move(lengths),
                         {},
                         {},
                         first_step,
                         shift,
                         scale};
  if (segment.kind == "table") {
    segment.value_table = table.cast<std::vector<double>>();
  } else {
    segment.step_table = table.cast<std::vector<int64_t>>();
  }
  return segment;
}

// `value` is a float, a tensor or a CompiledSchedule.
HyperSpec make_hyper(const py::object& value, const OptionalTensor& display) {
  HyperSpec hyper;
  hyper.display = display.value_or(at::Tensor());
  py::detail::make_caster<at::Tensor> tensor;
  if (py::isinstance<CompiledSchedule>(value)) {
    hyper.schedule = value.cast<std::shared_ptr<CompiledSchedule>>();
  } else if (tensor.load(value, false)) {
    hyper.tensor = py::detail::cast_op<at::Tensor&>(tensor);
  } else {
    hyper.number = value.cast<double>();
  }
  return hyper;
}

// `carried` has what the parameter carries beside its states: the names of kCarried.
ParamSpec make_param(const py::object& param, const at::Tensor& memory, const OptionalTensor& grad,
                     std::vector<at::Tensor> states, int32_t group, int32_t index, bool active,
                     int32_t norm_sum, const py::kwargs& carried) {
  ParamSpec spec;
  spec.param = param.cast<at::Tensor>();
  spec.place = place_of(param.ptr());
  spec.memory = memory;
  spec.grad = grad.value_or(at::Tensor());
  spec.states = std::move(states);
  spec.group = group;
  spec.index = index;
  spec.active = active;
  spec.norm_sum = norm_sum;
  spec.sharded = local_part(spec.param) != nullptr;
  for (const auto& [name, tensor] : carried) {
    const size_t entry = carried_named(name.cast<std::string>());
    if (!tensor.is_none()) spec.carried[entry] = tensor.cast<at::Tensor>();
  }
  return spec;
}

AverageSpec make_average(HyperSpec weight, bool is_mean, const at::Tensor& count) {
  return {std::move(weight), is_mean, count};
}

ClippingSpec make_clipping(double max_value, double max_norm, bool raises,
                           const OptionalTensor& norm, const OptionalTensor& skipped,
                           int32_t num_sums) {
  return {max_value, max_norm, raises, norm.value_or(at::Tensor()), skipped.value_or(at::Tensor()),
          num_sums};
}

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

void bind_specs(py::module_& module) {
  py::class_<SegmentSpec>(module, "Segment")
      .def(py::init(&make_segment), py::kw_only(), py::arg("kind"), py::arg("mode"),
           py::arg("values"), py::arg("lengths"), py::arg("table"), py::arg("first_step"),
           py::arg("shift"), py::arg("scale"));
  py::class_<CompiledSchedule, std::shared_ptr<CompiledSchedule>>(module, "CompiledSchedule")
      .def(py::init<const std::vector<SegmentSpec>&>(), py::arg("segments"))
      .def("__call__", &CompiledSchedule::operator(), py::arg("t"))
      .def("values", &CompiledSchedule::values, py::arg("n"));
  py::class_<HyperSpec>(module, "Hyper")
      .def(py::init(&make_hyper), py::arg("value"), py::arg("display") = py::none());
  py::class_<GroupSpec>(module, "Group")
      .def(py::init<std::vector<HyperSpec>, std::vector<double>>(), py::kw_only(),
           py::arg("hypers"), py::arg("constants"));
  py::class_<ParamSpec>(module, "Param")
      .def(py::init(&make_param), py::kw_only(), py::arg("param"), py::arg("memory"),
           py::arg("grad"), py::arg("states"), py::arg("group"), py::arg("index"),
           py::arg("active"), py::arg("norm_sum") = 0);
  py::class_<AverageSpec>(module, "Average")
      .def(py::init(&make_average), py::kw_only(), py::arg("weight"), py::arg("is_mean"),
           py::arg("count"));
  py::class_<ClippingSpec>(module, "Clipping")
      .def(py::init(&make_clipping), py::kw_only(), py::arg("max_value"), py::arg("max_norm"),
           py::arg("raises"), py::arg("norm"), py::arg("skipped"), py::arg("num_sums") = 1);
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
