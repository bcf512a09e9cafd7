"""Pictures of what schedules and range tests give. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from . import _checks
from ._messages import shown


class Curve(Protocol):
    """What has a value at each step: a Schedule."""

    def values(self, n: int) -> Tensor: ...


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


def range_test(lrs: Tensor, losses: Tensor, smoothed: Tensor, suggestions: Mapping[str, float | None], ax: Any) -> Any:
    """Draws the losses over the rates, and marks the rates that each method suggests, or None for too few points."""
    ax = _axes(ax)
    ax.plot(lrs.numpy(), losses.numpy(), color="0.75", label="loss")
    ax.plot(lrs.numpy(), smoothed.numpy(), color="C0", label="smoothed")
    for i, (method, lr) in enumerate(suggestions.items()):
        if lr is not None:
            ax.axvline(lr, color=f"C{i + 1}", linestyle="--", linewidth=1, label=f"{method}: {lr:.2g}")
    values = smoothed.tolist()
    fall = values[: values.index(min(values)) + 1] if values else []
    if fall and max(fall) > fall[-1]:  # what diverges would flatten it
        margin = (max(fall) - fall[-1]) / 4
        ax.set_ylim(fall[-1] - margin, max(fall) + margin)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
    ax.legend()
    return ax


def schedules(schedules: Sequence[Curve] | Mapping[str, Curve], num_steps: int, ax: Any) -> Any:
    """Draws the values of each schedule over the steps."""
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
