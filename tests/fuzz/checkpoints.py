"""Checkpoints in both directions, copies, and the clock."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from cases import NUMBERS
from hypothesis import strategies as st
from hypothesis.stateful import rule
from torch import Tensor

from sgdr_fused.schedules import Schedule

from .actions import GROUP, PARAM, Actions
from .world import as_double, same_values, shows

LAST = 2**61


class Checkpoints(Actions):
    def leave_the_gone_behind(self) -> None:
        """torch's state_dict raises for a state whose parameter is in no group."""
        world = self.world
        present = set(world.params)
        for p in [p for p in world.opt.state if p not in present]:
            del world.opt.state[p]
        for p in [p for p in world.mirror if p not in present]:
            world.twin.state.pop(world.mirror[p], None)

    def saved(self, through_file: bool = True) -> dict[str, Any]:
        """A checkpoint; what it holds is compared with what torch's would."""
        self.leave_the_gone_behind()
        checkpoint = self.world.opt.state_dict()
        self._check_checkpoint(checkpoint)
        if not through_file:
            return checkpoint
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    def _check_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        world = self.world
        number = 0
        for group, model in zip(checkpoint["param_groups"], world.groups, strict=True):
            assert group["params"] == list(range(number, number + len(model.params)))
            number += len(model.params)
            assert int(group["clock"]) == world.clock
            for key in world.keys:
                value, wanted = group[key], model.numbers(world.clock)[key]
                if isinstance(wanted, tuple):
                    assert all(map(shows, value, wanted))
                else:
                    assert shows(value, wanted)
                if model.schedule(key) is not None:
                    assert isinstance(value[0] if isinstance(value, tuple) else value, float)
        for number, p in enumerate(world.params):
            expected, state = world.expected_state(p), checkpoint["state"].get(number, {})
            assert set(expected) <= set(state)
            assert expected or "step" in state or "momentum_buffer" not in state

    @rule(through_file=st.booleans())
    def ours_to_ours(self, through_file: bool) -> None:
        """Into a new optimizer with other numbers, over the same parameters."""
        world = self.world
        if not world.params:
            return
        checkpoint = self.saved(through_file)
        groups = [{"params": list(model.params), "lr": 0.7} for model in world.groups]
        fresh = world.case.fused(groups, lr=0.6)
        fresh.load_state_dict(checkpoint)
        world.defaults["lr"] = 0.6
        world.replace(fresh)
        for model in world.groups:
            self._tensors_replaced(model.values, world)

    def _tensors_replaced(self, values: dict[str, Any], world: Any) -> None:
        """A tensor for a hyperparameter is another one after loading, with the same value."""
        index = next(i for i, model in enumerate(world.groups) if model.values is values)
        for key in world.keys:
            seen, old = world.opt.param_groups[index][key], values[key]
            if isinstance(old, tuple) and any(isinstance(v, Tensor) for v in old):
                values[key] = tuple(seen)
            elif isinstance(old, Tensor):
                values[key] = seen

    @rule()
    def ours_to_itself(self) -> None:
        if self.world.params:
            self.world.opt.load_state_dict(self.saved())
            self.world.replace(self.world.opt)
            for model in self.world.groups:
                self._tensors_replaced(model.values, self.world)

    @rule()
    def ours_to_torch(self) -> None:
        """torch's optimizer loads our checkpoint, and goes on in the place of the one that we compare with."""
        world = self.world
        if not world.params:
            return
        checkpoint = self.saved()
        groups = [{"params": [world.mirror[p] for p in model.params]} for model in world.groups]
        fresh = world.case.torch(groups, lr=0.1, foreach=False)
        fresh.load_state_dict(checkpoint)
        for p in world.params:
            expected, loaded = world.expected_state(p), fresh.state.get(world.mirror[p], {})
            if not expected:
                fresh.state.pop(world.mirror[p], None)
                continue
            for key, value in expected.items():
                assert same_values(loaded[key], value.double()), key
            if "step" in loaded:  # ours is in float64, where torch's own is in float32: both do
                assert loaded["step"].numel() == 1
            for key in loaded.keys() & {*NUMBERS}:
                loaded[key] = expected[key]
        world.twin = fresh

    @rule()
    def torch_to_ours(self) -> None:
        """Without a word of Schedules, they stay; the clock is the largest step, where there is one."""
        world = self.world
        if not world.params:
            return
        self.leave_the_gone_behind()
        shapes = [{"params": [world.mirror[p] for p in model.params]} for model in world.groups]
        theirs = world.case.torch(shapes, lr=0.1, foreach=False)
        for p in world.params:
            if world.expected_state(p):
                state = world.expected_state(p).items()
                theirs.state[world.mirror[p]] = {k: v if k in NUMBERS else v.to(p.dtype) for k, v in state}
        for group, model in zip(theirs.param_groups, world.groups, strict=True):
            group.update({key: model.values[key] for key in world.constants}, lr=0.25)
        checkpoint = theirs.state_dict()
        taken = [int(s["step"]) for s in checkpoint["state"].values() if "step" in s]
        texts = world.warnings_of(lambda: world.opt.load_state_dict(checkpoint))
        keeps = any(model.schedule(key) for model in world.groups for key in world.keys)
        assert any("clock" in text for text in texts) == (keeps and not taken), texts
        world.clock = max(taken, default=world.clock)
        for group, model in zip(theirs.param_groups, world.groups, strict=True):
            for key in world.keys:
                schedule = model.schedule(key)
                value = group[key]
                if schedule is not None:
                    value = (schedule, *value[1:]) if isinstance(value, tuple) else schedule
                model.values[key] = value
        world.replace(world.opt)

    @rule(how=st.sampled_from(("groups", "state", "lr", "shape", "clock", "schedule")))
    def bad_checkpoint(self, how: str) -> None:
        world = self.world
        if not world.params:
            return
        checkpoint = copy.deepcopy(self.saved(through_file=False))
        group = checkpoint["param_groups"][0]
        if how == "groups":
            checkpoint["param_groups"].append(group)
        elif how == "state":
            checkpoint["state"] = [1]
        elif how == "lr":
            group["lr"], group["lr_schedule"] = "fast", None
        elif how == "clock":
            group["clock"] = torch.tensor(-1)
        elif how == "schedule":
            group["lr_schedule"] = '{"type": "Cosinus"}'
        else:
            shaped = [s for s in checkpoint["state"].values() if {k for k in s if k not in NUMBERS}]
            if not shaped:
                return
            key = next(k for k in shaped[0] if k not in NUMBERS)
            shaped[0][key] = shaped[0][key].new_zeros(3, 5, 7)
            if not any(key in world.expected_state(p) for p in world.params):
                return
        with world.refused():
            world.opt.load_state_dict(checkpoint)

    @rule()
    def state_dict_hooks(self) -> None:
        opt = self.world.opt
        calls = []
        handles = [
            opt.register_state_dict_pre_hook(lambda opt: calls.append("pre")),
            opt.register_state_dict_post_hook(lambda opt, result: {**result, "more": 1}),
        ]
        assert self.saved(through_file=False)["more"] == 1
        assert calls == ["pre"]
        for handle in handles:
            handle.remove()

    @rule(by_pickle=st.booleans())
    def copied(self, by_pickle: bool) -> None:
        """The copy goes on, with copies of the parameters; the gradients are the user's to make anew."""
        world = self.world
        self.leave_the_gone_behind()
        pair = (world.params, world.opt)
        params, opt = pickle.loads(pickle.dumps(pair)) if by_pickle else copy.deepcopy(pair)
        assert type(opt) is type(world.opt)
        old = list(world.params)
        world.replace(opt, params)
        for p, q in zip(old, params, strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
        for model in world.groups:
            self._tensors_replaced(model.values, world)

    # ---- the clock

    @rule(to=st.sampled_from((0, 1, 5, 17, 1000, 10**9)), how=st.sampled_from(("fill_", "copy_", "zero_", "add_")))
    def write_clock(self, to: int, how: str) -> None:
        clock = self.world.opt.clock
        if how == "fill_":
            clock.fill_(to)
        elif how == "copy_":
            clock.copy_(torch.tensor(to))
        elif how == "zero_":
            clock.zero_()
            to = 0
        else:
            clock.add_(3)
            to = self.world.clock + 3
        self.world.clock = to
        self.check_rates()

    def check_rates(self) -> None:
        """What is displayed has followed at once."""
        for ours, model in zip(self.world.opt.param_groups, self.world.groups, strict=True):
            schedule = model.schedule("lr")
            if schedule is not None and not model.put_in:
                assert shows(ours["lr"], schedule(self.world.clock))

    @rule(to=st.sampled_from((-1, -(2**63), LAST + 1, 2**63 - 1)))
    def write_clock_out_of_range(self, to: int) -> None:
        with pytest.raises((ValueError, RuntimeError)):
            self.world.opt.clock.fill_(to)

    @rule(group=GROUP, index=PARAM)
    def read_everything(self, group: int, index: int) -> None:
        """Reading disturbs nothing."""
        opt = self.world.opt
        before = int(opt.clock)
        repr(opt), list(opt.state.items()), [dict(g) for g in opt.param_groups], opt.clock + 1, opt.backend
        assert int(opt.clock) == before
        schedules = [g.schedule("lr") for g in self.world.groups]
        assert all(s is None or isinstance(s, Schedule) for s in schedules)
        assert all(as_double(p).shape == p.shape for p in self.world.params)
