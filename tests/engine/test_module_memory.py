"""An optimizer keeps nothing of a model alive that torch's would not; both go to other processes."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import weakref
from typing import Any

import pytest
import torch
from bits import bits
from cases import TYPICAL
from networks import model, train
from torch import nn

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once  # what a module is asked does not depend on where it is
STATEFUL = tuple(case for case in TYPICAL if case.id in ("sgd_nesterov", "adam_amsgrad"))
SCHEDULE = CosineWarmRestarts(0.05, T_0=3)


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
    """It does not wait for the next step, which may never come, or come when memory has run out."""
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
