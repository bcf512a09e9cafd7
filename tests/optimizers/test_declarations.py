"""tests/algorithms/ declares every algorithm, and each declaration leaves out nothing that its tables are for."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from cases import CASE_OF, EVERY_ALGORITHM, NUMBERS, Algorithm, make_params, params_of, train

import sgdr_fused
from sgdr_fused._native import toolchain

pytestmark = pytest.mark.once

FUSED = [c for c in vars(sgdr_fused).values() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)]
EVERY = [pytest.param(algorithm, id=name) for name, algorithm in EVERY_ALGORITHM.items()]
# Arguments that all have, and those of torch's that change nothing.
NOT_OPTIONS = {"params", "lr", "weight_decay", "maximize", "options"}
NOT_OPTIONS |= {"foreach", "fused", "capturable", "differentiable"}


def of_class(fused: Any) -> list[Algorithm]:
    return [algorithm for algorithm in EVERY_ALGORITHM.values() if algorithm.fused is fused]


def arguments_of(fused: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(fused).parameters.items()}


def test_every_class_is_declared() -> None:
    assert {algorithm.fused for algorithm in EVERY_ALGORITHM.values()} == set(FUSED)


def test_every_rule_is_declared() -> None:
    """One that is not would have no row in the table of registers, nor in that of bytes."""
    listed = re.findall(r"AlgorithmList<([A-Z]\w+(?:,\s*\w+)*)>;", (toolchain.csrc() / "rules" / "all.h").read_text())
    assert len(listed) == 1, "csrc/rules/all.h has no list of all algorithms, or several"
    rules = {algorithm.rule for algorithm in EVERY_ALGORITHM.values()}
    assert sorted(rule.name for rule in rules) == sorted(re.split(r",\s*", listed[0]))
    counted = {a.rule: [*a.traffic.values()] for a in EVERY_ALGORITHM.values() if a.traffic}
    assert counted.keys() == rules, "each is counted once"
    assert all(max(counted[rule]) == rule.states[1] for rule in rules), "with as many states as there may be"


@pytest.mark.parametrize("algorithm", EVERY)
def test_cases(algorithm: Algorithm) -> None:
    assert algorithm.name in algorithm.cases
    assert all(id.split("_")[0] == algorithm.name for id in algorithm.cases)
    for id in (*algorithm.fuzzed, *algorithm.traffic, *algorithm.momentum_off_and_on, *dict(algorithm.schedulable)):
        assert CASE_OF[id].algorithm is algorithm
    name = algorithm.torch.__name__
    assert algorithm.in_torch == (hasattr(torch.optim, name) and algorithm.fused.__name__ == f"Fused{name}")


@pytest.mark.parametrize("algorithm", EVERY)
def test_states(algorithm: Algorithm) -> None:
    """Each case has as many states as are declared; where bytes are counted, the states are those that are named."""
    for id in algorithm.cases:
        opt = CASE_OF[id].fused(make_params((3,)), lr=0.1)
        train(opt, range(1))
        state = opt.state[params_of(opt)[0]]
        count = len(state.keys() - set(NUMBERS))
        assert algorithm.rule.states[0] <= count <= algorithm.rule.states[1]
        assert algorithm.traffic.get(id, count) == count
        assert ("step" in state) == algorithm.has_step
    assert algorithm.per_tensor == (algorithm.rule.measured_states is not None)


@pytest.mark.parametrize("algorithm", EVERY)
def test_tables_of_options(algorithm: Algorithm) -> None:
    assert len(algorithm.group_options) == 4
    assert algorithm.reference_options


@pytest.mark.parametrize("fused", FUSED)
def test_every_argument_is_refused_something(fused: Any) -> None:
    refused = {name for algorithm in of_class(fused) for _, given, *_ in algorithm.bad_arguments for name in given}
    numbers = {n for n, default in arguments_of(fused).items() if type(default) in (int, float, tuple)}
    assert numbers <= refused


@pytest.mark.parametrize("fused", FUSED)
def test_every_argument_that_takes_a_schedule_is_given_one(fused: Any) -> None:
    declared = {name for algorithm in of_class(fused) for _, name in algorithm.schedulable}
    assert declared == {"momentum", "betas", "weight_decay"} & arguments_of(fused).keys()
    switched = any(algorithm.momentum_off_and_on for algorithm in of_class(fused))
    assert switched == ("momentum" in arguments_of(fused))


@pytest.mark.parametrize("fused", FUSED)
def test_every_option_is_taken_through_a_hundred_steps(fused: Any) -> None:
    """Or is among the cases, where one more choice would double the rows."""
    used = {name for a in of_class(fused) for options in (a.choices, *a.cases.values()) for name in options}
    assert arguments_of(fused).keys() - NOT_OPTIONS <= used


def test_a_declaration_without_an_entry_is_no_declaration() -> None:
    entries = {name: getattr(EVERY_ALGORITHM["adam"], name) for name in ("name", "fused", "torch", "cases")}
    with pytest.raises(TypeError, match=r"bad_arguments.*group_options.*traffic"):
        Algorithm(**entries)
