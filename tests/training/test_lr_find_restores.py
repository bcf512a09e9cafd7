"""lr_find leaves everything as it was, bit for bit and in the same objects, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, TYPICAL, Case, ids
from scenes import RATES, Scene, Tangled, identities, scene, values
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sgdr_fused import FusedSGD, lr_find
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.untracked


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs these tests with one thread, because with so little work threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_unchanged(made: Scene, run: Callable[[], None]) -> None:
    before, objects = values(made), identities(made)
    addresses = [o.data_ptr() if isinstance(o, Tensor) else None for o in objects]
    run()
    after = values(made)
    for key, value in before.items():
        assert after[key] == value, key
    assert [id(o) for o in identities(made)] == [id(o) for o in objects]
    assert [o.data_ptr() if isinstance(o, Tensor) else None for o in objects] == addresses


class TroubleError(Exception):
    pass


def raising(model: Tangled, at: int, error: type[BaseException]) -> None:
    start = model.calls

    def at_call(call: int) -> None:
        if call - start == at:
            raise error

    model.at_call = at_call


def completes(made: Scene) -> None:
    assert not made.find(start_lr=1e-5, end_lr=1e-3, diverge_factor=1e9).diverged


def diverges(made: Scene) -> None:
    assert made.find(start_lr=1e-2, end_lr=1e30, scaler=None, diverge_factor=1.1, smoothing=0.0).diverged


def model_raises(made: Scene) -> None:
    raising(made.model, 20, TroubleError)
    with pytest.raises(TroubleError):
        made.find()


def first_forward_raises(made: Scene) -> None:
    raising(made.model, 1, TroubleError)
    with pytest.raises(TroubleError):
        made.find()


def validation_is_interrupted(made: Scene) -> None:
    raising(made.model, 3, KeyboardInterrupt)  # the first step is one call, then there are three batches
    with pytest.raises(KeyboardInterrupt):
        made.find()


def step_is_interrupted(made: Scene) -> None:
    """While the scaler's attributes are on the optimizer."""
    hook = made.optimizer.register_step_post_hook(lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        made.find(val_loader=None)
    hook.remove()


def interrupt() -> None:
    raise KeyboardInterrupt


def criterion_raises(made: Scene) -> None:
    with pytest.raises(TypeError):
        made.find(criterion=lambda output: output.sum())


ENDS = (
    completes,
    diverges,
    model_raises,
    first_forward_raises,
    validation_is_interrupted,
    step_is_interrupted,
    criterion_raises,
)


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_everything_is_as_it_was(case: Case, end: Callable[[Scene], None], steps_before: int) -> None:
    made = scene(case, steps_before=steps_before)
    made.model.alone.grad = torch.full_like(made.model.alone, 7.0)
    check_unchanged(made, lambda: end(made))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("steps_before", [0, 4])
def test_every_kind_of_rate(rate: str, steps_before: int) -> None:
    made = scene(TYPICAL[1], rate, steps_before)
    check_unchanged(made, lambda: completes(made))


@pytest.mark.parametrize("case", ids(TYPICAL))
@pytest.mark.parametrize("rate", RATES)
def test_training_goes_on_as_if_it_had_not_been(case: Case, rate: str) -> None:
    made, untouched = scene(case, rate), scene(case, rate)
    torch.manual_seed(4)
    completes(made)
    made.train(5)
    torch.manual_seed(4)
    untouched.train(5)
    ours, theirs = values(made), values(untouched)
    for key in ("tensors", "grads", "optimizer", "scaler", "generators"):
        assert ours[key] == theirs[key], key


def test_modes_during_the_test() -> None:
    made = scene(TYPICAL[0])
    seen = []
    made.model.at_call = lambda call: seen.append((made.model.norm.training, made.model.frozen.training))
    made.find(num_steps=2)
    assert seen == ([(True, False)] + [(False, False)] * 3) * 2  # a step, and the validation loader's three batches
    made.model.eval()
    seen.clear()
    check_unchanged(made, lambda: made.find(num_steps=2, val_loader=None))
    assert seen == [(True, True)] * 2


def test_gradients_of_before_stay_out_of_the_test() -> None:
    made, fresh = scene(TYPICAL[0]), scene(TYPICAL[0])
    made.model.alone.grad = torch.full_like(made.model.alone, float("nan"))
    made.model.last.bias.grad.fill_(float("nan"))
    fresh.optimizer.zero_grad()
    results = []
    for each in (made, fresh):
        torch.manual_seed(0)
        results.append(each.find().losses)
    assert torch.equal(*results)


def test_groups_that_the_user_has_not_handed_over() -> None:
    """A plain dict among the groups, which the next step would adopt."""
    param = nn.Parameter(torch.ones(2, device=DEVICE))
    optimizer = FusedSGD([param], lr=0.1)
    plain = dict(optimizer.param_groups[0])
    optimizer.param_groups[0] = plain
    before = dict(plain)
    lr_find(nn.Module(), optimizer, None, [0], num_steps=3, batch_to_loss=lambda *_: param.sum())
    assert optimizer.param_groups[0] is plain
    assert plain == before
    assert bits(param) == bits(torch.ones(2))


def test_what_others_write_meanwhile_is_undone() -> None:
    """Gradients in a bucket that a distributed backward fills, a state that a hook replaces, displays."""
    made = scene(TYPICAL[1])
    bucket = torch.arange(4.0, device=DEVICE)
    made.model.alone.grad = bucket.view(4)
    made.model.at_call = lambda call: bucket.fill_(9.0)
    for key in ("lr", "weight_decay"):
        made.optimizer.param_groups[0][key].data.fill_(0.123)  # as if another device had rounded it otherwise

    def replace(optimizer: Any, *_: Any) -> None:
        for state in optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].clone()

    hook = made.optimizer.register_step_post_hook(replace)
    check_unchanged(made, lambda: completes(made))
    hook.remove()
    made.model.alone.grad = None
    made.train(2)


def test_a_displayed_rate_that_was_written_to_is_still_refused() -> None:
    made = scene(TYPICAL[0])
    made.optimizer.param_groups[0]["lr"].mul_(2)
    made.find(num_steps=2)
    with pytest.raises(RuntimeError, match="written in place"):
        made.train(1)


def test_scaler_in_the_middle_of_a_step_is_refused() -> None:
    made = scene(TYPICAL[0])
    x, y = next(iter(made.loader))
    made.scaler.scale(mse_loss(made.model(x.to(DEVICE)), y.to(DEVICE))).backward()
    made.scaler.unscale_(made.optimizer)

    def refused() -> None:
        with pytest.raises(AssertionError, match=r"scaler\.update"):
            made.find()

    check_unchanged(made, refused)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="graphs are CUDA's")
def test_captured_step_replays_after_a_test() -> None:
    def captured(find: bool) -> tuple[Any, ...]:
        param = nn.Parameter(torch.ones(5, device=DEVICE))
        optimizer = FusedSGD([param], lr=CosineWarmRestarts(0.1, T_0=3), momentum=0.9)
        param.grad = torch.ones_like(param)
        optimizer.step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            optimizer.step()
        graph.replay()
        if find:
            lr_find(nn.Module(), optimizer, None, [0], num_steps=3, batch_to_loss=lambda *_: param.square().sum())
        for _ in range(4):
            graph.replay()
        return bits(param), bits(optimizer.param_groups[0]["lr"]), bits(optimizer.state[param]["momentum_buffer"])

    assert captured(find=True) == captured(find=False)
