"""What torch does to a module between steps goes on working: moving, converting, swapping, deleting, copying, freeing.

Each operation is done after a step of torch's optimizer, which shows that it works, and after a step of ours; then both
step on and have to agree.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from cases import TYPICAL, Case, ids, params_of, values
from networks import model, switched, train
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once  # what a module is asked does not depend on where it is
STATEFUL = tuple(case for case in TYPICAL if case.id in ("sgd_nesterov", "adam_amsgrad"))
SCHEDULE = CosineWarmRestarts(0.05, T_0=3)


# ---- operations; each may return another model and optimizer


def _data_replaced(network: Any, opt: Any) -> None:
    for p in network.parameters():
        p.data = p.data * 2


def _data_exchanged(network: Any, opt: Any) -> None:
    """Code that evaluates with averages does this: parameters and copies change places."""
    for p in network.parameters():
        other = p.data * 1.5
        p.data, other = other, p.data


def _data_set(network: Any, opt: Any) -> None:
    for p in network.parameters():
        p.data.set_(values(p.shape, 7))


def _data_transposed(network: Any, opt: Any) -> None:
    for p in network.parameters():
        if p.dim() == 2:
            p.grad = None
            p.data = p.data.t().contiguous().t()


def _there_and_back(network: Any, opt: Any) -> None:
    network.float().double()


def _there_and_back_overwriting(network: Any, opt: Any) -> None:
    """New parameters take the places of the old, which the optimizer goes on with, as torch's does."""
    with switched(torch.__future__.set_overwrite_module_params_on_conversion):
        network.float().double()


def _there_and_back_swapping(network: Any, opt: Any) -> None:
    with switched(torch.__future__.set_swap_module_params_on_conversion):
        network.float().double()


def _loaded_swapping(network: Any, opt: Any) -> None:
    with switched(torch.__future__.set_swap_module_params_on_conversion):
        network.load_state_dict({key: value * 2 for key, value in network.state_dict().items()})


def _swapped(network: Any, opt: Any) -> None:
    for p in list(network.parameters()):
        p.grad = None
        torch.utils.swap_tensors(p, nn.Parameter(p.detach() * 1.5))


def _through_meta(network: Any, opt: Any) -> None:
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    network.to("meta")
    network.to_empty(device="cpu")
    network.load_state_dict(kept)


def _moved(network: Any, opt: Any) -> None:
    network.cpu().to(memory_format=torch.channels_last).to("cpu", non_blocking=True)


def _loaded(network: Any, opt: Any) -> None:
    network.load_state_dict({key: value * 2 for key, value in network.state_dict().items()})


def _loaded_by_assignment(network: Any, opt: Any) -> None:
    """The model has other parameters then, and the optimizer those that it had."""
    network.load_state_dict({key: value * 2 for key, value in network.state_dict().items()}, assign=True)


def _loaded_by_assignment_and_told(network: Any, opt: Any) -> None:
    _loaded_by_assignment(network, opt)
    opt.param_groups[0]["params"] = list(network.parameters())


def _parameter_deleted(network: Any, opt: Any) -> None:
    del network[0].bias
    network[0].register_parameter("bias", None)


def _layer_replaced(network: Any, opt: Any) -> None:
    network[2] = model()[2]
    opt.add_param_group({"params": network[2].parameters()})


def _layer_replaced_in_its_group(network: Any, opt: Any) -> None:
    old = set(network[2].parameters())
    network[2] = model()[2]
    group = opt.param_groups[0]
    group["params"] = [p for p in group["params"] if p not in old] + list(network[2].parameters())
    for p in old:
        del opt.state[p]


def _parameter_replaced_with_its_state(network: Any, opt: Any) -> None:
    """Code that prunes channels does this: a new parameter takes over the place and the state of another."""
    old, new = network[0].weight, nn.Parameter(values((5, 4), 9))
    opt.param_groups[0]["params"][0] = new
    opt.state[new] = opt.state.pop(old)
    network[0].weight = new


class _Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def _parametrized(network: Any, opt: Any) -> None:
    parametrize.register_parametrization(network[0], "weight", _Doubled())


def _parametrized_and_back(network: Any, opt: Any) -> None:
    _parametrized(network, opt)
    train(network, opt, [50])
    parametrize.remove_parametrizations(network[0], "weight")


def _weight_normalized(network: Any, opt: Any) -> None:
    """The direction is a new parameter over the memory of the old one, which stays in its group without a gradient."""
    parametrizations.weight_norm(network[0])
    known = set(params_of(opt))
    opt.add_param_group({"params": [p for p in network.parameters() if p not in known]})


