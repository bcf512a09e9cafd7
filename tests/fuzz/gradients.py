"""What happens to parameters and their gradients between steps, and the ways to take a step."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import rule
from torch import Tensor
from torch_features import GRAD_DTYPE

from .actions import GROUP, NUMBER, PARAM, Actions
from .world import as_double


def other_layout(tensor: Tensor) -> Tensor:
    """The same values with other strides: transposed, or channels last, or contiguous where it was that."""
    if tensor.dim() == 4 and tensor.is_contiguous():
        return tensor.contiguous(memory_format=torch.channels_last)
    if tensor.dim() == 2 and tensor.is_contiguous():
        return tensor.t().contiguous().t()
    return tensor.contiguous()


def strided(tensor: Tensor) -> Tensor:
    """The same values with gaps between them."""
    return torch.stack([tensor, tensor + 1], -1)[..., 0]


LAYOUTS = {"same": lambda t: t, "other": other_layout, "strided": strided}
LAYOUT = st.sampled_from(("same", "other", "strided"))


class Gradients(Actions):
    @rule()
    def gradients_for_all(self) -> None:
        for p in self.world.params:
            p.grad = self.world.random(p)

    @rule(index=PARAM, layout=LAYOUT)
    def new_gradient(self, index: int, layout: str) -> None:
        p = self.world.param(index)
        if p is not None:
            p.grad = LAYOUTS[layout](self.world.random(p))

    @rule(index=PARAM, dtype=st.sampled_from((torch.bfloat16, torch.float16)))
    def narrow_gradient(self, index: int, dtype: torch.dtype) -> None:
        p = self.world.param(index)
        if GRAD_DTYPE and p is not None and p.dtype == torch.float32:
            p.grad = self.world.random(p).to(dtype)

    @rule(index=PARAM)
    def gradient_in_place(self, index: int) -> None:
        p = self.world.param(index)
        if p is not None and p.grad is not None:
            p.grad.mul_(0.5).add_(0.25)

    @rule(index=PARAM, layout=LAYOUT)
    def gradients_data(self, index: int, layout: str) -> None:
        p = self.world.param(index)
        if p is not None and p.grad is not None:
            p.grad.data = LAYOUTS[layout](self.world.random(p).to(p.grad.dtype))

    @rule(index=PARAM)
    def no_gradient(self, index: int) -> None:
        p = self.world.param(index)
        if p is not None:
            p.grad = None

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none: bool) -> None:
        self.world.opt.zero_grad(set_to_none=set_to_none)
        for p in self.world.params:
            assert p.grad is None or (not set_to_none and not p.grad.any())

    @rule(index=PARAM, on=st.booleans(), drop=st.booleans())
    def freeze(self, index: int, on: bool, drop: bool) -> None:
        p = self.world.param(index)
        if p is not None:
            p.requires_grad_(not on)
            if on and drop:
                p.grad = None

    @rule(index=PARAM, layout=LAYOUT)
    def replace_data(self, index: int, layout: str) -> None:
        p = self.world.param(index)
        if p is not None:
            p.data = LAYOUTS[layout](self.world.random(p))
            self.world.mirror[p].data = as_double(p)

    @rule(index=PARAM, through_data=st.booleans())
    def edit_data(self, index: int, through_data: bool) -> None:
        p = self.world.param(index)
        if p is None:
            return
        with torch.no_grad():
            (p.data if through_data else p).mul_(0.5)
            self.world.mirror[p].mul_(0.5)

    @rule(convert_state=st.booleans())
    def convert(self, convert_state: bool) -> None:
        """`model.double()` or `.float()`: with states the step is refused, until they are converted too, or gone."""
        world = self.world
        if not world.params:
            return
        to = torch.float32 if world.params[0].dtype == torch.float64 else torch.float64
        stale = False
        for p in world.params:
            unread = {"step", *world.unread(p)}
            stale |= p.dtype != to and any(
                isinstance(value, Tensor) and value.dim() == p.dim() and value.dtype != to and key not in unread
                for key, value in world.opt.state.get(p, {}).items()
            )
            p.data = p.data.to(to)
            if p.grad is not None:
                p.grad.data = p.grad.data.to(to)
            world.mirror[p].data = as_double(p)
        world.dtype = to
        if stale:
            with world.refused():
                world.opt.step()
            world.check()
        for p in world.params:
            if not convert_state:
                world.opt.state.pop(p, None)
                world.twin.state.pop(world.mirror[p], None)
                continue
            for key, value in world.opt.state.get(p, {}).items():
                if key not in ("step", "mu_product"):
                    world.opt.state[p][key] = value.to(to)
                    if key in world.expected_state(p):
                        world.expected_state(p)[key] = as_double(world.opt.state[p][key])

    # ---- the ways to take a step

    @rule()
    def step(self) -> None:
        self.world.step()

    @rule(times=st.integers(1, 4))
    def train(self, times: int) -> None:
        for _ in range(times):
            for p in self.world.params:
                p.grad = self.world.random(p)
            self.world.step()

    @rule(scale=st.sampled_from((None, 1.0, 4.0)), found_inf=st.sampled_from((None, 0.0, 1.0, 2.0)))
    def scaled_step(self, scale: float | None, found_inf: float | None) -> None:
        self.world.step(scale, found_inf)

    @rule(index=PARAM, group=GROUP, number=NUMBER, sets_rate=st.booleans())
    def step_with_closure(self, index: int, group: int, number: int, sets_rate: bool) -> None:
        """The closure makes gradients, and what it writes to a group counts in this very step."""
        world = self.world

        def closure() -> float:
            assert torch.is_grad_enabled()
            for p in world.params:
                p.grad = world.random(p)
            self._set_rate(group, number, sets_rate)
            return 1.5

        def run(opt: Any) -> None:
            assert opt.step(closure) == 1.5

        world.step(run=run)

    @rule(group=GROUP, number=NUMBER, before=st.booleans(), sets_rate=st.booleans())
    def step_with_hook(self, group: int, number: int, before: bool, sets_rate: bool) -> None:
        """A hook before the step writes to this step's group, one after it to the next one's."""
        world = self.world
        chosen = world.group(group) if sets_rate else None
        calls = []

        def hook(opt: Any, args: Any, kwargs: Any) -> None:
            calls.append(opt)
            if before:
                self._set_rate(group, number, sets_rate)
            elif chosen is not None and not put_in:
                opt.param_groups[chosen[0]]["lr"] = value

        put_in = chosen is not None and chosen[1].put_in
        value = None if chosen is None else self.value("lr", "number", number, chosen[1])
        opt = world.opt
        handle = (opt.register_step_pre_hook if before else opt.register_step_post_hook)(hook)
        try:
            world.step()
        finally:
            handle.remove()
        assert calls == [opt]
        if not before and chosen is not None and not put_in:
            chosen[1].warned = None if chosen[1].schedule("lr") is not None else chosen[1].warned
            chosen[1].values["lr"] = value

    def _set_rate(self, group: int, number: int, sets_rate: bool) -> None:
        chosen = self.world.group(group)
        if sets_rate and chosen is not None and not chosen[1].put_in:
            model = chosen[1]
            replaces = model.schedule("lr") is not None
            self.expect_warning(model, replaces, self.put(chosen[0], "lr", self.value("lr", "number", number, model)))
