"""What torch does to a module between steps goes on working: moving, converting, swapping, deleting, copying, freeing.

Each operation is done after a step of torch's optimizer, which shows that it works, and after a step of ours; then both
step on and have to agree.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import multiprocessing
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from bits import bits
from cases import TYPICAL, Case, ids, params_of, values
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once  # what a module is asked does not depend on where it is
STATEFUL = tuple(case for case in TYPICAL if case.id in ("sgd_nesterov", "adam_amsgrad"))
SCHEDULE = CosineWarmRestarts(0.05, T_0=3)


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for i, param in enumerate(made.parameters()):
        param.data = values(param.shape, i)
    return made


def train(network: nn.Module, opt: Any, steps: Iterable[int]) -> None:
    dtype = next(network.parameters()).dtype
    for t in steps:
        opt.zero_grad()
        network(values((6, 4), 100 + t, dtype)).square().sum().backward()
        opt.step()


# ---- operations; each may return another model and optimizer


def _data_replaced(network: Any, opt: Any) -> None:
    for p in network.parameters():
        p.data = p.data * 2


def _data_exchanged(network: Any, opt: Any) -> None:
    """As of those that evaluate with averages: parameters and copies change places."""
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
    """As of those that prune channels: a new parameter takes over the place and the state of another."""
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


@contextlib.contextmanager
def switched(switch: Callable[[bool], None]) -> Iterator[None]:
    """One of torch.__future__'s."""
    switch(True)
    try:
        yield
    finally:
        switch(False)


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


# ---- what cannot go on, and says so


def _float_to_double(network: Any) -> None:
    network.double()


def _double_by_data(network: Any) -> None:
    for p in network.parameters():
        p.grad = None
        p.data = p.data.double()


