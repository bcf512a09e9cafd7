"""All memory that a step uses is looked at before the step: what is no longer as it was is honoured or refused.

Each edit goes to one optimizer; a twin gets the same numbers by assignments that nothing has to be noticed for.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    DEVICE,
    PRETEND,
    SCHEDULES,
    TYPICAL,
    Case,
    expected_backend,
    gradient,
    ids,
    make_params,
    params_of,
    train,
)

from sgdr_fused import EMA, FusedAdam, FusedSGD

REFUSED = (ValueError, TypeError, RuntimeError)
pytestmark = [
    pytest.mark.skipif(
        expected_backend() == "reference",
        reason="the reference steps by torch's operations, which do not look whether memory is there",
    ),
    pytest.mark.untracked,
]
on_the_cpu = pytest.mark.skipif(DEVICE.type != "cpu", reason="moves the CPU's storages")

# What a step reads or writes, and a user can reach.
REACHED: dict[str, Callable[[Any], torch.Tensor]] = {
    "display": lambda opt: opt.param_groups[0]["lr"],
    "clock": lambda opt: opt.clock,
    "n_averaged": lambda opt: opt.n_averaged,
    "grad_norm": lambda opt: opt.grad_norm,
    "skipped_steps": lambda opt: opt.skipped_steps,
    "parameter": lambda opt: params_of(opt)[0],
    "gradient": lambda opt: params_of(opt)[0].grad,
    "exp_avg": lambda opt: opt.state[params_of(opt)[0]]["exp_avg"],
    "step": lambda opt: opt.state[params_of(opt)[0]]["step"],
    "average": lambda opt: opt.state[params_of(opt)[0]]["average"],
    "tensor_rate": lambda opt: opt.param_groups[1]["lr"],
    "tensor_decay": lambda opt: opt.param_groups[1]["weight_decay"],
}


def everything() -> Any:
    """An optimizer that has all of these, two steps on."""
    rate, decay = (torch.tensor(value, dtype=torch.float64, device=DEVICE) for value in (0.05, 0.01))
    groups = [
        {"params": make_params((5, 33))},
        {"params": make_params((7,), seed=1), "lr": rate, "weight_decay": decay},
    ]
    opt = FusedAdam(groups, lr=SCHEDULES[0], average=EMA(0.5), max_grad_norm=1e9, skip_nonfinite=True)
    train(opt, range(2))
    return opt


def values_of(opt: Any) -> list[bytes]:
    return [
        *(bits(tensor) for param in params_of(opt) for tensor in (param, *opt.state[param].values())),
        *(bits(torch.as_tensor(REACHED[name](opt))) for name in ("display", "clock", "n_averaged", "grad_norm")),
    ]


def move_storage(tensor: torch.Tensor) -> None:
    tensor.untyped_storage().share_memory_()


def shrink_storage(tensor: torch.Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def poison_freed_memory() -> None:
    """What was freed is likely to be handed out here, and changed."""
    torch.stack([torch.full((33,), 1e30) for _ in range(50)])


@on_the_cpu
@pytest.mark.parametrize("name", REACHED)
def test_storage_that_moves(name: str) -> None:
    """A torch.multiprocessing queue does this with what is put on it: the same numbers are elsewhere afterwards."""
    opt, twin = everything(), everything()
    with torch._C.DisableTorchFunctionSubclass():
        move_storage(REACHED[name](opt))
    poison_freed_memory()
    for each in (opt, twin):
        for t in range(2, 5):
            if t == 2:
                for i, param in enumerate(params_of(each)):  # in place: at the addresses that were moved
                    param.grad.copy_(gradient(param, t, i))
                each.step()
            else:
                train(each, [t])
    assert values_of(opt) == values_of(twin)


@on_the_cpu
@pytest.mark.parametrize("name", REACHED)
def test_storage_that_shrinks(name: str) -> None:
    """No step reads or writes what is not there; and nothing else is changed."""
    opt = everything()
    others = [p for p in params_of(opt)[1:] if p is not REACHED[name](opt)]
    before = [bits(p) for p in others]
    with torch._C.DisableTorchFunctionSubclass():
        shrink_storage(REACHED[name](opt))
    with pytest.raises(REFUSED):
        opt.step()
    assert [bits(p) for p in others] == before


def _data(new: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], None]:
    def replace(tensor: torch.Tensor) -> None:
        tensor.data = new(tensor.data)

    return replace


# From a tensor to the same tensor, of which something that the step relies on is another.
EDITS: dict[str, Callable[[torch.Tensor], None]] = {
    "dtype": _data(lambda data: data.view(torch.int64 if data.element_size() == 8 else torch.int32)),
    "shape": _data(lambda data: data.view(1, -1)),
    "no_elements": _data(lambda data: data.reshape(-1)[:0]),
    "fewer_elements": _data(lambda data: data.reshape(-1)[: data.numel() // 2]),
    "meta": _data(lambda data: data.to("meta")),
    "set": lambda tensor: tensor.detach().set_(torch.ones(3, device=tensor.device, dtype=tensor.dtype)),
}


@on_the_cpu
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", REACHED)
def test_edits_are_honoured_or_refused(name: str, edit: str) -> None:
    """Whatever the step does, it stays within the memory that the tensors have now."""
    opt = everything()
    tensor = REACHED[name](opt)
    try:
        with torch._C.DisableTorchFunctionSubclass():
            EDITS[edit](tensor)
    except (RuntimeError, TypeError):
        pytest.skip("torch itself refuses that")
    memory = torch.full((64,), 3.0)  # beside it
    for _ in range(2):
        with contextlib.suppress(*REFUSED):
            opt.step()
    assert bool((memory == 3).all())


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_shape_at_the_same_address(case: Case) -> None:
    """Its states would no longer have its shape: refused, and honoured once it is back."""
    opt, twin = (case.fused(make_params((6, 4)), lr=0.1) for _ in range(2))
    for each in (opt, twin):
        train(each, range(2))
    param = params_of(opt)[0]
    data = param.data
    param.data = data.view(2, 3)
    param.grad = torch.ones_like(param)
    before = bits(param)
    if opt.state[param]:
        with pytest.raises(ValueError, match="shape"):
            opt.step()
        assert bits(param) == before
    param.data = data
    for each in (opt, twin):
        train(each, [2])
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(twin)]


def test_clock_replaced_at_another_address() -> None:
    opt = FusedSGD(make_params((5,)), lr=SCHEDULES[0])
    train(opt, range(2))
    opt.clock.data = torch.tensor(100, device=DEVICE)
    train(opt, [2])
    assert opt.clock.item() == 101


# ---- gradients that are no plain memory


def _lazily_negated(grad: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-grad)


def _lazily_conjugated(grad: torch.Tensor) -> torch.Tensor:
    return torch.complex(torch.zeros_like(grad), -grad).conj().imag


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("form", [_lazily_negated, _lazily_conjugated])
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_gradient_that_is_negated_when_it_is_read(case: Case, form: Any, steps: int) -> None:
    """Never with the sign that its memory has: honoured or refused."""
    if PRETEND and form is _lazily_conjugated:
        pytest.skip("torch's kernels of complex numbers are not there on a pretended GPU")
    opt, twin = (case.fused(make_params((6,)), lr=0.1) for _ in range(2))
    for each in (opt, twin):
        train(each, range(steps))
    (param,), (other,) = params_of(opt), params_of(twin)
    other.grad = gradient(other, steps, 0)
    param.grad = form(gradient(param, steps, 0))
    before = bits(param)
    try:
        opt.step()
    except REFUSED:
        assert bits(param) == before
    else:
        twin.step()
        assert bits(param) == bits(other)


def test_gradient_without_memory() -> None:
    opt = FusedSGD(make_params((6,)), lr=0.1)
    train(opt, range(2))
    (param,) = params_of(opt)
    before = bits(param)
    param.grad = torch._efficientzerotensor((6,), device=param.device)
    with contextlib.suppress(*REFUSED):
        opt.step()
    assert bits(param) == before


def test_memory_that_is_shared_until_it_is_written() -> None:
    """A lazy clone keeps its numbers."""
    opt = FusedAdam(make_params((6,)), lr=0.1)
    train(opt, range(2))
    (param,) = params_of(opt)
    clones = [torch._lazy_clone(t.detach()) for t in (param, opt.state[param]["exp_avg"])]
    copies = [bits(clone.clone()) for clone in clones]
    train(opt, [2])
    assert [bits(clone) for clone in clones] == copies


# ---- what GradScaler hands over


@pytest.mark.parametrize("value", [torch.ones(0), torch.ones(2), torch.ones(1).expand(3)])
@pytest.mark.parametrize("name", ["grad_scale", "found_inf"])
def test_scale_of_a_wrong_size(name: str, value: torch.Tensor) -> None:
    opt = FusedSGD(make_params((6,)), lr=0.1)
    train(opt, range(2))
    before = bits(params_of(opt)[0])
    setattr(opt, name, value.to(DEVICE))
    with pytest.raises(REFUSED, match=name):
        opt.step()
    assert bits(params_of(opt)[0]) == before


@pytest.mark.parametrize("flag", [0, 0.0, False])
def test_found_inf_is_a_number(flag: Any) -> None:
    """sum([]) where no parameter had a gradient."""
    opt = FusedSGD(make_params((6,)), lr=0.1)
    train(opt, range(2))
    for param in params_of(opt):
        param.grad = None
    opt.found_inf = flag
    opt.step()
    assert opt.clock.item() == 3
    opt.found_inf = 1
    opt.step()
    assert opt.clock.item() == 3


# ---- what an optimizer holds


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_parameters_can_be_swapped(case: Case) -> None:
    """Nothing of ours counts as a user of the tensor; the swapped parameter gets the next step."""
    opt, twin = (case.fused(make_params((6, 4)), lr=0.1) for _ in range(2))
    for each in (opt, twin):
        train(each, range(2))
    for param, other in zip(params_of(opt), params_of(twin), strict=True):
        new = torch.nn.Parameter(param.detach() * 2)
        param.grad = None
        torch.utils.swap_tensors(param, new)
        del new
        with torch.no_grad():
            other.mul_(2)
    poison_freed_memory()
    for each in (opt, twin):
        train(each, range(2, 4))
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(twin)]


def test_conversion_by_swapping() -> None:
    model = torch.nn.Linear(3, 2).to(DEVICE)
    opt = FusedSGD(model.parameters(), lr=0.1)
    train(opt, range(2))
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.zero_grad()
        model.to(torch.float64)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    train(opt, range(2))
    assert model.weight.dtype == torch.float64


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_model_whose_hooks_hold_the_optimizer_is_freed(case: Case) -> None:
    """Parameter -> hook -> optimizer -> parameter is a circle that only the collector can free.

    With register_post_accumulate_grad_hook torch.optim's are not freed either: torch keeps the collector from it.
    """
    model = torch.nn.Linear(3, 2).to(DEVICE)
    opt = case.fused(model.parameters(), lr=SCHEDULES[0])
    train(opt, range(2))
    for param in model.parameters():
        param.register_hook(lambda g, opt=opt: None)
    gone = [weakref.ref(model.weight), weakref.ref(opt)]
    del model, param, opt
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_parameter_that_is_taken_out_is_freed(case: Case) -> None:
    """At once, as with torch.optim: not at the next step."""
    opt = case.fused([{"params": make_params((6, 4))}, {"params": make_params((5,), seed=1)}], lr=0.1)
    train(opt, range(2))
    first, last = params_of(opt)[0], params_of(opt)[-1]
    gone = [weakref.ref(first), weakref.ref(last)]
    for param in (first, last):
        opt.state.pop(param, None)
    opt.param_groups[0]["params"].pop(0)
    del opt.param_groups[1]
    del first, last, param
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    for _ in range(3):
        make_params((6, 5))  # where those were, perhaps
        train(opt, [2])
