"""The base class of the fused optimizers: torch's interface, in front of a session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from .._engine import (
    checkpoint,
    clipping,
    compiling,
    cycles,
    frameworks,
    load_checkpoint,
    new_groups,
    param_groups,
    swap_average,
)
from .._engine.algorithm import Algorithm
from .._engine.algorithm_of import Kin, candidate
from .._engine.host_clock import CycleEndHook
from .._engine.options import Options, checked_options, new_seed
from .._engine.representation import representation
from .._engine.session import Session
from .._engine.step import take_step
from .._engine.tracked import State
from .._messages import shown
from .._native import backends
from ..averages import Average

if TYPE_CHECKING:
    from typing_extensions import Unpack


@compiling.untraced(but=("state", "param_groups"))
class FusedOptimizer(Optimizer):
    """Base class. A subclass has torch's signature and docstring, and declares its algorithm."""

    _algorithm: ClassVar[Algorithm]
    _session: Session
    _step_supports_amp_scaling = frameworks.StepUnscales()

    def __init__(self, params: Any, defaults: dict[str, Any], **options: Unpack[Options]) -> None:
        checked = checked_options(options, type(self).__name__, defaults)
        seed = new_seed() if checked["stochastic_rounding"] else None
        self._session = Session(self._algorithm, type(self).__name__, checked, seed)
        super().__init__(new_groups.groups_of(params), defaults)
        cycles.check_average(checked, self._session.groups)

    # ---- what torch keeps on an optimizer

    @property
    def defaults(self) -> dict[str, Any]:  # an attribute, in torch
        return self._session.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self._session.defaults = value

    @property
    def state(self) -> State:
        return self._session.state

    @state.setter
    def state(self, value: dict[Any, Any]) -> None:
        self._session.set_state(value)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        session = self._session
        if session.has_aliases:
            session.take_over_aliases()
        return frameworks.groups_for(session, sys._getframe(1))

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        param_groups.set_groups(self._session, groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as in torch. Entries that it lacks are the constructor's, Schedules included.

        The new group shares the clock: its Schedules start where the clock stands.

        Raises:
            ValueError, TypeError: for a bad value or parameter, naming it; nothing is changed.
        """
        new_groups.add(self._session, param_group)

    # ---- the clock and what it shows

    @property
    def clock(self) -> Tensor:
        """Steps taken: a 0-dim int64 tensor on the first parameter's device.

        Skipped steps are not counted. All Schedules are functions of it; ``clock.fill_(n)`` moves them,
        and the displayed rates, to step ``n``.
        """
        return self._session.clock

    @clock.setter
    def clock(self, value: NoReturn) -> None:
        raise TypeError(f"clock cannot be replaced; to move it, call opt.clock.fill_({shown(value)})")

    @property
    def backend(self) -> str:
        """What computes a step for the first parameter: ``"cuda"``, ``"cpu"`` or ``"reference"``."""
        return backends.backend_for(self._session.first_device())

    @property
    def average(self) -> Average:
        """What the constructor was given as ``average``."""
        return self._session.options["average"]

    @property
    def n_averaged(self) -> Tensor:
        """What the averages are of: a 0-dim int64 tensor, the cycles that have ended, or with EMA the steps taken.

        ``n_averaged.zero_()`` starts them anew: what comes next replaces them.
        """
        return self._session.n_averaged

    @property
    def grad_norm(self) -> Tensor:
        """The Euclidean norm of all gradients at the last step, before ``max_grad_norm``: a 0-dim float64 tensor.

        It is on the parameters' device, always the same tensor, and also written by replays of a CUDA graph. An
        AttributeError without an option that needs it.
        """
        session = self._session
        return clipping.norm_of(session.options, session.measured, session.first_device())

    @property
    def skipped_steps(self) -> Tensor:
        """With ``skip_nonfinite``, how many steps were skipped: a 0-dim int64 tensor on the parameters' device."""
        return checkpoint.skipped_steps(self._session)

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
        param_groups.take_over(self._session)
        return [float(group["lr"]) for group in self._session.groups]

    def __repr__(self) -> str:
        return representation(self._session)

    # ---- the step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
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
        return take_step(self._session, self, closure)

    # torch would wrap step() in hooks and a profiler range that cost more than a small model's step.
    # step() does the same itself when there is a hook or a profiler.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        return take_step(self._session, self, closure)

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
        return self._session.host_clock.add(self._session, hook)

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
        return swap_average.swapped(self._session)

    # ---- checkpoints, pickle, deepcopy

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout, with the clock and the Schedules in the groups.

        A scheduled hyperparameter is the Python float of its next value. A parameter that no step has
        updated has no ``momentum_buffer``; to know, this may wait for the device.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        result = checkpoint.state_dict(self._session)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, result)
            if replaced is not None:
                result = replaced
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict()`` of this class or of its counterpart in torch.optim returned.

        The checkpoint's groups replace ours, Schedules included, and the clock is written in place.
        A checkpoint of torch.optim has no Schedules: ours stay, and the clock becomes its largest
        ``step``; where it has none either, the clock stays too and a warning says how to set it.
        State tensors keep their own dtypes.

        Where the optimizer and the checkpoint both have names (``param_names``, from ``model.named_parameters()``),
        each state goes to the parameter of its name, in whatever order the parameters are. Otherwise states go by
        position, as in torch. Prefixes of wrappers, such as ``module.`` and ``_orig_mod.``, count as no part of a name
        where the names fit without them only. Each group takes the entries of that group of the checkpoint with which
        it has the most parameters in common. A parameter that is in another group than before keeps its state, has
        that group's hyperparameters from there on, and a warning says so.

        Raises:
            ValueError: for a checkpoint that does not fit, naming the parameters or groups; nothing is changed.

        Example:
            >>> import torch
            >>> from sgdr_fused import FusedSGD
            >>> a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
            >>> trained = FusedSGD([("a", a), ("b", b)], lr=0.1, momentum=0.9)
            >>> a.grad, b.grad = torch.tensor([1.0]), torch.tensor([2.0])
            >>> trained.step()
            >>> other = FusedSGD([("b", b), ("a", a)], lr=0.1, momentum=0.9)
            >>> other.load_state_dict(trained.state_dict())
            >>> other.state[a]["momentum_buffer"].item(), other.state[b]["momentum_buffer"].item()
            (1.0, 2.0)
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {shown(state_dict)}")
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            if replaced is not None:
                state_dict = replaced
        load_checkpoint.load_state_dict(self._session, state_dict, _kin(type(self)))
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return checkpoint.get_state(self._session)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_session" not in self.__dict__:
            self._session = checkpoint.session_of(state, self._algorithm, type(self).__name__)
        if "defaults" in state:
            self.defaults = state["defaults"]
        super().__setstate__({})  # hooks and such
        checkpoint.set_state(self._session, state)


def _kin(own: type[FusedOptimizer]) -> Kin:
    """The optimizers of this package, and `own`, which may be the user's own; each algorithm once."""
    found, left = [], [FusedOptimizer]
    while left:
        cls = left.pop()
        left += cls.__subclasses__()
        algorithm, inherited = (getattr(each, "_algorithm", None) for each in (cls, cls.__base__))
        is_first = algorithm is not None and (inherited is None or inherited.name != algorithm.name)
        if is_first or cls is own:
            found.append(candidate(cls, cls._algorithm))
    return Kin(candidate(own, own._algorithm), found)


_step_with_hooks = Optimizer.profile_hook_step(FusedOptimizer._step)
