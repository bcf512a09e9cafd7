"""Sums over processes, between what a step measures and its update.

The processes that a mesh joins have a sum together, to which each element of each parameter on that mesh is added
once: of its replicas, the first one. Plain tensors are the same on every process, so the first process of the first
mesh adds them for all. With ``norm_group`` each process has plain tensors of its own, which have a sum of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from .._native import backends
from .plan import Pending, Plan, StepCall
from .sharded import is_sharded

# One group for all processes of a mesh with several dimensions, by their ranks, for as long as the world's group lives.
_GROUPS: WeakKeyDictionary[Any, dict[tuple[int, ...], Any]] = WeakKeyDictionary()


class Share(NamedTuple):
    """Some of a plan's sums of parameters, which a group of processes adds up.

    Attributes:
        rows: of the sums, in the order of the optimizer; None: all of them, in the order in which they are.
        foreign: which of these another process adds; None: none of them.
    """

    group: Any
    rows: Tensor | None
    foreign: Tensor | None

    def add_up(self, sums: Tensor) -> None:
        """Makes of the sums of the parts of parameters that are here those of whole parameters."""
        part = sums if self.rows is None else sums.index_select(0, self.rows)
        if self.foreign is not None:
            part.masked_fill_(self.foreign, 0.0)
        _add_up(part, self.group)
        if self.rows is not None:
            sums.index_copy_(0, self.rows, part)


class Reduction:
    """Which sums there are, and which processes add each of them up.

    Attributes:
        is_needed: whether other processes have anything to add.
        num_sums: how many sums of the squares of gradients a plan makes.
    """

    def __init__(self, params: Iterable[Tensor], norm_group: Any = None) -> None:
        self._groups: list[Any] = []
        self._number: dict[Any, int] = {}  # of a mesh's sum
        numbers: dict[tuple[int, ...], int] = {}  # of the sum of these ranks
        for param in params:
            mesh: Any = getattr(param, "device_mesh", None) if is_sharded(param) else None
            if mesh is None or mesh in self._number:
                continue
            ranks = tuple(sorted(mesh.mesh.flatten().tolist()))
            if ranks not in numbers:
                numbers[ranks] = len(self._groups)
                self._groups.append(_group_of(mesh, ranks))
            self._number[mesh] = numbers[ranks]
        self._plain = 0, not numbers or dist.get_rank() == next(iter(numbers))[0]
        if norm_group is not None:
            self._plain = len(self._groups), True
            self._groups.append(norm_group)
        self.is_needed = any(dist.get_world_size(group) > 1 for group in self._groups)
        self.num_sums = len(self._groups) if self.is_needed else 1

    def place(self, param: Tensor) -> tuple[int, bool]:
        """The number of the sum that the parameter is a part of, and whether this process adds it."""
        if not self.is_needed:
            return 0, True
        if not is_sharded(param):
            return self._plain
        shared: Any = param
        coordinate = shared.device_mesh.get_coordinate() or ()
        replica = any(c for c, placed in zip(coordinate, shared.placements, strict=False) if placed.is_replicate())
        return self._number[shared.device_mesh], not replica

    def add_up_grads(self, sums: Tensor) -> None:
        """Makes the first sum that of all gradients on all processes."""
        for i, group in enumerate(self._groups):
            _add_up(sums[i], group)
        if len(self._groups) > 1:
            sums[0] = sums.sum(0)

    def shares(self, order: list[int], places: list[tuple[int, bool]], device: torch.device) -> list[Share]:
        """Which of a plan's sums of parameters each group of processes adds up.

        Args:
            order: the place in the optimizer of the parameter of each row, which may be another one in each process.
            places: what ``place()`` says of each of the optimizer's parameters.
        """
        in_order = sorted(range(len(order)), key=order.__getitem__)
        result = []
        for i, group in enumerate(self._groups):
            rows = [row for row in in_order if places[order[row]][0] == i]
            if not rows or dist.get_world_size(group) == 1:
                continue
            foreign = [not places[order[row]][1] for row in rows]
            is_all = rows == list(range(len(order)))
            result.append(
                Share(
                    group,
                    None if is_all else torch.tensor(rows, device=device),
                    torch.tensor(foreign, device=device)[:, None] if any(foreign) else None,
                )
            )
        return result

    def any_found(self, found_inf: Tensor | None) -> Tensor | None:
        """A GradScaler's found_inf, not 0 where that of any process is not."""
        if found_inf is None:
            return None
        found_inf = found_inf.clone()
        for group in self._groups:
            if dist.get_world_size(group) > 1:
                dist.all_reduce(found_inf, dist.ReduceOp.MAX, group)
        return found_inf


