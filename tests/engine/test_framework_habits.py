"""What frameworks do to the optimizers that they are given, each habit named after the one that has it.

The stand-ins do what the framework's code does, with nothing else of it. torch's optimizer goes first through each, so
that a stand-in that asks too much is noticed.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cases import DEVICE, train
from courses import KINDS, PAIRS, SCHEDULE, SIZES, assert_same_course, assert_unharmed, made
from torch import Tensor

pytestmark = pytest.mark.untracked

# ---- containers that are taken apart and put together again


def collected(data: Any, function: Callable[[Tensor], Any]) -> Any:
    """Lightning's apply_to_collection: every container is rebuilt by its own type (Lightning#11741)."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, Mapping):
        rebuilt = [(key, collected(value, function)) for key, value in data.items()]
        if isinstance(data, defaultdict):
            return defaultdict(data.default_factory, OrderedDict(rebuilt))
        return type(data)(OrderedDict(rebuilt))
    if isinstance(data, (list, tuple)):
        return type(data)([collected(value, function) for value in data])
    return data


def _lightning_moves_states(opt: Any) -> None:
    """Lightning's _optimizer_to_device."""
    for param, state in opt.state.items():
        opt.state[param] = collected(state, lambda tensor: tensor.to(DEVICE).clone())


def _lightning_reads_everything(opt: Any) -> None:
    assert len(collected(opt.state, lambda tensor: tensor)) == len(SIZES)
    assert collected(opt.param_groups, lambda tensor: tensor)[0]["lr"] is not None


REBUILDS: dict[str, Callable[[Any], Any]] = {
    "by_type": lambda mapping: type(mapping)(dict(mapping)),
    "by_type_of_items": lambda mapping: type(mapping)(mapping.items()),
    "by_type_of_generator": lambda mapping: mapping.__class__((key, value) for key, value in mapping.items()),
    "by_type_then_update": lambda mapping: filled(type(mapping)(), mapping),
    "copy": copy.copy,
    "copy_method": lambda mapping: mapping.copy(),
    "deepcopy": copy.deepcopy,
    "comprehension": lambda mapping: dict(mapping.items()),
    "union": lambda mapping: mapping | {},
    "reverse_union": lambda mapping: {} | mapping,
    "fromkeys": lambda mapping: type(mapping).fromkeys(mapping),
}


def filled(empty: Any, mapping: Any) -> Any:
    for key, value in mapping.items():
        empty[key] = value
    return empty


def _parts(opt: Any) -> list[Any]:
    return [*opt.state.values(), *opt.param_groups]


@pytest.mark.parametrize("rebuild", REBUILDS.values(), ids=REBUILDS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_mappings_are_rebuilt_as_dicts_are(kind: str, rebuild: Any) -> None:
    def habit(opt: Any) -> None:
        for part in _parts(opt):
            rebuilt = rebuild(part)
            assert isinstance(rebuilt, dict)
            assert list(rebuilt) == list(part)
            rebuilt.clear()  # and is another, of which nobody hears

    assert_unharmed(habit, kind)


@pytest.mark.parametrize("rebuild", [r for r in REBUILDS if r not in ("fromkeys", "deepcopy")])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_mappings_are_put_back(kind: str, name: str, rebuild: str) -> None:
    def habit(opt: Any) -> None:
        for param in list(opt.state):
            opt.state[param] = REBUILDS[rebuild](opt.state[param])
        for i, group in enumerate(opt.param_groups):
            opt.param_groups[i] = REBUILDS[rebuild](group)

    assert_unharmed(habit, kind, name)


def _entries_onto_themselves(opt: Any) -> None:
    for group in opt.param_groups:
        for key in group:
            group[key] = group[key]
        for key, value in list(group.items()):
            group[key] = value
        group.update(group)
        group.update(dict(group))


def _groups_onto_themselves(opt: Any) -> None:
    opt.param_groups = [{**group} for group in opt.param_groups]
    opt.param_groups = list(opt.param_groups)


def _groups_saved_and_restored(opt: Any) -> None:
    """Rates are kept aside, set to other values and brought back, entry by entry or group by group."""
    for restore in (lambda group, saved: group.update(saved), _entry_by_entry, _cleared_first):
        saved = [dict(group) for group in opt.param_groups]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ours says once that the Schedule is gone
            for group in opt.param_groups:
                group["lr"] = 0.0
        for group, kept in zip(opt.param_groups, saved, strict=True):
            restore(group, kept)


def _entry_by_entry(group: Any, saved: Any) -> None:
    for key, value in saved.items():
        group[key] = value


def _cleared_first(group: Any, saved: Any) -> None:
    group.clear()
    group.update(saved)


HABITS = [
    _lightning_moves_states,
    _lightning_reads_everything,
    _entries_onto_themselves,
    _groups_onto_themselves,
    _groups_saved_and_restored,
]


@pytest.mark.parametrize("habit", HABITS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_habit(kind: str, name: str, habit: Any) -> None:
    assert_unharmed(habit, kind, name)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_onto_another_optimizer(kind: str) -> None:
    """fastai's and others' way to hand hyperparameters on, key by key; a Schedule goes with its display."""
    opt, other, expected = made(kind), made("torch" if kind == "torch" else "number"), made(kind)
    train(opt, range(2))
    for key in opt.param_groups[0]:
        if key != "params":
            other.param_groups[0][key] = opt.param_groups[0][key]
    if kind == "schedule":
        assert other.param_groups[0]["lr_schedule"] == SCHEDULE
        assert other.get_last_lr() == [SCHEDULE(0)]  # of its own clock
    assert_same_course(other, expected, range(3))