def _pruned(network: Any, opt: Any) -> None:
    prune.l1_unstructured(network[0], "weight", amount=0.5)


def _pruned_for_good(network: Any, opt: Any) -> None:
    _pruned(network, opt)
    train(network, opt, [51])
    prune.remove(network[0], "weight")


def _copied(network: Any, opt: Any) -> Any:
    return copy.deepcopy((network, opt))


def _model_copied(network: Any, opt: Any) -> Any:
    copied = copy.deepcopy(network)
    other = copy.deepcopy(opt)
    for group, copied_group in zip(opt.param_groups, other.param_groups, strict=True):
        assert all(p is not q for p, q in zip(group["params"], copied_group["params"], strict=True))
    fresh = type(opt)(copied.parameters(), lr=0.01)
    fresh.load_state_dict(opt.state_dict())
    return copied, fresh


def _pickled(network: Any, opt: Any) -> Any:
    return pickle.loads(pickle.dumps((network, opt)))


def _saved(network: Any, opt: Any) -> Any:
    buffer = io.BytesIO()
    torch.save((network, opt), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def _shared(network: Any, opt: Any) -> None:
    network.share_memory()
    for state in opt.state.values():
        for value in state.values():
            value.share_memory_()


def _called_with_others(network: Any, opt: Any) -> None:
    torch.func.functional_call(network, {k: v * 2 for k, v in network.named_parameters()}, values((1, 4), 0))


def _frozen_and_thawed(network: Any, opt: Any) -> None:
    for p in network[0].parameters():
        p.requires_grad_(False)
        p.grad = None
    train(network, opt, [52, 53])
    network.requires_grad_(True)


def _averaged(network: Any, opt: Any) -> None:
    average = torch.optim.swa_utils.AveragedModel(network)
    average.update_parameters(network)
    train(network, opt, [54])
    average.update_parameters(network)
    for p, q in zip(network.parameters(), average.module.parameters(), strict=True):
        p.data.copy_(q)


def _gradients_kept(network: Any, opt: Any) -> None:
    network[0].weight.retain_grad()
    opt.zero_grad(set_to_none=False)


def _initialized_anew(network: Any, opt: Any) -> None:
    network.apply(lambda layer: nn.init.constant_(layer.weight, 0.3) if isinstance(layer, nn.Linear) else None)


def _from_vector(network: Any, opt: Any) -> None:
    vector = nn.utils.parameters_to_vector(network.parameters())
    nn.utils.vector_to_parameters(vector * 2, network.parameters())


OPERATIONS = [
    _data_replaced, _data_exchanged, _data_set, _data_transposed, _there_and_back, _there_and_back_overwriting,
    _there_and_back_swapping, _loaded_swapping, _swapped, _through_meta, _moved, _loaded, _loaded_by_assignment,
    _loaded_by_assignment_and_told, _parameter_deleted, _layer_replaced, _layer_replaced_in_its_group,
    _parameter_replaced_with_its_state, _parametrized, _parametrized_and_back, _weight_normalized, _pruned,
    _pruned_for_good, _copied, _model_copied, _pickled, _saved, _shared, _called_with_others, _frozen_and_thawed,
    _averaged, _gradients_kept, _initialized_anew, _from_vector,
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("case", ids(STATEFUL))
def test_operation_between_steps(case: Case, operation: Any) -> None:
    ends = []
    for make in (case.torch, case.fused):
        network: Any = model()
        opt: Any = make(network.parameters(), lr=0.05)
        train(network, opt, range(3))
        changed = operation(network, opt)
        network, opt = changed or (network, opt)
        train(network, opt, range(3, 6))
        ends.append([p.detach() for p in network.parameters()])
    theirs, ours = ends
    assert len(theirs) == len(ours)
    for p, q in zip(theirs, ours, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__.strip("_"))
def test_operation_under_a_schedule(operation: Any) -> None:
    """The rate goes on as if nothing had been done, and is on the parameters' device."""
    network: Any = model()
    opt: Any = FusedSGD(network.parameters(), lr=SCHEDULE, momentum=0.9)
    train(network, opt, range(3))
    network, opt = operation(network, opt) or (network, opt)
    train(network, opt, range(3, 5))
    taken = int(opt.clock)
    assert taken >= 5
    assert opt.param_groups[0]["lr"].device.type == "cpu"
    assert opt.param_groups[0]["lr"].item() == SCHEDULE(taken)
