"""WarmupStableDecay: Hugging Face's formula, its phases, and what its arguments may be."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgdr_fused.schedules import Constant, HalfCosine, LinearRamp, Sequential, Warmup, WarmupStableDecay

pytestmark = pytest.mark.once

TYPES = ("linear", "cosine")


def hugging_face(
    t: int, warmup: int, stable: int, decay: int, warmup_type: str, decay_type: str, min_lr_ratio: float
) -> float:
    """The factor that transformers.get_wsd_schedule (5.0) multiplies the rate by, as its documentation has it."""
    if warmup <= t < warmup + stable:
        return 1.0
    if t < warmup:
        u = t / warmup
        factor = u if warmup_type == "linear" else 0.5 * (1.0 - math.cos(math.pi * u))
    elif t < warmup + stable + decay:
        u = (t - warmup - stable) / decay
        factor = 1.0 - u if decay_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * u))
    else:
        factor = 0.0
    return factor * (1.0 - min_lr_ratio) + min_lr_ratio


@given(
    max_lr=st.floats(1e-8, 1e3),
    phases=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40)),
    types=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    min_lr_ratio=st.floats(0.0, 1.0),
)
@example(max_lr=0.1, phases=(0, 0, 1), types=("linear", "linear"), min_lr_ratio=0.0)
@settings(deadline=None)
def test_every_step_is_as_hugging_face_has_it(
    max_lr: float, phases: tuple[int, int, int], types: tuple[str, str], min_lr_ratio: float
) -> None:
    """To 1e-12 of the stable rate: 1 + cos cancels there, and does not here."""
    schedule = WarmupStableDecay(max_lr, *phases, *types, min_lr_ratio)
    expected = [max_lr * hugging_face(t, *phases, *types, min_lr_ratio) for t in range(130)]
    assert schedule.values(130).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12 * max_lr)


@pytest.mark.parametrize("decay_type", TYPES)
@pytest.mark.parametrize("warmup_type", TYPES)
def test_the_corners_are_exact(warmup_type: str, decay_type: str) -> None:
    schedule = WarmupStableDecay(0.3, 7, 11, 13, warmup_type, decay_type, min_lr_ratio=0.1)
    assert schedule(0) == schedule(31) == schedule(10**12) == 0.1 * 0.3
    assert {schedule(t) for t in range(7, 19)} == {0.3}
    assert schedule.values(7).diff().min() > 0
    assert schedule.values(32)[18:].diff().max() < 0
    assert schedule.cycle(20) == (0, 20, None)


def test_it_is_what_its_parts_are() -> None:
    """Bit for bit, without a rise from above 0, which Warmup computes in another way."""
    for ramp, name in ((LinearRamp, "linear"), (HalfCosine, "cosine")):
        parts = Sequential([(Constant(0.3), 20), ramp(0.3, 0.3 * 0.01, 30)])
        whole = WarmupStableDecay(0.3, 0, 20, 30, decay_type=name, min_lr_ratio=0.01)
        assert whole.values(60).tolist() == parts.values(60).tolist()
    from_zero = Warmup(WarmupStableDecay(0.3, 0, 20, 30, min_lr_ratio=0.5), steps=4)
    assert from_zero.values(5).tolist() == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3], rel=1e-15)


def test_num_training_steps_in_place_of_the_stable_ones() -> None:
    made = WarmupStableDecay(0.1, num_warmup_steps=10, num_decay_steps=20, num_training_steps=100)
    assert made == WarmupStableDecay(0.1, 10, 70, 20)
    assert WarmupStableDecay(0.1, 10, num_decay_steps=20, num_training_steps=30).num_stable_steps == 0
    assert "num_training_steps" not in repr(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_decay_steps": 20}, "num_stable_steps must be given, or num_training_steps, got None"),
        ({"num_stable_steps": 20}, "num_decay_steps must be an integer, got None"),
        ({"num_decay_steps": 20, "num_training_steps": 29}, "num_training_steps must be at least .* = 30, got 29"),
        ({"num_decay_steps": 20, "num_training_steps": 99.5}, "num_training_steps must be an integer, got 99.5"),
        ({"num_decay_steps": 20, "num_training_steps": 2**62}, "num_training_steps must be .*, got 46116860184"),
        ({"num_stable_steps": 2**60, "num_decay_steps": 2**60}, r"at most 2\*\*61, got 10, 1152921504606846976 and"),
    ],
)
def test_numbers_of_steps_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        WarmupStableDecay(0.1, 10, **arguments)


def test_a_decay_of_hagele_and_others_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=re.escape("decay_type must be one of ['cosine', 'linear'], got '1-sqrt'")):
        WarmupStableDecay(0.1, 10, 20, 30, decay_type="1-sqrt")
