"""Failures of schedules by the number they have in our list: 32, 38 and 42; 23 is in test_from_torch_negative.py."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import reference_of
from schedule_cases import LAST, SCHEDULES, every_schedule, short
from schedule_extremes import EDGES, EXTREMES, as_text
from torch.optim.lr_scheduler import LambdaLR

from sgdr_fused._native import backends
from sgdr_fused.schedules import (
    Constant,
    CosineCycles,
    CosineWarmRestarts,
    Exponential,
    LinearRamp,
    OneCycle,
    Product,
    Schedule,
    Sequential,
    Shifted,
    Table,
    Triangular,
    Warmup,
    from_torch,
)

pytestmark = [pytest.mark.once, pytest.mark.untracked]
needs_extension = pytest.mark.skipif(backends.load() is None, reason="about the schedules' C++ form")

# ------------------------------------------------------------------------- 38: any step in C++


def compiled_forms(schedule: Schedule) -> list[Any]:
    return [schedule._compiled, schedule._compiled_cycle_ends]


@needs_extension
@pytest.mark.parametrize("schedule", [*SCHEDULES, *EXTREMES], ids=short)
def test_peer_38_steps_before_the_first_and_after_the_last(schedule: Schedule) -> None:
    """Whatever a clock holds: steps below 0 are the first, those beyond 2**61 the last."""
    for compiled in compiled_forms(schedule):
        for t in EDGES:
            value = compiled(t)
            assert value == compiled(min(max(t, 0), LAST))
            assert value >= 0


@pytest.mark.parametrize("schedule", EXTREMES, ids=short)
def test_peer_38_the_ends_of_what_64_bits_hold(schedule: Schedule) -> None:
    plain = reference_of(schedule)
    for t in (0, 1, 2, 10**15, LAST - 2, LAST - 1, LAST):
        assert schedule(t) == pytest.approx(plain(t), rel=1e-12, abs=0.0)
        _, position, length = schedule.cycle(t)
        ends = length is not None and position == length - 1
        assert schedule.is_cycle_end(t) == ends
        if backends.load() is not None:
            assert schedule._compiled_cycle_ends(t) == ends


COMPILER = shutil.which("c++")


@needs_extension
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_peer_38_sanitizers_find_nothing(tmp_path: Path) -> None:
    """AddressSanitizer and UBSan over every kind of schedule at every edge; and the values are the extension's."""
    here = Path(__file__).resolve().parent.parent
    program = tmp_path / "schedules"
    environment = {**os.environ, "LD_PRELOAD": ""}  # of a sanitizer that Python runs under
    sanitizers = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    subprocess.run(
        [str(COMPILER), "-std=c++20", "-O1", "-ffp-contract=off", *sanitizers, f"-I{here.parent / 'csrc'}"]
        + [str(here / "schedule_sanitized.cpp"), "-o", str(program)],
        check=True,
        env=environment,
    )
    schedules = [*SCHEDULES, *EXTREMES]
    segments = [form for schedule in schedules for form in (schedule._segments(), schedule._cycle_ends())]
    expected = [form(t) for schedule in schedules for form in compiled_forms(schedule) for t in EDGES]
    text = "\n".join([str(len(segments)), *(as_text(each, EDGES) for each in segments)])
    ran = subprocess.run(
        [str(program)], input=text, capture_output=True, text=True, env={**os.environ, "LD_PRELOAD": ""}
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    values = [float.fromhex(line) for line in ran.stdout.split()]
    assert len(values) == len(expected)
    assert values == pytest.approx(expected, rel=1e-13, abs=0.0)


@needs_extension
def test_peer_38_tables_below_their_first_entry() -> None:
    table = Table([0.1, 0.2, 0.3])
    for t in (-1, -(10**13), -(2**63)):
        assert table._compiled(t) == 0.1
    assert table._compiled(2**63 - 1) == 0.3


# ------------------------------------------------------------------------------ 42: input that grows

USES: dict[str, Callable[[Schedule], Any]] = {
    "call": lambda s: s(3),
    "values": lambda s: s.values(5),
    "cycle": lambda s: s.cycle(7),
    "is_cycle_end": lambda s: s.is_cycle_end(7),
    "has_cycles": lambda s: s.has_cycles,
    "last_step": lambda s: s.last_step,
    "upper_bound": lambda s: s.upper_bound,
    "reference": lambda s: reference_of(s)(3),
    "own_reference": lambda s: s._reference(3),
    "segments": lambda s: s._segments(),
    "cycle_ends": lambda s: s._cycle_ends(),
    "hash": hash,
    "repr": repr,
    "eq": lambda s: s == type(s)(*s._fields().values()),
    "pickle": lambda s: pickle.loads(pickle.dumps(s)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "dict": lambda s: Schedule.from_dict(json.loads(json.dumps(s.to_dict()))),
}
COPIES = ("pickle", "copy", "deepcopy", "dict")


def deeper(calls: int, use: Callable[[], Any]) -> Any:
    """Calls the function from within a program whose own calls are that deep."""
    return use() if calls == 0 else deeper(calls - 1, use)


# Ways in which a schedule grows by one level, and how it grows by both at once.
LEVELS: dict[str, Callable[[Schedule], Schedule]] = {
    "shifted": lambda s: s.shifted(1),
    "scaled": lambda s: 0.9 * s,
    "scaled_back": lambda s: s * 1.1,
    "squared": lambda s: s * s,
    "warmed_up": lambda s: Warmup(s, 2, 0.5),
    "in_a_sequence": lambda s: Sequential([s]),
    "last": lambda s: Sequential([(Constant(0.3), 2), s]),
    "first": lambda s: Sequential([(s, 5), Constant(0.3)]),
    "twice": lambda s: Sequential([(s, 5), s]),
    "shifted_and_scaled": lambda s: 0.9 * s.shifted(1),
    "warmed_up_and_squared": lambda s: Warmup(s, 2) * s,
    "three_times": lambda s: Sequential([(s, 3), (s.shifted(2) * s, 4), Warmup(s, 3)]),
}


def larger(schedule: Schedule, level: Callable[[Schedule], Schedule]) -> Schedule | str:
    """One level more, or why not."""
    try:
        return level(schedule)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("level", LEVELS)
def test_peer_42_nested_schedules_work_or_are_refused(level: str, use: str) -> None:
    """Up to 200 levels: what can be made can be used, also far down a stack; the rest is refused with the limit."""
    schedule: Schedule = CosineWarmRestarts(0.5, 3, 2)
    for _ in range(200):
        grown = larger(schedule, LEVELS[level])
        if isinstance(grown, str):
            assert re.search(r"must (not make more than|be at most) [0-9,]+", grown), grown
            assert len(grown) < 500
            break
        schedule = grown
    result = deeper(200, lambda: USES[use](schedule))
    if use in COPIES:
        assert result == schedule and hash(result) == hash(schedule)


def test_peer_42_products_and_shifts_do_not_grow() -> None:
    once = CosineWarmRestarts(0.5, 3, 2)
    scaled: Schedule = once
    shifted: Schedule = once
    for _ in range(1000):
        scaled, shifted = scaled * 0.5 if scaled(0) > 1e-3 else 2.0 * scaled, shifted.shifted(3)
    assert isinstance(scaled, Product) and len(scaled.factors) == 2
    assert scaled(7) == pytest.approx(scaled(0) / once(0) * once(7), rel=1e-14)
    assert shifted == Shifted(once, 3000) and repr(shifted) == f"Shifted(schedule={once!r}, steps=3000)"


def test_peer_42_products_are_the_same_however_they_are_nested() -> None:
    a, b, c = Exponential(0.5, 0.9), LinearRamp(0.1, 0.3, 7), Triangular(0.1, 0.2, 3)
    flat = Product((a, b, c))
    assert Product((a, Product((b, c)))) == Product((Product((a, b)), c)) == flat == a * b * c == a * (b * c)
    assert 2 * (3 * a) == Product((Constant(6.0), a)) == 6 * a
    assert Product((a, Constant(2), b, Product((Constant(4), c)))).factors == (a, Constant(8.0), b, c)
    assert Product((a, Constant(2))).factors == (a, Constant(2.0))


def test_peer_42_what_is_too_large_is_refused_before_it_is_made() -> None:
    """The limits, and the memory that a refusal takes: a few MB where the schedule would have had GB."""
    many = Sequential([*((Constant(0.1 + k / 10**6), 1) for k in range(10_000)), Constant(0.5)])
    cycles_of_three = Sequential([*((OneCycle(0.1, 20, three_phase=True), 30) for _ in range(2000)), Constant(0.5)])
    four = [cycles_of_three.shifted(k) for k in range(4)]
    long = Table([0.1] * 10**6)
    fifty = Sequential([*((Constant(0.1), 1) for _ in range(50)), Exponential(0.1, 0.9)])
    cycles = CosineCycles(0.1, [1] * 65_536)
    tracemalloc.start()
    for make, limit in (
        (lambda: Product(four), "65,536 segments"),
        (lambda: Sequential([(many, 10_000), many]), "16,384 schedules"),
        (lambda: long * fifty, "16,777,216 entries"),
        (lambda: Sequential([*((cycles, 1) for _ in range(300)), Constant(0.5)]), "16,777,216 entries"),
        (lambda: Sequential([*[(Constant(0.1), 1)] * 16_384, Constant(0.1)]), "at most 16,384"),
        (lambda: Product([Exponential(0.1, 0.9)] * 20_000), "at most 16,384"),
        (lambda: Table(lambda t: 0.1, num_steps=2**40), "at most 16,777,216"),
    ):
        with pytest.raises(ValueError, match=limit) as caught:
            make()
        assert len(str(caught.value)) < 500
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    ten = Sequential([*((Constant(0.1), 1) for _ in range(10)), Exponential(0.1, 0.9)])
    assert (long * ten)(5) == pytest.approx(0.01)


def test_peer_42_infinite_products() -> None:
    """Products are infinite in any order of their factors, also those that a factor of 0 would have made nan."""
    big, small = LinearRamp(1e200, 1e199, 3), LinearRamp(1e-300, 1e-301, 3)
    for factors in ((Constant(1e200), Constant(1e200), Constant(0)), (small, big, big), (big, big, small), (big, big)):
        with pytest.raises(ValueError, match="infinite product"):
            Product(factors)
    assert Product((big, small, big))(0) == pytest.approx(1e100)
    assert Product((Constant(1e-300), big, big))(0) == pytest.approx(1e100)


def lists(depth: int) -> Any:
    value: Any = [0.1]
    for _ in range(depth):
        value = [value]
    return value


def shared(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = {"kind": "Exponential", "lr": 0.1, "gamma": 0.9}
    for _ in range(depth):
        value = wrap(value)
    return value


def itself() -> Any:
    value: dict[str, Any] = {"kind": "Warmup", "steps": 3}
    value["schedule"] = value
    return value


def list_of_itself() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


RATE = {"kind": "Constant", "value": 0.1}
HOSTILE: dict[str, Callable[[], Any]] = {
    "deep": lambda: shared(10_000, lambda s: {"kind": "Warmup", "schedule": s, "steps": 1}),
    "a_little_deep": lambda: shared(65, lambda s: {"kind": "Warmup", "schedule": s, "steps": 1}),
    "deep_sequences": lambda: shared(300, lambda s: {"kind": "Sequential", "schedules": [[RATE, 1], s]}),
    "doubling_products": lambda: shared(60, lambda s: {"kind": "Product", "factors": [s, s]}),
    "doubling_sequences": lambda: shared(60, lambda s: {"kind": "Sequential", "schedules": [[s, 1], s]}),
    "doubling_lists": lambda: {"kind": "Table", "entries": shared(60, lambda s: [s, s])},
    "doubling_numbers": lambda: {"kind": "Constant", "value": shared(60, lambda s: [s, s])},
    "doubling_kinds": lambda: {"kind": shared(60, lambda s: [s, s])},
    "doubling_fields": lambda: {"kind": "Constant", "value": 0.1, "more": shared(60, lambda s: [s, s])},
    "no_kind": lambda: {"entries": [0.1] * 10**6},
    "kind": lambda: {"kind": "x" * 10**6},
    "itself": itself,
    "list_of_itself": lambda: {"kind": "Product", "factors": list_of_itself()},
    "deep_lists": lambda: {"kind": "Table", "entries": lists(5000)},
    "wide": lambda: {"kind": "Product", "factors": [RATE] * 10**6},
    "wide_sequence": lambda: {"kind": "Sequential", "schedules": [*([[RATE, 1]] * 10**6), RATE]},
    "long_table": lambda: {"kind": "Table", "entries": [0.1] * 10**6 + ["high"]},
    "too_long_table": lambda: {"kind": "Table", "entries": range(2**24 + 1)},
    "long_lengths": lambda: {"kind": "CosineCycles", "max_lr": 0.1, "lengths": [1] * 10**6},
    "nan": lambda: {"kind": "Constant", "value": math.nan},
    "nan_in_a_table": lambda: {"kind": "Table", "entries": [0.1, math.nan]},
    "infinite_steps": lambda: {"kind": "LinearRamp", "start": 0.1, "end": 0.2, "steps": math.inf},
    "huge_steps": lambda: {"kind": "LinearRamp", "start": 0.1, "end": 0.2, "steps": 10**400},
    "none": lambda: {"kind": "Constant", "value": None},
    "number_of_strings": lambda: {"kind": "LinearRamp", "start": 0.1, "end": 0.2, "steps": "1" * 10**6},
    "missing": lambda: {"kind": "LinearRamp", "start": 0.1},
    "names_of_other_types": lambda: {"kind": "Constant", "value": 0.1, 3: 4, None: 5},
    "private": lambda: {"kind": "_Ramp", "start": 0.1, "end": 0.2, "steps": 3},
    "epochs": lambda: {"kind": "OneCycle", "max_lr": 0.1, "epochs": 2, "steps_per_epoch": 3},
    "a_list": lambda: [RATE],
    "a_string": lambda: "Constant(0.1)",
    "a_schedule": lambda: Constant(0.1),
}


@pytest.mark.parametrize("make", HOSTILE)
def test_peer_42_hostile_dictionaries_give_a_short_error(make: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message's length is what counts
        Schedule.from_dict(HOSTILE[make]())
    assert len(str(caught.value)) < 1000


# ---------------------------------------------------------------- 32: tensors and the default device


@pytest.fixture
def default_device_meta() -> Any:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@every_schedule
@pytest.mark.parametrize("extension", [True, False])
def test_peer_32_values_are_on_the_cpu(
    schedule: Schedule, extension: bool, default_device_meta: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not extension:
        monkeypatch.setattr(backends, "load", lambda: None)
    values = copy.deepcopy(schedule).values(5)
    assert values.device.type == "cpu"
    assert values.tolist() == pytest.approx([reference_of(schedule)(t) for t in range(5)], rel=1e-12, abs=0.0)


def test_peer_32_a_table_of_tensors(default_device_meta: None) -> None:
    assert Table(torch.tensor([0.5, 0.25], device="cpu")) == Table([0.5, 0.25])
    assert Table(lambda t: 0.5**t, 2) == Table([1.0, 0.5])
    with pytest.raises(ValueError, match=r"entries must have values, got a tensor of shape \(2,\) on meta"):
        Table(torch.ones(2))


def test_peer_32_from_torch(default_device_meta: None) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.warns(UserWarning, match="tabulated"):
        schedule = from_torch(LambdaLR(optimizer, lambda epoch: 0.5**epoch), num_steps=4)[0]
    assert schedule.values(3).tolist() == [0.1, 0.05, 0.025]
