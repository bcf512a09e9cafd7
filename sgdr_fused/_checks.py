"""Checks of arguments. Every message names the argument and the value."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from torch import Tensor

from ._messages import shown

MAX_STEP = 2**61  # steps are 64-bit integers on the device; the rest of the range is for sums


def rate(name: str, value: Any) -> float:
    """A finite number >= 0, as a float."""
    return between(name, value, 0.0, math.inf, high_open=True)


def between(
    name: str, value: Any, low: float, high: float, *, low_open: bool = False, high_open: bool = False
) -> float:
    """A number in the interval, as a float."""
    number = _as_float(name, value)
    above = number > low if low_open else number >= low
    below = number < high if high_open else number <= high
    if not (above and below):
        wanted = (
            f"{'finite and ' if high_open else ''}{'>' if low_open else '>='} {low:g}"
            if math.isinf(high)
            else f"in {'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        )
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    return number


def finite(name: str, value: Any) -> float:
    """A finite number, as a float."""
    number = _as_float(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return number


def _as_float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value >= 0 else -math.inf  # type: ignore[operator]  # Real is ordered


def integer(name: str, value: Any, low: int) -> int:
    """An integer (also of numpy, but no bool and no float) in [low, MAX_STEP]."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    if not low <= number <= MAX_STEP:
        raise ValueError(f"{name} must be an integer in [{low}, 2**61], got {shown(value)}")
    return number


def integers(name: str, value: Any, low: int) -> tuple[int, ...]:
    """A list of integers in [low, MAX_STEP]."""
    if hasattr(value, "tolist"):  # a tensor or an array
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of integers, got {shown(value)}")
    return tuple(integer(f"{name}[{i}]", item, low) for i, item in enumerate(value))


def count(name: str, value: Any) -> int:
    """A whole number of steps, from an int, a float or a tensor with one element."""
    value = _item(name, value)
    number = between(name, value, 0.0, float(MAX_STEP))
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    return int(value)


def flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def fraction(name: str, value: Any) -> float:
    """A number in [0, 1], from one or from a tensor with one element."""
    return between(name, _item(name, value), 0.0, 1.0)


def _item(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    one_value(name, value)
    return value.item()


def one_value(name: str, tensor: Tensor) -> None:
    """Raises for a tensor that is no single number."""
    if tensor.numel() != 1:
        raise ValueError(f"{name} must have one element, got a tensor of shape {tuple(tensor.shape)}")
    if tensor.is_meta:
        raise ValueError(f"{name} must have a value, got a tensor on the device meta, which has none")
