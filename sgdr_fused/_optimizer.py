"""What all fused optimizers share: groups, hyperparameters, the clock and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from . import _backend, _checkpoint, _hypers, _param_checks, _plans, averages, clipping
from ._clock import Clock
from ._cycle_ends import CycleEndHook, CycleEnds
from ._hypers import SCHEDULE_KEYS, Hyper, first, is_plain, with_first
from ._options import Options, checked_options, new_seed
from ._tracked import Changes, Group, State
from .averages import Average
from .clipping import Measured
from .schedules import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FusedOptimizer(Optimizer):
    """Base class. A subclass names its algorithm (csrc/update_rules.h), its entries and its state."""

    # The algorithm's name, its hypers and constants in the order of its enums, in C++.
    _algorithm: ClassVar[str]
    _hypers: ClassVar[tuple[Hyper, ...]]
    _constants: ClassVar[tuple[str, ...]]
    # Whether the state has `step`; else the count of a parameter's updates is kept beside it.
    _has_step: ClassVar[bool]
    # The entry of the state, in [0, 1], that counted steps multiply by a factor of the algorithm's, if any.
    _product: ClassVar[str | None] = None
    # Entries that torch's class does not have, and what a checkpoint without them means.
    _beyond_torch: ClassVar[Mapping[str, Any]] = {}
    _step_supports_amp_scaling = True  # GradScaler leaves unscaling and skipping to step()

    def __init__(self, params: Any, defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        if isinstance(params, Iterable) and not isinstance(params, Tensor):
            params = list(params)
            if not params:
                raise ValueError("params must not be empty, got []")
        self._reset()
        self._options = checked_options(options)
        self._rounding_seed = new_seed() if self._options["stochastic_rounding"] else None
        self._measured = Measured()
        super().__init__(params, defaults)
        averages.check_schedule(self)

    def _reset(self) -> None:
        """The fields that neither a pickle nor a deepcopy carries."""
        self._changes = Changes()
        self._plans: list[_plans.AnyPlan] = []
        self._captured_plans: list[_plans.AnyPlan] = []  # a graph holds their addresses
        self._membership: Any = None
        self._step_plans: Any = None
        self._host_reads: list[tuple[_plans.AnyPlan, int, int, Tensor]] = []
        self._conversions: list[tuple[Tensor, Tensor]] = []
        self._clocks: dict[torch.device, Clock] = {}
        self._counts: dict[torch.device, Clock] = {}
        self._cycle_ends = CycleEnds()

    # ---- what a subclass defines

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The state tensors of a parameter in this group, in the order of the kernel's."""
        raise NotImplementedError

    def _initial_value(self, group: dict[str, Any], name: str) -> float:
        """What the elements of that state are before the first step."""
        return 0.0

    def _check_constant(self, key: str, value: Any) -> None:
        """Raises for a bad value of an entry that is no hyperparameter."""
        raise NotImplementedError

    def _kernel_constant(self, key: str, value: Any) -> float:
        """What the kernels get for one of `_constants`."""
        return float(value)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises for entries that do not go together, in a group that is being added."""

    def _reference_update(
        self, spec: _param_checks.ParamSpec, grad: Tensor, hypers: list[float], group: dict[str, Any]
    ) -> None:
        """One parameter's update by reference.py, its states and steps included."""
        raise NotImplementedError

    # ---- state and groups: whatever is put there becomes a mapping that tells of changes

    @property
    def state(self) -> State:  # type: ignore[override]
        return self._state

    @state.setter
    def state(self, value: dict[Any, Any]) -> None:
        self._state = State(self._changes, value)
        self._changes.plan = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self._param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._param_groups: list[dict[str, Any]] = [self._adopted(group) for group in groups]
        self._changes.plan = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch. Entries that it lacks are the constructor's, Schedules included.

        The new group shares the clock: its Schedules start where the clock stands.

        Raises:
            ValueError, TypeError: for a bad value or parameter, naming it; nothing is changed.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {param_group!r}")
        values = {**param_group, "params": _param_checks.listed(param_group.get("params"))}
        taken = {p for group in self._param_groups for p in group["params"]}
        _param_checks.check_params(values["params"], taken, self._options)
        before = len(self._param_groups)
        super().add_param_group(values)
        try:
            self._param_groups[-1] = self._adopted(self._param_groups[-1])
            self._check_group(self._param_groups[-1])
            clipping.check_devices(self._options, (p for group in self._param_groups for p in group["params"]))
        except BaseException:
            del self._param_groups[before:]
            raise
        self._changes.plan = True

    def _adopted(self, values: dict[str, Any]) -> Group:
        """The group as one of ours, its values checked and normalised."""
        if isinstance(values, Group):
            return values
        values = dict(values)
        for key, schedule_key in SCHEDULE_KEYS.items():
            schedule = values.pop(schedule_key, None)
            if schedule is not None and key in values:  # a copy of a fused optimizer's group
                values[key] = (schedule, *values[key][1:]) if key == "betas" else schedule
        group = Group(self._changes, self._assign, values)
        for schedule_key in SCHEDULE_KEYS.values():
            group.replace(schedule_key, None)
        for key, value in values.items():
            group[key] = value
        return group

    def _assign(self, group: Group, key: str, value: Any) -> Any:
        """Checks what the user assigns to group[key]; returns what is stored."""
        if key in SCHEDULE_KEYS.values():
            name = next(name for name, schedule_key in SCHEDULE_KEYS.items() if schedule_key == key)
            raise ValueError(f"group[{key!r}] is read-only; assign to group[{name!r}] instead, got {value!r}")
        if key == "differentiable" and value:
            raise ValueError(f"differentiable must be False, got {value!r}: a fused step has no backward")
        if key in {hyper.key for hyper in self._hypers}:
            return self._assign_hyper(group, key, value)
        if key in self.defaults:
            self._check_constant(key, value)
        if key == "params" or key in self.defaults:
            self._changes.plan = True
        return value

    def _assign_hyper(self, group: Group, key: str, value: Any) -> Any:
        schedule_key = SCHEDULE_KEYS[key]
        if key == "betas" and isinstance(value, list):
            value = tuple(value)  # what is edited in place would go unnoticed
        old, old_schedule = group.get(key), group[schedule_key]
        if old_schedule is not None and first(value) is first(old):
            value = with_first(value, old_schedule)  # the display assigned back to where it came from
        _hypers.check(key, value)
        schedule = first(value) if isinstance(first(value), Schedule) else None
        display = None if schedule is None else self._new_display(group, schedule)
        # Whether momentum is in use decides on the state, so on the plan.
        same_use = key != "momentum" or bool(old) == bool(value)
        if old_schedule is None and same_use and is_plain(old) and is_plain(value):
            self._changes.numbers = True
        else:
            self._changes.plan = True
        group.replace(schedule_key, schedule)
        group.displays.pop(key, None)
        if display is None:
            return value
        group.displays[key] = (display, display._version)
        return with_first(value, display)

    # ---- the clock and what it shows

    @property
    def clock(self) -> Tensor:
        """Steps taken: a 0-dim int64 tensor on the first parameter's device.

        Skipped steps are not counted. All Schedules are functions of it; ``clock.fill_(n)`` moves them,
        and the displayed rates, to step ``n``.
        """
        return self._clock_on(self._first_device())

    @property
    def backend(self) -> str:
        """What computes a step for the first parameter: ``"cuda"``, ``"cpu"`` or ``"reference"``."""
        return _backend.backend_for(self._first_device())

    @property
    def average(self) -> Average:
        """What the constructor was given as ``average``."""
        return self._options["average"]

    @property
    def n_averaged(self) -> Tensor:
        """What the averages are of: a 0-dim int64 tensor, the cycles that have ended, or with EMA the steps taken.

        ``n_averaged.zero_()`` starts them anew: what comes next replaces them.
        """
        return self._count_on(self._first_device())

    @property
    def grad_norm(self) -> Tensor:
        """The Euclidean norm of all gradients at the last step, before ``max_grad_norm``: a 0-dim float64 tensor.

        It is on the parameters' device, always the same tensor, and also written by replays of a CUDA graph. An
        AttributeError without an option that needs it.
        """
        return clipping.norm_of(self)

    @property
    def skipped_steps(self) -> Tensor:
        """With ``skip_nonfinite``, how many steps were skipped: a 0-dim int64 tensor on the parameters' device."""
        return clipping.skipped_of(self)

    def _first_device(self) -> torch.device:
        for group in self._param_groups:
            for param in group["params"]:
                return param.device
        return torch.device("cpu")

    def _clock_on(self, device: torch.device) -> Clock:
        return self._on(device, self._clocks, self._clock_written)

    def _count_on(self, device: torch.device) -> Clock:
        return self._on(device, self._counts, self._count_written)

    def _on(self, device: torch.device, copies: dict[torch.device, Clock], written: Callable[[], None]) -> Clock:
        if device not in copies:
            copies[device] = Clock.make(int(next(iter(copies.values()), 0)), device, written)
        return copies[device]

    def _count_written(self) -> None:
        _copy_to_others(self.n_averaged, self._counts)

    def _clock_written(self) -> None:
        self._cycle_ends.forget()
        _copy_to_others(self.clock, self._clocks)
        if self._plans and not self._changes.plan:
            for plan in self._plans:
                plan.show()
        else:
            self._show_from_host()

    def _show_from_host(self) -> None:
        steps = int(self.clock)
        for group in self._param_groups:
            # A plain dict that the user put there shows nothing before a step has made it one of ours.
            for key, (display, _) in getattr(group, "displays", {}).items():
                display.data.fill_(group[SCHEDULE_KEYS[key]](steps))

    def _new_display(self, group: Group, schedule: Schedule) -> Tensor:
        """The tensor that shows what `schedule` gives at the next step."""
        device = group["params"][0].device if group["params"] else self._first_device()
        steps = int(self.clock) if self._clocks else 0
        with torch.inference_mode(False):
            return torch.tensor(schedule(steps), dtype=torch.float64, device=device)

    # ---- the step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Performs one optimization step.

        Args:
            closure: reevaluates the model and returns the loss; called once, with gradients enabled.

        Returns:
            what the closure returned; None without one.

        Raises:
            ValueError, TypeError, RuntimeError: naming what is wrong; parameters, states and clock are
                as they were.
        """
        if (
            torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
        ):
            return _step_with_hooks(self, closure) if closure is not None else _step_with_hooks(self)
        return self._step(closure)

    # torch would wrap step() in hooks and a profiler range that cost more than a small model's step.
    # step() takes that road itself when there is a hook or a profiler.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        has_hooks = bool(self._cycle_ends.hooks)
        if has_hooks:
            self._cycle_ends.before_step(self)
        if self._changes.plan or _backend.load() is None or not _plans.take_step(self):
            _plans.rebuild(self)
            if not _plans.take_step(self):
                raise RuntimeError("parameters or gradients changed while the step was prepared")
        if has_hooks:
            self._cycle_ends.after_step(self)
        return loss

    def register_cycle_end_hook(self, hook: CycleEndHook) -> RemovableHandle:
        """Registers a function that is called when a cycle of the learning rate has ended.

        After the step ``t`` for which ``schedule.is_cycle_end(t)``, and so just before a restart, ``hook(optimizer,
        index)`` is called with the index of the cycle that ended; skipped steps put it off. ``schedule`` is
        the first Schedule that stands for ``lr`` in ``param_groups``. Hooks run in the order in which they were
        registered. They are not part of checkpoints, pickles and copies.

        The host waits for the device's clock once per cycle, to know whether steps were skipped. Nothing is called
        by replays of a captured CUDA graph, of which the host does not hear: a cycle that ends in one is passed over.

        Returns:
            a handle whose ``remove()`` takes the hook away.

        Raises:
            ValueError: if no group has a Schedule for ``lr``.

        Example:
            >>> from sgdr_fused import FusedSGD
            >>> from sgdr_fused.schedules import CosineWarmRestarts
            >>> weight = torch.nn.Parameter(torch.ones(3))
            >>> opt = FusedSGD([weight], lr=CosineWarmRestarts(0.1, T_0=2, T_mult=2))
            >>> handle = opt.register_cycle_end_hook(lambda opt, index: print("cycle", index, "after", int(opt.clock)))
            >>> for _ in range(6):
            ...     opt.step()
            cycle 0 after 2
            cycle 1 after 6
        """
        return self._cycle_ends.add(self, hook)

    def swap_average(self) -> AbstractContextManager[None]:
        """Puts the averages into the parameters for the time of a ``with`` block: to evaluate with them.

        At its end the parameters are, bit for bit, what they were before. The averages are rounded where the
        parameters have fewer bits. A parameter that never had a gradient has no average and stays as it is. Inside,
        ``step()`` raises; replays of a captured CUDA graph, of which the host does not hear, must not run there.
        Batch norm's statistics are not the averages': see :func:`~sgdr_fused.refreshed_batch_norm`.

        Raises:
            RuntimeError: without ``average``, before anything was averaged, and inside itself.

        Example:
            >>> from sgdr_fused import FusedSGD
            >>> from sgdr_fused.schedules import CosineWarmRestarts
            >>> weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
            >>> opt = FusedSGD([weight], lr=CosineWarmRestarts(1.0, T_0=1), average="cycle")
            >>> for _ in range(3):
            ...     weight.grad = torch.full_like(weight, -1.0)
            ...     opt.step()
            >>> with opt.swap_average():
            ...     print(weight.item())
            2.0
            >>> weight.item()
            3.0
        """
        return averages.swapped(self)

    # ---- checkpoints, pickle, deepcopy

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout, with the clock and the Schedules in the groups.

        A scheduled hyperparameter is the Python float of its next value. A parameter that no step has
        updated has no ``momentum_buffer``; to know, this may wait for the device.
        """
        return _checkpoint.state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict()`` of this class or of its counterpart in torch.optim returned.

        The checkpoint's groups replace ours, Schedules included, and the clock is written in place.
        A checkpoint of torch.optim has no Schedules: ours stay, and the clock becomes its largest
        ``step``; where it has none either, the clock stays too and a warning says how to set it.
        State tensors keep their own dtypes.

        Raises:
            ValueError: for a checkpoint that does not fit; nothing is changed.
        """
        _checkpoint.load_state_dict(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return _checkpoint.get_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        _checkpoint.set_state(self, state)


def _copy_to_others(source: Tensor, copies: dict[torch.device, Clock]) -> None:
    for copy in copies.values():
        if copy is not source:
            copy.data.copy_(source.as_subclass(Tensor))


_step_with_hooks = Optimizer.profile_hook_step(FusedOptimizer._step)
