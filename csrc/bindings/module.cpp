// The extension module: what Python calls.
// Not torch/extension.h: that has all of torch, and takes three times as long to compile.
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "bindings/step_call.h"

namespace sgdr_fused {
namespace {

namespace py = pybind11;

// (kind, mode, values, lengths, table, first_step, shift, scale), as Segment in
// sgdr_fused/schedules/_base.py.
CompiledSchedule compile_schedule(const py::list& from) {
  std::vector<Segment> segments;
  std::vector<int64_t> step_table;
  std::vector<double> value_table;
  for (const py::handle item : from) {
    const py::tuple fields = py::reinterpret_borrow<py::tuple>(item);
    Segment segment = {};
    segment.kind = static_cast<ScheduleKind>(fields[0].cast<int32_t>());
    segment.mode = fields[1].cast<int32_t>();
    const auto values = fields[2].cast<std::vector<double>>();
    const auto lengths = fields[3].cast<std::vector<int64_t>>();
    segment.first_step = fields[5].cast<int64_t>();
    segment.shift = fields[6].cast<int64_t>();
    segment.scale = fields[7].cast<double>();
    TORCH_CHECK(
        values.size() <= std::size(segment.values) && lengths.size() <= std::size(segment.lengths),
        "sgdr_fused: a segment has at most 4 values and 2 lengths");
    std::copy(values.begin(), values.end(), segment.values);
    std::copy(lengths.begin(), lengths.end(), segment.lengths);
    const auto append = [&segment](auto& to, const auto& entries) {
      segment.table = static_cast<int64_t>(to.size());
      segment.table_size = static_cast<int64_t>(entries.size());
      to.insert(to.end(), entries.begin(), entries.end());
    };
    if (segment.kind == ScheduleKind::kTable) {
      append(value_table, fields[4].cast<std::vector<double>>());
    } else {
      append(step_table, fields[4].cast<std::vector<int64_t>>());
    }
    segments.push_back(segment);
  }
  return CompiledSchedule(std::move(segments), std::move(step_table), std::move(value_table));
}

at::Tensor tensor_or_undefined(const py::handle& from) {
  return from.is_none() ? at::Tensor() : from.cast<at::Tensor>();
}

std::optional<at::Tensor> or_none(const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

// A float, a tensor or a CompiledSchedule.
HyperSpec hyper_spec(const py::handle& value) {
  HyperSpec hyper;
  py::detail::make_caster<at::Tensor> tensor;
  if (py::isinstance<CompiledSchedule>(value)) {
    hyper.schedule = value.cast<const CompiledSchedule*>();
  } else if (tensor.load(value, false)) {
    hyper.tensor = py::detail::cast_op<at::Tensor&>(tensor);
  } else {
    hyper.number = value.cast<double>();
  }
  return hyper;
}

// Per hyperparameter (value, display).
GroupSpec group_spec(const py::tuple& from) {
  GroupSpec group;
  for (const py::handle item : from[0].cast<py::list>()) {
    const py::tuple pair = py::reinterpret_borrow<py::tuple>(item);
    HyperSpec hyper = hyper_spec(pair[0]);
    hyper.display = tensor_or_undefined(pair[1]);
    group.hypers.push_back(hyper);
  }
  group.constants = from[1].cast<std::vector<double>>();
  return group;
}

// None, or (weight, is_mean, count).
AverageSpec average_spec(const std::optional<py::tuple>& from) {
  if (!from.has_value()) return {};
  return {hyper_spec((*from)[0]), (*from)[1].cast<bool>(), (*from)[2].cast<at::Tensor>()};
}

// (max_value, max_norm, raises, norm or None, skipped or None)
ClippingSpec clipping_spec(const py::tuple& from) {
  return {from[0].cast<double>(), from[1].cast<double>(), from[2].cast<bool>(),
          tensor_or_undefined(from[3]), tensor_or_undefined(from[4])};
}

// (param, group, active, grad or None, states, average or None, remainder or None, steps or None,
// product or None, index)
TensorSpec tensor_spec(const py::tuple& from) {
  TensorSpec spec;
  spec.param = from[0].cast<at::Tensor>();
  spec.place = &THPVariable_Unpack(py::object(from[0]).ptr());
  spec.group = from[1].cast<int32_t>();
  spec.active = from[2].cast<bool>();
  spec.grad = tensor_or_undefined(from[3]);
  spec.states = from[4].cast<std::vector<at::Tensor>>();
  spec.average = tensor_or_undefined(from[5]);
  spec.remainder = tensor_or_undefined(from[6]);
  spec.steps = tensor_or_undefined(from[7]);
  spec.product = tensor_or_undefined(from[8]);
  spec.index = from[9].cast<int32_t>();
  return spec;
}

std::unique_ptr<OptimizerPlan> make_plan(const std::string& algorithm, const std::string& backend,
                                         const at::Tensor& clock, const py::list& groups,
                                         const py::list& tensors, bool steps_are_state,
                                         const std::optional<py::tuple>& average,
                                         std::optional<uint64_t> rounding_seed,
                                         const py::tuple& clipping) {
  std::vector<GroupSpec> group_specs;
  for (const py::handle group : groups) {
    group_specs.push_back(group_spec(py::reinterpret_borrow<py::tuple>(group)));
  }
  std::vector<TensorSpec> tensor_specs;
  for (const py::handle tensor : tensors) {
    tensor_specs.push_back(tensor_spec(py::reinterpret_borrow<py::tuple>(tensor)));
  }
  return std::make_unique<OptimizerPlan>(
      algorithm, backend, clock, group_specs, std::move(tensor_specs), steps_are_state,
      average_spec(average), rounding_seed, clipping_spec(clipping));
}

// A Membership holds Python objects, which may hold the optimizer in turn: the collector is to see
// that, or none of them would ever be freed.
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
  py::class_<CompiledSchedule>(module, "CompiledSchedule")
      .def(py::init(&compile_schedule), py::arg("segments"))
      .def("__call__", &CompiledSchedule::operator(), py::arg("t"))
      .def("values", &CompiledSchedule::values, py::arg("n"));
  py::class_<OptimizerPlan>(module, "Plan")
      .def(py::init(&make_plan), py::arg("algorithm"), py::arg("backend"), py::arg("clock"),
           py::arg("groups"), py::arg("tensors"), py::arg("steps_are_state"), py::arg("average"),
           py::arg("rounding_seed"), py::arg("clipping"))
      .def("show", &OptimizerPlan::show)
      .def("set_number", &OptimizerPlan::set_number, py::arg("group"), py::arg("hyper"),
           py::arg("value"))
      .def_property_readonly("device", [](const OptimizerPlan& plan) { return plan.device(); })
      .def_property_readonly("grad_sums",
                             [](const OptimizerPlan& plan) { return or_none(plan.grad_sums()); })
      .def_property_readonly("param_sums",
                             [](const OptimizerPlan& plan) { return or_none(plan.param_sums()); })
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
