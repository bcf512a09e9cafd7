"""What all fused optimizers share: groups, hyperparameters, the clock and the step."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from .. import averages
from .._engine import build_plan, checkpoint, clipping, compiling, displays, param_groups, states_only, validation
from .._engine.clipping import Measured
from .._engine.clock import Clock
from .._engine.host_clock import CycleEndHook, HostClock
from .._engine.hyperparameters import Hyper
from .._engine.options import Options, checked_options, new_seed
from .._engine.representation import representation
from .._engine.tracked import Changes, Group, ParamState, State, TrackedDict
from .._messages import shown
from .._native import backends
from ..averages import Average

if TYPE_CHECKING:
    from typing_extensions import Unpack


# For a step: a second one where something has changed, and more where signal handlers change things meanwhile.
_MOST_BUILDS = 100


@compiling.untraced(but=("state", "param_groups"))
class FusedOptimizer(Optimizer):
    """Base class. A subclass names its algorithm (csrc/rules/all.h), its entries and its state."""

    # The algorithm's name, its hypers and constants in the order of its enums, in C++.
    _algorithm: ClassVar[str]
    _hypers: ClassVar[tuple[Hyper, ...]]
    _constants: ClassVar[tuple[str, ...]]
    # Whether the state has `step`; else the count of a parameter's updates is kept beside it.
    _has_step: ClassVar[bool]
    # The entry of the state, in [0, 1], that counted steps multiply by a factor of the algorithm's, if any.
    _product: ClassVar[str | None] = None
    # Whether the update needs the norm of each parameter.
    _measures_params: ClassVar[bool] = False
    # Entries that torch's class does not have, and what a checkpoint without them means.
    _beyond_torch: ClassVar[Mapping[str, Any]] = {}
    _param_groups: list[dict[str, Any]]
    _step_supports_amp_scaling = True  # GradScaler leaves unscaling and skipping to step()

    def __init__(self, params: Any, defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        self._reset()
        self._options = checked_options(options, type(self).__name__, defaults)
        self._rounding_seed = new_seed() if self._options["stochastic_rounding"] else None
        self._measured = Measured()
        super().__init__(validation.groups_of(params), defaults)
        averages.check_schedule(self)

    def _reset(self) -> None:
        """The fields that neither a pickle nor a deepcopy carries."""
        self._changes = Changes(self)
        self._param_groups = []
        self._state = State()
        self._built = build_plan.Built(None)
        self._captured_plans: list[build_plan.AnyPlan] = []  # a graph holds their addresses
        self._has_aliases = False
        self._swapped: weakref.ref[Any] | None = None  # to what lives while the averages stand for the weights
        self._clocks: dict[torch.device, Clock] = {}
        self._counts: dict[torch.device, Clock] = {}
        self._host_clock = HostClock()

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

    @classmethod
    def _family(cls) -> str:
        """What the algorithms have in common of which one may go on from another's checkpoint."""
        return cls._algorithm

    def _kernel_constant(self, key: str, value: Any) -> float:
        """What the kernels get for one of `_constants`."""
        return float(value)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises for entries that do not go together, in a group that is being added."""

    def _reference_update(
        self, spec: validation.ParamSpec, grad: Tensor, hypers: list[float], group: dict[str, Any]
    ) -> None:
        """One parameter's update by reference.py, its states and steps included."""
        raise NotImplementedError

    # ---- state and groups: whatever is put there becomes a mapping that tells of changes

    @property
    def state(self) -> State:  # type: ignore[override]
        return self._state

    @state.setter
    def state(self, value: dict[Any, Any]) -> None:
        state = value if isinstance(value, State) else State(value)
        state.tell(self._changes)
        if state is not value:
            state.stand_for(value)
            self._has_aliases = True
        self._changes.note()
        self._state = state
        self._changes.note()

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        compiling.break_where_traced()
        if self._has_aliases:
            self._take_over_aliases()
        return self._param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        groups = groups if isinstance(groups, list) else list(groups)
        groups[:] = [param_groups.adopted(self, group) for group in groups]  # the list stays the caller's, as in torch
        self._changes.note()
        self._param_groups = groups
        self._has_aliases = True
        self._changes.note()

    def _aliased(self) -> list[TrackedDict]:
        """What may stand for a dict of the user's."""
        mappings = [*self._param_groups, self._state, *self._state.values()]
        return [mapping for mapping in mappings if isinstance(mapping, (Group, State, ParamState))]

    def _take_over(self) -> None:
        """Makes groups of the dicts that the user has put into the list, and fetches what was written to aliases."""
        for i, group in enumerate(self._param_groups):
            if not isinstance(group, Group) or self._changes not in group._changes:
                self._param_groups[i] = param_groups.adopted(self, group)
                self._has_aliases = True
        self._take_over_aliases()

    def _take_over_aliases(self) -> None:
        for mapping in self._aliased():
            if mapping._alias is not None:
                mapping.take_over()

    def _aliases(self) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
        """(ours, the user's) for each mapping that stands for one of the user's."""
        return [(ours, ours._alias) for ours in self._aliased() if ours._alias is not None] if self._has_aliases else []

    def _let_go_of_aliases(self) -> None:
        """So that no step looks for what nobody can write any more. The state's alias holds those of the parameters."""
        mappings = self._aliased()
        for mapping in [self._state, *mappings]:
            mapping.let_go_of_alias()
        self._has_aliases = any(mapping._alias is not None for mapping in mappings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch. Entries that it lacks are the constructor's, Schedules included.

        The new group shares the clock: its Schedules start where the clock stands.

        Raises:
            ValueError, TypeError: for a bad value or parameter, naming it; nothing is changed.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {shown(param_group)}")
        values = {**param_group, "params": validation.listed(param_group.get("params"))}
        taken = {p for group in self._param_groups for p in group["params"]}
        validation.check_params(values["params"], taken, self._options)
        param_groups.check_keys(self, values)
        newcomer: Any = _Newcomer(self.defaults, list(self._param_groups))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "optimizer contains a parameter group with duplicate")  # see check_params
            Optimizer.add_param_group(newcomer, values)
        params = [param for group in newcomer.param_groups for param in group["params"]]
        clipping.check_devices(self._options, params)
        validation.check_whole(params, clipping.needs_norm(self._options, self._measures_params))
        group = param_groups.adopted(self, param_group, values, new=True)
        self._changes.note()
        self._param_groups.append(group)
        self._has_aliases = True
        self._changes.note()
        group.show(group)

    def _assignment(self, group: Group, key: str, value: Any) -> tuple[dict[str, Any], bool]:
        """Checks what is assigned to group[key]; see param_groups.assignment."""
        return param_groups.assignment(self, group, key, value)

    def _checked_constant(self, group: Group, key: str, value: Any) -> Any:
        """What is stored for an entry that is no hyperparameter."""
        self._check_constant(key, value)
        is_flag = isinstance(self.defaults[key], bool) and key not in ("differentiable", "capturable")
        return param_groups.checked_flag(key, value) if is_flag else value

    # ---- the clock and what it shows

    @property
    def clock(self) -> Tensor:
        """Steps taken: a 0-dim int64 tensor on the first parameter's device.

        Skipped steps are not counted. All Schedules are functions of it; ``clock.fill_(n)`` moves them,
        and the displayed rates, to step ``n``.
        """
        return self._clock_on(self._first_device())

    @clock.setter
    def clock(self, value: NoReturn) -> None:
        raise TypeError(f"clock cannot be replaced; to move it, call opt.clock.fill_({shown(value)})")

    @property
    def backend(self) -> str:
        """What computes a step for the first parameter: ``"cuda"``, ``"cpu"`` or ``"reference"``."""
        return backends.backend_for(self._first_device())

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

    def get_last_lr(self) -> list[float]:
        """The rates that the next step will use, a float for each group, as torch's schedulers give them.

        ``group["lr"]`` of a Schedule is one tensor that changes; to keep a history of rates, keep these. On a GPU the
        host waits for the device.

        Example:
            >>> import torch
            >>> from sgdr_fused import FusedSGD
            >>> from sgdr_fused.schedules import LinearRamp
            >>> optimizer = FusedSGD([torch.nn.Parameter(torch.ones(1))], lr=LinearRamp(1.0, 0.0, steps=2))
            >>> rates = []
            >>> for _ in range(3):
            ...     rates += optimizer.get_last_lr()
            ...     optimizer.step()
            >>> rates
            [1.0, 0.5, 0.0]
        """
        self._take_over()
        return [float(group["lr"]) for group in self._param_groups]

    def __repr__(self) -> str:
        return representation(self)

    def _first_device(self) -> torch.device:
        """Where the clock and the displays are: the first parameter's device, and the CPU while that is meta."""
        for group in self._param_groups:
            for param in group["params"]:
                return validation.real_device(param)
        return torch.device("cpu")

    def _show(self, display: Tensor) -> None:
        """Brings a display up to date, also where a signal handler moves the clock meanwhile."""
        step = -1
        while step != (now := self._steps_taken()):
            step = now
            displays.show(display, step)

    def _steps_taken(self) -> int:
        return int(self.clock) if self._clocks else 0

    def _clock_on(self, device: torch.device) -> Clock:
        return self._on(device, self._clocks, self._clock_written)

    def _count_on(self, device: torch.device) -> Clock:
        return self._on(device, self._counts, self._count_written)

    def _on(self, device: torch.device, copies: dict[torch.device, Clock], written: Callable[[bool], None]) -> Clock:
        if device not in copies:
            clock = Clock.make(int(next(iter(copies.values()), 0)), device, written)
            copies.setdefault(device, clock)  # a signal handler may have asked for it meanwhile
        return copies[device]

    def _keep_clocks_on(self, devices: Iterable[torch.device]) -> None:
        """One clock and one count for each of these devices, and for no other."""
        wanted = set(devices)
        for device in wanted:
            self._clock_on(device)
            self._count_on(device)
        for copies in (self._clocks, self._counts):
            for device in copies.keys() - wanted:
                del copies[device]

    def _count_written(self, moved: bool) -> None:
        if moved:
            self._changes.note()
        _copy_to_others(self.n_averaged, self._counts)

    def _clock_written(self, moved: bool) -> None:
        if moved:
            self._changes.note()  # the plans have its address
        self._host_clock.forget()
        _copy_to_others(self.clock, self._clocks)
        built = self._built
        if built.plans and built.seen is self._changes.plan:
            for plan in built.plans:
                plan.show()
            if built.seen is self._changes.plan:
                return
        param_groups.show_from_host(self._param_groups, int(self.clock))

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
        host_clock = self._host_clock
        if host_clock.watches:
            host_clock.before_step(self)
        built = self._built
        if built.seen is not self._changes.plan:
            built = self._build()
            if states_only.asked():
                host_clock.forget()
                built.store_states(as_stepped=True)
                return loss
        try:
            if not built.take_step(self):
                built = self._step_anew()
        except BaseException:
            self._changes.note()  # the states that were made for this step are made anew
            raise
        if (
            built.made_for is not self._changes.plan
        ):  # a signal handler has assigned something in the middle of the step
            param_groups.show_from_host(self._param_groups, self._steps_taken())
        if host_clock.watches:
            host_clock.after_step(self)
        return loss

    def _step_anew(self) -> build_plan.Built:
        for _ in range(_MOST_BUILDS):
            built = self._build()
            if built.take_step(self):
                return built
        raise RuntimeError("the parameters, gradients or groups changed each time that the step was prepared")

    def _build(self) -> build_plan.Built:
        new = build_plan.built(self)
        self._let_go_of_plans()
        self._built = new
        return new

    def _let_go_of_plans(self) -> None:
        """Forgets plans that are of no use any more, but not those whose addresses a captured graph holds."""
        if self._built.plans:
            self._captured_plans += [plan for plan in self._built.plans if plan.captured]
            self._built = build_plan.Built(None)

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
            ValueError: if no group has a Schedule for ``lr``, or that one has no cycle that ends.

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
        return self._host_clock.add(self, hook)

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
        return checkpoint.state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict()`` of this class or of its counterpart in torch.optim returned.

        The checkpoint's groups replace ours, Schedules included, and the clock is written in place.
        A checkpoint of torch.optim has no Schedules: ours stay, and the clock becomes its largest
        ``step``; where it has none either, the clock stays too and a warning says how to set it.
        State tensors keep their own dtypes.

        Raises:
            ValueError: for a checkpoint that does not fit; nothing is changed.
        """
        checkpoint.load_state_dict(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return checkpoint.get_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        checkpoint.set_state(self, state)


class _Newcomer:
    """Stands for an optimizer while torch checks and completes a new group, so that nothing is changed by a failure."""

    def __init__(self, defaults: dict[str, Any], param_groups: list[dict[str, Any]]) -> None:
        self.defaults, self.param_groups = defaults, param_groups


def _copy_to_others(source: Tensor, copies: dict[torch.device, Clock]) -> None:
    for copy in copies.values():
        if copy is not source:
            copy.data.copy_(source.as_subclass(Tensor))


_step_with_hooks = Optimizer.profile_hook_step(FusedOptimizer._step)
