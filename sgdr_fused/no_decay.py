"""The parameters of a model in two groups: those with weight decay, and those without."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ._engine import hyperparameters
from ._messages import shown
from ._wrapper_names import plain_name
from .schedules import Schedule

__all__ = ["no_decay_groups"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # the first: BatchNorm, InstanceNorm
Kind: TypeAlias = str | type[nn.Module]
Skip: TypeAlias = Kind | Iterable[Kind] | Callable[[str, nn.Parameter], bool]
_Named: TypeAlias = list[tuple[str, nn.Parameter]]


def no_decay_groups(model: nn.Module, weight_decay: float | Tensor | Schedule, skip: Skip = ()) -> list[dict[str, Any]]:
    """The parameters of a model in two groups: the first has the weight decay, the second has none.

    No weight decay have

    - parameters with fewer than two dimensions,
    - biases: parameters whose own name is ``bias`` or ends in ``_bias``, and ``MultiheadAttention``'s ``bias_k`` and
      ``bias_v``,
    - all parameters of torch's norms and of classes derived from them: ``BatchNorm*``, ``SyncBatchNorm``,
      ``InstanceNorm*``, ``LayerNorm``, ``GroupNorm``, ``RMSNorm``,
    - what a module's method ``no_weight_decay()`` lists, as those of timm's models do, by names that count from that
      module; a name there that no parameter has is passed over,
    - and what ``skip`` says. Embeddings have weight decay, unless ``skip`` has ``torch.nn.Embedding``.

    A parameter that stands in the model several times stands in the groups once, under its first name, and has no
    weight decay if any of its names or modules says so. Frozen parameters (``requires_grad`` is False) are left out, as
    by timm: whoever unfreezes one later adds it by ``add_param_group``. A group without parameters is left out, so
    there may be only one.

    Args:
        model: its parameters must be initialized, and must have shapes of their own.
        weight_decay: of the first group; a finite number >= 0, a tensor with one element, or, for an optimizer of this
            package, a Schedule.
        skip: what else has no weight decay. A name, a pattern such as ``"blocks.*.scale"``, a class of modules, or
            an iterable of these; or a function that is called with name and parameter. Names are those of
            ``model.named_parameters()``; the prefixes of wrappers, such as ``module.``, may be left out.

    Returns:
        groups for any optimizer's constructor: ``params`` is a list of tensors, and ``param_names`` lists their names.
        Pairs of name and parameter would say the same, but torch takes them from version 2.6 on only. A group that is
        added to the optimizer later needs names too, as torch demands of all groups or none.

    Raises:
        ValueError: for a name or pattern that no parameter has, a class that no module has, parameters that are not
            initialized yet, flat parameters of FullyShardedDataParallel, and a model that has nothing to train.
        TypeError, ValueError: for another argument, naming it and its value.

    Example:
        >>> from torch import nn
        >>> from sgdr_fused import FusedAdamW, no_decay_groups
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        >>> optimizer = FusedAdamW(no_decay_groups(model, weight_decay=0.1), lr=1e-3)
        >>> [(group["weight_decay"], group["param_names"]) for group in optimizer.param_groups]
        [(0.1, ['0.weight', '1.weight']), (0.0, ['1.bias', '2.weight', '2.bias'])]
        >>> [group["param_names"] for group in no_decay_groups(model, 0.1, skip=nn.Embedding)]
        [['1.weight'], ['0.weight', '1.bias', '2.weight', '2.bias']]

    Source: timm's ``param_groups_weight_decay``, for what is left out; Loshchilov & Hutter, "Decoupled Weight Decay
    Regularization" (2019), for what the decay does.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {shown(model)}")
    hyperparameters.check("weight_decay", weight_decay, new=True)
    named = [*model.named_parameters(remove_duplicate=False)]
    _check(model, named)
    exempt = {
        *(param for name, param in named if param.ndim < 2 or _is_bias(name)),
        *(param for module in model.modules() if isinstance(module, _NORMS) for param in module.parameters()),
        *_listed_by_the_model(model, named),
        *_skipped(skip, model, named),
    }
    first_names: dict[nn.Parameter, str] = {}
    for name, param in named:
        if param.requires_grad:
            first_names.setdefault(param, name)
    groups = []
    for decay, is_exempt in ((weight_decay, False), (0.0, True)):
        names = {param: name for param, name in first_names.items() if (param in exempt) is is_exempt}
        if names:
            groups.append({"params": [*names], "param_names": [*names.values()], "weight_decay": decay})
    return groups


def _check(model: nn.Module, named: _Named) -> None:
    for name, param in named:
        if is_lazy(param):
            raise ValueError(
                f"model must be initialized, got the parameter {name!r} of a lazy module, which has no shape yet: "
                "call the model with one batch before"
            )
        if getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False):
            raise ValueError(
                f"model must have parameters in their own shapes, got {name!r}, which FullyShardedDataParallel has "
                "made flat: all would be without weight decay; take torch.distributed.fsdp.fully_shard, or write the "
                "groups down by their names"
            )
    if not any(param.requires_grad for _, param in named):
        raise ValueError(f"model must have parameters that require gradients, got none in a {type(model).__name__}")


def _is_bias(name: str) -> bool:
    own = name.rpartition(".")[2]
    return own in ("bias", "bias_k", "bias_v") or own.endswith("_bias")


def _matches(pattern: str, name: str) -> bool:
    return any(each == pattern or fnmatch.fnmatchcase(each, pattern) for each in (name, plain_name(name)))


def _listed_by_the_model(model: nn.Module, named: _Named) -> Iterator[nn.Parameter]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        listed = getattr(module, "no_weight_decay", None)
        for own_name in listed() if callable(listed) else ():
            pattern = f"{prefix}.{own_name}" if prefix else own_name
            yield from (param for name, param in named if _matches(pattern, name))


def _skipped(skip: Any, model: nn.Module, named: _Named) -> Iterator[nn.Parameter]:
    if isinstance(skip, (str, type)):
        skip = [skip]
    if callable(skip) and not isinstance(skip, nn.Module):
        yield from (param for name, param in named if param.requires_grad and skip(name, param))
        return
    if not isinstance(skip, Iterable) or isinstance(skip, (nn.Module, Tensor, bytes)):
        raise TypeError(f"skip must be names, patterns and classes of modules, or a function, got {shown(skip)}")
    for each in skip:
        if isinstance(each, str):
            found = [param for name, param in named if _matches(each, name)]
            if not found:
                raise ValueError(
                    f"skip must fit the model's parameters, got {each!r}, which none has{_hint(each, named)}"
                )
            yield from found
        elif isinstance(each, type) and issubclass(each, nn.Module):
            modules = [module for module in model.modules() if isinstance(module, each)]
            if not modules:
                raise ValueError(f"skip must fit the model's modules, got {each.__name__}, a class that none has")
            yield from (param for module in modules for param in module.parameters())
        else:
            kind = f"; pass the class, {type(each).__name__}" if isinstance(each, nn.Module) else ""
            raise TypeError(f"skip must have names, patterns and classes of modules, got {shown(each)}{kind}")


def _hint(pattern: str, named: _Named) -> str:
    names = [plain_name(name) for name, _ in named]
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"; for all parameters of that module, pass {pattern + '.*'!r}"
    if any(pattern in name for name in names):
        return f"; for all names with that in them, pass {f'*{pattern}*'!r}"
    close = difflib.get_close_matches(pattern, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
