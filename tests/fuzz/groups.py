"""What users put into groups, and how they add, remove and reorder them."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import rule
from torch import Tensor

from .actions import GROUP, KEY, NUMBER, PARAM, SCHEDULE, TENSOR, Actions
from .world import GroupModel

NOT_RATES = (math.nan, math.inf, "0.1", None, [0.1], torch.zeros(2))


class Groups(Actions):
    def chosen(self, group: int, name: str = "lr") -> tuple[int, GroupModel, Any, str] | None:
        """The group's index, what is expected of it, ours, and the entry; None where there is no such."""
        found, key = self.world.group(group), self.key(name)
        if found is None or key is None or found[1].put_in:
            return None
        return *found, self.world.opt.param_groups[found[0]], key

    # ---- values

    @rule(group=GROUP, name=KEY, number=NUMBER)
    def assign_number(self, group: int, name: str, number: int) -> None:
        if (chosen := self.chosen(group, name)) is not None:
            index, model, _, key = chosen
            replaces = model.schedule(key) is not None
            texts = self.put(index, key, self.value(key, "number", number, model))
            self.expect_warning(model, replaces, texts)

    @rule(group=GROUP, name=KEY, schedule=SCHEDULE)
    def assign_schedule(self, group: int, name: str, schedule: int) -> None:
        if (chosen := self.chosen(group, name)) is not None:
            index, model, _, key = chosen
            assert self.put(index, key, self.value(key, "schedule", schedule, model)) == []

    @rule(group=GROUP, name=KEY, tensor=TENSOR)
    def assign_tensor(self, group: int, name: str, tensor: int) -> None:
        if (chosen := self.chosen(group, name)) is not None:
            index, model, _, key = chosen
            if model.schedule(key) is not None:
                model.warned = None
            self.put(index, key, self.value(key, "tensor", tensor, model))

    @rule(group=GROUP, name=KEY, number=NUMBER)
    def write_into_tensor(self, group: int, name: str, number: int) -> None:
        """A tensor for a hyperparameter is read at each step."""
        if (chosen := self.chosen(group, name)) is not None:
            _, model, ours, key = chosen
            value, seen = model.values[key], ours[key]
            first, shown = (value[0], seen[0]) if isinstance(value, tuple) else (value, seen)
            if isinstance(first, Tensor):
                number = self.value(key, "number", number, model)
                shown.fill_(number[0] if isinstance(number, tuple) else number)

    @rule(group=GROUP, name=KEY)
    def freeze_rate(self, group: int, name: str) -> None:
        """`g["lr"] = g["lr"] * 0.5` is a tensor of its own from here on."""
        if (chosen := self.chosen(group, name)) is not None and chosen[3] != "betas":
            index, model, ours, key = chosen
            replaces = model.schedule(key) is not None
            self.expect_warning(model, replaces, self.put(index, key, ours[key] * 0.5))

    @rule(which=st.integers(0, 5), group=GROUP)
    def put_display_back(self, which: int, group: int) -> None:
        """A display that was replaced, or another group's, brings its Schedule with it."""
        displays = self.world.displays
        if displays:
            key, display, schedule = displays[which % len(displays)]
            if (chosen := self.chosen(group, key if key != "betas" else "momentum")) is not None:
                index, model, _, key = chosen
                self.put(index, key, display)
                model.values[key] = (schedule, *display[1:]) if isinstance(display, tuple) else schedule
                self.world.remember_displays()

    @rule(group=GROUP, name=KEY)
    def replace_for_a_while(self, group: int, name: str) -> None:
        """`old = g["lr"]; g["lr"] = 0.0; step(); g["lr"] = old`, as torch's distributed state dict does."""
        if (chosen := self.chosen(group, name)) is not None:
            index, model, ours, key = chosen
            old, value = ours[key], model.values[key]
            model.warned = None if model.schedule(key) is not None else model.warned
            self.put(index, key, self.value(key, "number", 1, model))
            self.world.step()
            self.put(index, key, old)
            model.values[key] = value

    @rule(group=GROUP, name=KEY, factor=st.sampled_from((0.1, 2.0)))
    def scale_display_in_place(self, group: int, name: str, factor: float) -> None:
        """`g["lr"] *= 0.1`: an error over a Schedule, at once; what was displayed is displayed again."""
        if (chosen := self.chosen(group, name)) is None:
            return
        _, model, ours, key = chosen
        if model.schedule(key) is None:
            if isinstance(model.values[key], (int, float)):
                ours[key] *= factor
                model.values[key] *= factor
            return
        with self.world.refused(ValueError, TypeError, RuntimeError):
            if key == "betas":
                ours[key] = (ours[key][0].mul_(factor), ours[key][1])
            else:
                ours[key] *= factor

    @rule(group=GROUP, name=KEY, schedule=SCHEDULE, number=st.none() | NUMBER)
    def write_display(self, group: int, name: str, schedule: int, number: int | None) -> None:
        """What torch's schedulers do to a tensor rate: an error at the step, until something else is assigned."""
        if (chosen := self.chosen(group, name)) is None or chosen[1].schedule(chosen[3]) is None:
            return
        index, model, ours, key = chosen
        display = ours[key][0] if key == "betas" else ours[key]
        display.add_(1)
        self.world.displays[:] = [kept for kept in self.world.displays if kept[1] is not ours[key]]
        with self.world.refused(RuntimeError, ValueError):
            self.world.opt.step()
        model.warned = None
        kind, which = ("schedule", schedule) if number is None else ("number", number)
        self.put(index, key, self.value(key, kind, which, model))

    @rule(group=GROUP, name=KEY, bad=st.sampled_from(NOT_RATES))
    def assign_what_is_no_rate(self, group: int, name: str, bad: Any) -> None:
        if (chosen := self.chosen(group, name)) is not None:
            _, _, ours, key = chosen
            with self.world.refused():
                ours[key] = (bad, 0.9) if key == "betas" else bad

    @rule(group=GROUP, name=KEY, schedule=SCHEDULE)
    def assign_schedule_key(self, group: int, name: str, schedule: int) -> None:
        """The entries that hold the Schedules are read-only."""
        if (chosen := self.chosen(group, name)) is not None:
            _, model, ours, key = chosen
            value = self.value(key, "schedule", schedule, model)
            value = value[0] if isinstance(value, tuple) else value
            if model.schedule(key) != value:
                with self.world.refused():
                    ours[f"{key}_schedule"] = value

    @rule(group=GROUP)
    def turn_around(self, group: int) -> None:
        if (chosen := self.chosen(group)) is not None:
            _, model, ours, _ = chosen
            model.values["maximize"] = ours["maximize"] = not model.values["maximize"]

    @rule(source=GROUP, onto=GROUP)
    def copy_entries(self, source: int, onto: int) -> None:
        """`for k in g: g2[k] = g[k]`, for all but the parameters, onto another group or onto itself."""
        if (one := self.chosen(source)) is None or (two := self.chosen(onto)) is None:
            return
        two[1].warned = None if one[1] is not two[1] else two[1].warned
        entries = [key for key in one[2] if key != "params"]
        for key in entries:
            two[2][key] = one[2][key]
        two[1].values = dict(one[1].values)

    # ---- the user's own dicts, which stand for the group as in torch

    @rule(group=GROUP, name=KEY, kind=st.sampled_from(("number", "schedule")), which=NUMBER)
    def write_own_dict(self, group: int, name: str, kind: str, which: int) -> None:
        if (chosen := self.chosen(group, name)) is not None and chosen[1].user_dicts:
            _, model, _, key = chosen
            value = self.value(key, kind, which, model)
            model.user_dicts[0][key] = value
            model.values[key], model.warned = value, None

    @rule(group=GROUP, name=KEY)
    def read_own_dict(self, group: int, name: str) -> None:
        if (chosen := self.chosen(group, name)) is not None and chosen[1].user_dicts:
            _, model, _, key = chosen
            if isinstance(model.values[key], (int, float)):
                assert model.user_dicts[0][key] == model.values[key]

    # ---- groups

    @rule(
        shapes=st.lists(st.integers(0, 6), min_size=1, max_size=2),
        kind=st.sampled_from((None, "number", "schedule", "tensor")),
        which=NUMBER,
        wide=st.booleans(),
    )
    def add_group(self, shapes: list[int], kind: str | None, which: int, wide: bool) -> None:
        world = self.world
        if len(world.params) > 10:
            return
        dtype = torch.float64 if wide else world.dtype
        added: dict[str, Any] = {"params": [world.new_param(shape, dtype) for shape in shapes]}
        model = GroupModel(list(added["params"]), dict(world.defaults), user_dicts=[added])
        if kind is not None:
            added["lr"] = self.value("lr", kind, 1 if kind in ("number", "tensor") else which, model)
            model.values["lr"] = added["lr"]
        world.opt.add_param_group(added)
        world.groups.append(model)
        world.remember_displays()

    @rule(group=GROUP, bad=st.sampled_from((-0.5, math.nan, "1")), index=PARAM)
    def add_bad_group(self, group: int, bad: Any, index: int) -> None:
        """A negative rate, or a parameter that is in a group already."""
        taken = self.world.param(index)
        with self.world.refused():
            self.world.opt.add_param_group({"params": [self.world.random(torch.zeros(3))], "lr": bad})
        if taken is not None:
            with self.world.refused():
                self.world.opt.add_param_group({"params": [taken]})

    @rule(group=GROUP, forget_state=st.booleans())
    def remove_group(self, group: int, forget_state: bool) -> None:
        if len(self.world.groups) > 1 and (found := self.world.group(group)) is not None:
            index, model = found
            del self.world.opt.param_groups[index]
            del self.world.groups[index]
            if forget_state:
                self._forget(model.params)

    def _forget(self, params: list[Any]) -> None:
        for p in params:
            self.world.opt.state.pop(p, None)
            self.world.twin.state.pop(self.world.mirror[p], None)

    @rule(group=GROUP, index=PARAM, place=st.integers(0, 3))
    def move_parameter(self, group: int, index: int, place: int) -> None:
        """Moves a parameter from its list into another group's list, both edited in place."""
        world = self.world
        p, found = world.param(index), world.group(group)
        if p is None or found is None:
            return
        for ours, model in zip(world.opt.param_groups, world.groups, strict=True):
            for k, other in enumerate(model.params):
                if other is p:
                    del ours["params"][k], model.params[k]
                    break
        place = min(place, len(found[1].params))
        world.opt.param_groups[found[0]]["params"].insert(place, p)
        found[1].params.insert(place, p)

    @rule(group=GROUP, shape=st.integers(0, 6))
    def append_parameter(self, group: int, shape: int) -> None:
        if (found := self.world.group(group)) is not None and len(self.world.params) <= 10:
            p = self.world.new_param(shape)
            self.world.opt.param_groups[found[0]]["params"].append(p)
            found[1].params.append(p)

    @rule(index=PARAM, forget_state=st.booleans())
    def remove_parameter(self, index: int, forget_state: bool) -> None:
        world = self.world
        if (p := world.param(index)) is None or len(world.params) < 2:
            return
        for ours, model in zip(world.opt.param_groups, world.groups, strict=True):
            ours["params"][:] = [q for q in ours["params"] if q is not p]
            model.params[:] = [q for q in model.params if q is not p]
        if forget_state:
            self._forget([p])

    @rule(how=st.sampled_from(("reverse", "slice", "list")))
    def reorder_groups(self, how: str) -> None:
        opt = self.world.opt
        if how == "reverse":
            opt.param_groups.reverse()
        elif how == "slice":
            opt.param_groups[:] = opt.param_groups[::-1]
        else:
            opt.param_groups = opt.param_groups[::-1]
        self.world.groups.reverse()

    @rule(group=GROUP, name=KEY, kind=st.sampled_from((None, "number", "schedule")), which=NUMBER, whole=st.booleans())
    def replace_group(self, group: int, name: str, kind: str | None, which: int, whole: bool) -> None:
        """`o.param_groups[0] = {**g, "lr": .5}`: the new value wins over the Schedule beside it."""
        if (chosen := self.chosen(group, name)) is None:
            return
        index, model, ours, key = chosen
        new = GroupModel(model.params, dict(model.values), warned=None, put_in=not whole)
        plain = {**ours}
        if kind is not None:
            plain[key] = new.values[key] = self.value(key, kind, which, model)
        new.user_dicts = [plain]
        if whole:
            self.world.opt.param_groups = [plain if g is ours else g for g in self.world.opt.param_groups]
        else:
            self.world.opt.param_groups[index] = plain
        self.world.groups[index] = new
        self.world.remember_displays()