class StepOverProcesses:
    """Takes a step of the extension in parts, between which the sums of all processes are added up."""

    def __init__(
        self,
        reduction: Reduction,
        params: list[Tensor],
        plans: list[Plan],
        measures_grads: bool,
        measures_params: bool,
    ) -> None:
        self._reduction = reduction
        self._measures_grads, self._measures_params = measures_grads, measures_params
        self._shares: list[list[Share]] = []
        if measures_params:  # made here, for a step must neither copy to a device nor wait for one
            places = [reduction.place(param) for param in params]
            native: list[Any] = [*plans]
            self._shares = [reduction.shares(plan.order, places, plan.device) for plan in native]

    def __call__(
        self,
        membership: Any,
        groups: list[dict[str, Any]],
        plans: list[Plan],
        scales: list[Tensor | None] | None,
        founds: list[Tensor | None] | None,
        pending: Pending,
    ) -> bool:
        extension: Any = backends.load()
        native: list[Any] = [*plans]
        if founds is None and not self._measures_grads and not self._measures_params:
            return bool(extension.step(membership, groups, native, scales, founds, pending))
        # Whatever has changed is found before the first sum: then the step is prepared anew, by this process alone.
        arguments = membership, groups, native, scales, founds
        if not extension.measure_grads(*arguments):
            return False
        if founds is not None:
            founds = [self._reduction.any_found(found) for found in founds]
            arguments = membership, groups, native, scales, founds
        if self._measures_grads:
            for plan in native:
                self._reduction.add_up_grads(plan.grad_sums)
        taken = True
        if self._measures_params:
            for plan in native:
                plan.param_sums.zero_()  # a parameter without a gradient here may have one elsewhere
            taken = extension.measure_params(*arguments)
            for plan, shares in zip(native, self._shares, strict=True) if taken else ():
                for share in shares:
                    share.add_up(plan.param_sums)
        if not (taken and extension.update(*arguments, pending)):
            raise RuntimeError(
                "parameters, gradients or groups were changed in the middle of a step that several processes take"
            )
        return True


def without_found_inf(step: StepCall) -> StepCall:
    """The reference's step, refused where another process may have found an overflow that this one has not."""

    def taken(*arguments: Any) -> bool:
        founds = arguments[4]
        if founds is not None:
            raise RuntimeError(
                "found_inf of parameters on several processes needs the extension: the reference adds up none"
            )
        return step(*arguments)

    return taken


def _add_up(tensor: Tensor, group: Any) -> None:
    if dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, dist.ReduceOp.SUM, group)


def _group_of(mesh: Any, ranks: tuple[int, ...]) -> Any:
    """One group of all processes of a mesh."""
    wide = [dim for dim in range(mesh.ndim) if mesh.size(dim) > 1]
    if len(wide) <= 1:
        return mesh.get_group(wide[0] if wide else 0)
    world = dist.group.WORLD
    if len(ranks) == dist.get_world_size():
        return world
    known = _GROUPS.setdefault(world, {})
    if ranks not in known:
        known[ranks] = dist.new_group([*ranks], use_local_synchronization=True)
    return known[ranks]
