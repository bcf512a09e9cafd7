"""The pictures, on matplotlib, which is imported when the first is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import _checks
from ._messages import shown
from .training._suggestions import RULES

if TYPE_CHECKING:
    from .schedules import Schedule
    from .training._range_result import LRFindResult


def _axes(ax: Any) -> Any:
    """`ax`, or the Axes of a new Figure, which is not pyplot's: it goes when nobody holds it."""
    if ax is not None:
        if not callable(getattr(ax, "plot", None)) or not callable(getattr(ax, "axvline", None)):
            raise TypeError(f"ax must be matplotlib Axes, such as figure.subplots() returns, got {shown(ax)}")
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'sgdr_fused[plot]', or pip install matplotlib") from error
    return Figure(layout="constrained").subplots()


def range_test(result: LRFindResult, ax: Any) -> Any:
    ax = _axes(ax)
    ax.plot(result.lrs.numpy(), result.losses.numpy(), color="0.75", label="loss")
    ax.plot(result.lrs.numpy(), result.smoothed.numpy(), color="C0", label="smoothed")
    for i, method in enumerate(RULES):
        try:
            lr = result.suggestion(method)
        except ValueError:  # too few points
            continue
        ax.axvline(lr, color=f"C{i + 1}", linestyle="--", linewidth=1, label=f"{method}: {lr:.2g}")
    smoothed = result.smoothed.tolist()
    fall = smoothed[: smoothed.index(min(smoothed)) + 1] if smoothed else []
    if fall and max(fall) > fall[-1]:  # what diverges would flatten it
        margin = (max(fall) - fall[-1]) / 4
        ax.set_ylim(fall[-1] - margin, max(fall) + margin)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
    ax.legend()
    return ax


def schedules(schedules: Sequence[Schedule] | Mapping[str, Schedule], num_steps: int, ax: Any) -> Any:
    num_steps = _checks.integer("num_steps", num_steps, 1)
    if not isinstance(schedules, Iterable) or isinstance(schedules, str):
        raise TypeError(f"schedules must be a list of Schedules, or a dict of them, got {shown(schedules)}")
    labelled = list(schedules.items()) if isinstance(schedules, Mapping) else [(repr(each), each) for each in schedules]
    for label, schedule in labelled:
        if not callable(getattr(schedule, "values", None)) or isinstance(schedule, (Mapping, type)):
            raise TypeError(f"schedules must be Schedules, got {shown(schedule)} for {shown(label)}")
    values = [(label, schedule.values(num_steps).numpy()) for label, schedule in labelled]
    ax = _axes(ax)
    for label, each in values:
        ax.plot(range(num_steps), each, label=label)
    ax.set(xlabel="step", ylabel="value")
    ax.legend()
    return ax
