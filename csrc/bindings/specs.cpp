// See specs.h.
#include "bindings/specs.h"

#include <torch/csrc/autograd/python_variable.h>

#include "plan/sharded.h"
#include "plan/specs.h"

namespace sgdr_fused {

namespace py = pybind11;

namespace {

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
  spec.place = &THPVariable_Unpack(param.ptr());
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
  return {max_value,
          max_norm,
          raises,
          norm.value_or(at::Tensor()),
          skipped.value_or(at::Tensor()),
          num_sums};
}

}  // namespace

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

}  // namespace sgdr_fused
