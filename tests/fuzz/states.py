"""What users do to the optimizer's state."""

from __future__ import annotations

import collections
from collections import OrderedDict, defaultdict
from typing import Any

import torch
from cases import DEVICE, NUMBERS
from hypothesis import strategies as st
from hypothesis.stateful import rule
from torch import Tensor

from .actions import PARAM, Actions
from .gradients import LAYOUT, LAYOUTS
from .world import as_double


class States(Actions):
    def with_state(self, index: int) -> tuple[Any, dict[str, Any]] | None:
        """A parameter that steps have made a state for, and what torch has for it."""
        p = self.world.param(index)
        expected = {} if p is None else self.world.expected_state(p)
        return (p, expected) if expected else None

    def entry(self, index: int, which: int) -> tuple[Any, dict[str, Any], str] | None:
        """The same with the name of one of its tensors that a step reads."""
        if (found := self.with_state(index)) is None:
            return None
        names = sorted(set(found[1]) - {*NUMBERS, *self.world.unread(found[0])})
        return (*found, names[which % len(names)]) if names else None

    @rule(index=PARAM, which=st.integers(0, 2), layout=LAYOUT)
    def replace_entry(self, index: int, which: int, layout: str) -> None:
        if (found := self.entry(index, which)) is not None:
            p, expected, key = found
            value = LAYOUTS[layout](self.world.random(p).abs())
            self.world.opt.state[p][key] = value
            expected[key] = as_double(value)

    @rule(index=PARAM, which=st.integers(0, 2), through_data=st.booleans())
    def edit_entry(self, index: int, which: int, through_data: bool) -> None:
        if (found := self.entry(index, which)) is not None:
            p, expected, key = found
            value = self.world.opt.state[p][key]
            (value.data if through_data else value).mul_(0.5)
            expected[key].mul_(0.5)

    @rule(index=PARAM, which=st.integers(0, 2), layout=LAYOUT)
    def entrys_data(self, index: int, which: int, layout: str) -> None:
        if (found := self.entry(index, which)) is not None:
            p, expected, key = found
            value = LAYOUTS[layout](self.world.random(p).abs())
            self.world.opt.state[p][key].data = value
            expected[key] = as_double(value)

    @rule(index=PARAM, steps=st.integers(1, 40), how=st.sampled_from(("new", "in place", "float32", "number")))
    def set_step(self, index: int, steps: int, how: str) -> None:
        if (found := self.with_state(index)) is None or "step" not in found[1]:
            return
        state = self.world.opt.state[found[0]]
        if how == "in place" and isinstance(state["step"], Tensor):
            state["step"].fill_(steps)
        elif how in ("in place", "number"):  # a number that no step has made a tensor yet is replaced
            state["step"] = steps
        else:
            dtype = torch.float32 if how == "float32" else torch.float64
            state["step"] = torch.tensor(float(steps), dtype=dtype, device=DEVICE)
        found[1]["step"].fill_(steps)

    @rule(index=PARAM, which=st.integers(0, 2))
    def remove_entry(self, index: int, which: int) -> None:
        """If one of several entries is missing, that is an error; if all are missing, the next step is the first."""
        if (found := self.entry(index, which)) is None:
            return
        p, expected, key = found
        state = self.world.opt.state[p]
        removed = state.pop(key)
        if set(expected) - {key}:
            with self.world.refused(ValueError, KeyError):
                self.world.opt.step()
            state[key] = removed
        else:
            self.world.twin.state.pop(self.world.mirror[p])

    @rule(index=PARAM, how=st.sampled_from(("clear", "del", "pop", "empty", "popitem")))
    def remove_state(self, index: int, how: str) -> None:
        if (found := self.with_state(index)) is None:
            return
        p, state = found[0], self.world.opt.state
        if how == "clear":
            state[p].clear()
        elif how == "del":
            del state[p]
        elif how == "pop":
            state.pop(p)
        elif how == "empty":
            state[p] = {}
        else:
            while state[p]:
                state[p].popitem()
        self.world.twin.state.pop(self.world.mirror[p])

    @rule(how=st.sampled_from(("clear", "new", "dict")))
    def remove_all_states(self, how: str) -> None:
        if how == "clear":
            self.world.opt.state.clear()
        else:
            self.world.opt.state = defaultdict(dict) if how == "new" else {}
        self.world.twin.state.clear()

    @rule(index=PARAM, how=st.sampled_from(("type", "dict", "copy", "ordered", "update", "or")))
    def rebuild_state(self, index: int, how: str) -> None:
        """The same entries in another mapping: nothing changes."""
        if (found := self.with_state(index)) is None:
            return
        p, state = found[0], self.world.opt.state
        mapping = state[p]
        if how == "type":
            state[p] = type(mapping)(OrderedDict(mapping))
        elif how == "dict":
            state[p] = dict(mapping)
        elif how == "copy":
            state[p] = mapping.copy()
        elif how == "ordered":
            state[p] = OrderedDict(mapping)
        elif how == "update":
            mapping.update(dict(mapping))
        else:
            mapping |= dict(mapping)

    @rule(how=st.sampled_from(("type", "dict", "items", "each")))
    def rebuild_all_states(self, how: str) -> None:
        """Frameworks rebuild containers by type, from the inside out."""
        opt = self.world.opt
        if how == "each":
            for p, mapping in list(opt.state.items()):
                opt.state[p] = type(mapping)(OrderedDict(mapping))
        elif how == "dict":
            opt.state = dict(opt.state)
        else:
            kind = type(opt.state)
            factory = (dict,) if how == "items" and issubclass(kind, collections.defaultdict) else ()
            opt.state = kind(*factory, OrderedDict((p, dict(mapping)) for p, mapping in opt.state.items()))

    @rule(index=PARAM, key=st.sampled_from(("mine", "note")))
    def other_entry(self, index: int, key: str) -> None:
        """What is none of the optimizer's business stays where it was put."""
        if (found := self.with_state(index)) is not None:
            self.world.opt.state[found[0]][key] = "kept"
            assert self.world.opt.state[found[0]][key] == "kept"
            del self.world.opt.state[found[0]][key]

    @rule(index=PARAM, which=st.integers(0, 2), bad=st.sampled_from(("shape", "dtype", "number")))
    def bad_entry(self, index: int, which: int, bad: str) -> None:
        if (found := self.entry(index, which)) is None:
            return
        p, _, key = found
        state = self.world.opt.state[p]
        kept = state[key]
        values: dict[str, Any] = {
            "shape": torch.zeros((*p.shape, 2), dtype=p.dtype, device=DEVICE),
            "dtype": kept.to(torch.int32),
            "number": 0.5,
        }
        with self.world.refused():
            state[key] = values[bad]  # here, or at the step
            self.world.opt.step()
        state[key] = kept

    def teardown(self) -> None:
        assert not hasattr(self, "world") or all(isinstance(key, Tensor) for key in self.world.opt.state)