@pytest.mark.parametrize("convert", [_float_to_double, _double_by_data], ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("make", [FusedSGD, FusedAdam])
def test_converted_after_its_state_was_made(make: Any, convert: Any) -> None:
    network = model().float()
    opt = make(network.parameters(), lr=SCHEDULE, **({"momentum": 0.9} if make is FusedSGD else {}))
    train(network, opt, range(2))
    convert(network)
    network(values((6, 4), 0)).sum().backward()
    before = [bits(p) for p in params_of(opt)], bits(opt.clock)
    with pytest.raises(TypeError, match="parameter 0 of group 0.*converted") as error:
        opt.step()
    assert "float64" in str(error.value)
    assert "float32" in str(error.value)
    assert before == ([bits(p) for p in params_of(opt)], bits(opt.clock))
    opt.state.clear()  # one way on
    opt.step()
    assert all(
        state["momentum_buffer" if make is FusedSGD else "exp_avg"].dtype == torch.float64
        for state in opt.state.values()
    )


@pytest.mark.parametrize("make", [FusedSGD, FusedAdam])
def test_converted_before_any_state(make: Any) -> None:
    network = model().float()
    opt = make(network.parameters(), lr=0.05)
    train(network.double(), opt, range(2))
    assert all(p.dtype == torch.float64 for p in params_of(opt))


# ---- parameters on meta when the optimizer was made


def _filled(network: nn.Module) -> None:
    for i, p in enumerate(network.parameters()):
        p.data.copy_(values(p.shape, i))


def _emptied_swapping(network: nn.Module, opt: Any) -> None:
    with switched(torch.__future__.set_swap_module_params_on_conversion):
        network.to_empty(device="cpu")
    _filled(network)


def _swapped_one_by_one(network: nn.Module, opt: Any) -> None:
    for p in list(network.parameters()):
        torch.utils.swap_tensors(p, nn.Parameter(torch.empty(p.shape, dtype=p.dtype)))
    _filled(network)


def _assigned(network: nn.Module, opt: Any) -> None:
    network.load_state_dict(model().state_dict(), assign=True)
    opt.param_groups[0]["params"] = list(network.parameters())


def _assigned_in_place(network: nn.Module, opt: Any) -> None:
    network.load_state_dict(model().state_dict(), assign=True)
    opt.param_groups[0]["params"][:] = network.parameters()


@pytest.mark.parametrize(
    "materialize",
    [_emptied_swapping, _swapped_one_by_one, _assigned, _assigned_in_place],
    ids=lambda f: f.__name__.strip("_"),
)
@pytest.mark.parametrize("make", [FusedSGD, FusedAdam])
def test_made_on_meta(make: Any, materialize: Any) -> None:
    """The displayed rate follows the parameters to their device, also before the first step."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    other = model()
    opt, plain = make(network.parameters(), lr=SCHEDULE), make(other.parameters(), lr=SCHEDULE)
    assert opt.get_last_lr() == [SCHEDULE(0)]
    materialize(network, opt)
    train(network, opt, range(4))
    train(other, plain, range(4))
    assert [bits(p) for p in network.parameters()] == [bits(p) for p in other.parameters()]
    assert opt.param_groups[0]["lr"].device.type == opt.clock.device.type == "cpu"
    assert opt.param_groups[0]["lr"].item() == SCHEDULE(4)
    assert opt.get_last_lr() == [SCHEDULE(4)]


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_left_on_meta(make: Any) -> None:
    """``to_empty`` without swapping gives the model new parameters; those on meta get no gradient, and no step fails."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    opt = make(network.parameters(), lr=0.1)
    network.to_empty(device="cpu")
    _filled(network)
    train(network, opt, range(2))
    assert all(p.is_meta for p in params_of(opt))
    assert [bits(p) for p in network.parameters()] == [bits(p) for p in model().parameters()]


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_no_overlap_on_meta(make: Any) -> None:
    """Nothing has an address there, so two parameters cannot share memory. A step does nothing, as torch's."""
    params = [nn.Parameter(torch.empty(3, device="meta")) for _ in range(2)]
    opt = make(params, lr=0.1)
    for p in params:
        p.grad = torch.empty_like(p)
    opt.step()
    opt.step()


# ---- what is freed


def _plain(network: Any, opt: Any) -> None:
    pass


def _gradient_hook(network: Any, opt: Any) -> None:
    for p in network.parameters():
        p.register_hook(lambda grad: opt and None)


def _attribute(network: Any, opt: Any) -> None:
    for p in network.parameters():
        p.optimizer = opt
    network.optimizer = opt


def _step_hook(network: Any, opt: Any) -> None:
    opt.register_step_post_hook(lambda *_: opt and network and None)


def _forward_hook(network: Any, opt: Any) -> None:
    network.register_forward_hook(lambda *_: opt and None)


CYCLES = [_plain, _gradient_hook, _attribute, _step_hook, _forward_hook]


@pytest.mark.parametrize("tie", CYCLES, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_all_is_freed(make: Any, tie: Any) -> None:
    """Parameters, gradients, states and the optimizer, whatever refers to what; without a cycle at once."""
    network = model()
    opt = make(network.parameters(), lr=SCHEDULE if make is FusedSGD else 0.1, momentum=0.9)
    tie(network, opt)
    train(network, opt, range(3))
    held = [*network.parameters(), *(p.grad for p in network.parameters()), opt]
    held += [state["momentum_buffer"] for state in opt.state.values()]
    watched = [weakref.ref(each) for each in held]
    gc.disable()
    try:
        del network, opt, held
        if tie is not _plain:
            gc.collect()
        assert [each() for each in watched if each() is not None] == []
    finally:
        gc.enable()
        gc.collect()


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_what_was_taken_out_is_freed_at_once(make: Any) -> None:
    """Not at the next step, which may not come, or come when memory has run out."""
    network = model()
    opt = make(network.parameters(), lr=SCHEDULE if make is FusedSGD else 0.1, momentum=0.9)
    train(network, opt, range(3))
    bias = network[2].bias
    watched = [weakref.ref(bias), weakref.ref(opt.state[bias]["momentum_buffer"])]
    opt.param_groups[0]["params"] = [p for p in opt.param_groups[0]["params"] if p is not bias]
    del opt.state[bias]
    network[2].bias = None
    del bias
    watched += [weakref.ref(p.grad) for p in network.parameters()]
    opt.zero_grad()
    watched += [weakref.ref(state["momentum_buffer"]) for state in opt.state.values()]
    opt.state.clear()
    assert [each() for each in watched if each() is not None] == []


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_replaced_data_is_freed_at_once(make: Any) -> None:
    from torch.multiprocessing.reductions import StorageWeakRef

    network = model()
    opt = make(network.parameters(), lr=SCHEDULE if make is FusedSGD else 0.1, momentum=0.9)
    train(network, opt, range(3))
    network.zero_grad()
    watched = [StorageWeakRef(p.untyped_storage()) for p in network.parameters()]
    for p in network.parameters():
        p.data = torch.zeros_like(p)
    assert [each for each in watched if not each.expired()] == []


# ---- processes


def _trained(queue: Any, network: nn.Module, opt: Any) -> None:
    torch.set_num_threads(1)
    train(network, opt, range(3, 6))
    queue.put([p.detach().numpy() for p in network.parameters()])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_goes_on_in_another_process(method: str) -> None:
    """Forked after steps, or pickled for a process of its own."""
    network = model()
    opt = FusedSGD(network.parameters(), lr=SCHEDULE, momentum=0.9)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # no pool of threads, which a fork does not copy
    try:
        train(network, opt, range(3))
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=_trained, args=(queue, network, opt))
        process.start()
        found = queue.get(timeout=120)
        process.join()
    finally:
        torch.set_num_threads(threads)
    if method == "fork":
        assert int(opt.clock) == 3  # the process had its own
    else:
        network, opt = copy.deepcopy((network, opt)) if int(opt.clock) == 3 else (network, opt)
    other = model()
    plain = FusedSGD(other.parameters(), lr=SCHEDULE, momentum=0.9)
    train(other, plain, range(6))
    assert [bits(torch.from_numpy(p)) for p in found] == [bits(p) for p in other.parameters()]
