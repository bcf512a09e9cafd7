"""Parameters that change their type, and those that had no memory when the optimizer was made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits
from cases import TYPICAL, params_of, values
from networks import model, switched, train
from torch import nn

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once  # what a module is asked does not depend on where it is
STATEFUL = tuple(case for case in TYPICAL if case.id in ("sgd_nesterov", "adam_amsgrad"))
SCHEDULE = CosineWarmRestarts(0.05, T_0=3)


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
    with pytest.raises(TypeError, match=r"parameter 0 of group 0.*converted") as error:
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
    """``to_empty`` without swapping gives the model new parameters; those on meta get no gradient: no step fails."""
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
