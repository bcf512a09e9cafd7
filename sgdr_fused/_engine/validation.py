"""What can be optimized: checks of parameters, gradients and states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .._messages import shown, warn
from .clipping import needs_norm
from .dtypes import GRAD_DTYPES, STATE_DTYPES
from .options import Options
from .overlap import has_elements, overlaps_itself, shares_elements, span_of
from .param_state import dtypes_of
from .sharded import check_placed_as, check_placements, is_sharded, local_part


def listed(params: Any) -> list[Any]:
    """Makes a list of a group's entry "params"; its elements are not looked at."""
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, Module):
        raise TypeError(f"params must be tensors, got a {type(params).__name__}; pass model.parameters()")
    if isinstance(params, (str, bytes, set, dict)) or not isinstance(params, Iterable):
        raise TypeError(f"params must be an ordered collection of tensors, got {shown(params)}")
    given = list(params)
    if not given and isinstance(params, Iterator):
        warn(f"params of a group is {shown(params)}, which gave no tensors: it was used up, or nothing was in it")
    return given


def real_device(param: Tensor) -> torch.device:
    """The device of the numbers that belong to a parameter; the CPU while it is on meta, which holds none."""
    return torch.device("cpu") if param.device.type == "meta" else param.device


def check_params(params: list[Any], taken: set[Tensor], options: Options) -> None:
    """Raises for what cannot be optimized, and for a parameter in `taken`; warns of one that stands here twice."""
    seen: set[Tensor] = set()
    for i, item in enumerate(params):
        param = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        name = f"params[{i}]"
        if not isinstance(param, Tensor):
            raise TypeError(f"{name} must be a tensor, got {shown(param)}")
        described = f"{name} of shape {tuple(param.shape)}, {param.dtype}"
        if param in taken:
            raise ValueError(f"{described} is in another group already: a parameter may be in one")
        if param in seen:
            warn(f"{described} is twice in this group; a step updates it once")
        seen.add(param)
        if not (param.is_leaf or param.retains_grad):
            raise ValueError(f"{described} must be a leaf tensor, got the result of {param.grad_fn}")
        check_param(param, described, options)


def check_whole(params: Iterable[Tensor], options: Options, of_params: bool) -> None:
    """Raises for a part of a parameter in a plain tensor where the norm of the whole is needed.

    FullyShardedDataParallel leaves each process a part of the parameters in plain tensors, which it marks. Over a
    ``norm_group`` the norms of parts are added up. A flat parameter is made of several, each of which has a rate of its
    own where the algorithm measures it (`of_params`).
    """
    why = needs_norm(options, of_params)
    for param in params:
        is_flat, is_part = getattr(param, "_is_flat_param", False), getattr(param, "_fsdp_flattened", False)
        if why and (is_flat or is_part) and options["norm_group"] is None:
            raise ValueError(
                f"{why} needs whole parameters, got one of shape {tuple(param.shape)} that FullyShardedDataParallel "
                "has sharded: the norm of a part would be another one; norm_group=process_group adds up those of all"
            )
        if of_params and is_flat:
            raise ValueError(
                f"{why} needs parameters one by one, got a flat one of shape {tuple(param.shape)}; "
                "FullyShardedDataParallel(use_orig_params=True) keeps them apart"
            )


def check_param(param: Tensor, described: str, options: Options) -> None:
    if is_traceable_wrapper_subclass(param) and not is_sharded(param):
        raise TypeError(
            f"{described} is a {type(param).__name__}, whose memory the kernels cannot reach; leave it to an optimizer "
            "of torch.optim, or of the library that it is from, and give the other parameters to this one"
        )
    check_placements(param, described)
    if param.layout != torch.strided:
        raise TypeError(f"{described} must be dense, got layout {param.layout}")
    if param.dtype not in STATE_DTYPES:
        allowed = ", ".join(str(dtype) for dtype in STATE_DTYPES)
        raise TypeError(f"{described} must be one of {allowed}, got {param.dtype}")
    state_dtype = options["state_dtype"]
    if state_dtype is not None and state_dtype not in STATE_DTYPES[param.dtype]:
        allowed = " or ".join(map(str, STATE_DTYPES[param.dtype]))
        raise TypeError(f"state_dtype must be {allowed} for {described}, got {state_dtype}")
    if options["stochastic_rounding"] and param.dtype == torch.float16:
        raise TypeError(f"stochastic_rounding must be False for {described}: it is there for bfloat16")
    if overlaps_itself(local_part(param)):
        raise ValueError(f"{described} has elements that share memory: strides {param.stride()}")


def check_grad(param: Tensor, grad: Tensor, name: str) -> None:
    described = f"the gradient of {name} (shape {tuple(param.shape)}, {param.dtype}, {param.device})"
    if grad.layout != torch.strided:
        raise RuntimeError(f"{described} must be dense, got layout {grad.layout}: sparse gradients are not supported")
    if grad.dtype not in GRAD_DTYPES[param.dtype]:
        allowed = " or ".join(map(str, GRAD_DTYPES[param.dtype]))
        raise TypeError(f"{described} must be {allowed}, got {grad.dtype}")
    if grad.device != param.device:
        raise ValueError(f"{described} must be on the parameter's device, got {grad.device}")
    if grad.shape != param.shape:
        raise ValueError(f"{described} must have the parameter's shape, got {tuple(grad.shape)}")
    if is_traceable_wrapper_subclass(grad) and not is_sharded(grad):
        raise TypeError(f"{described} is a {type(grad).__name__}, whose memory the kernels cannot reach")
    check_placed_as(param, grad, described)
    if overlaps_itself(local_part(grad)):
        raise ValueError(f"{described} has elements that share memory: strides {grad.stride()}")


def check_state(param: Tensor, key: str, value: Any, name: str) -> None:
    dtypes = dtypes_of(param, key)
    described = f"state[{key!r}] of {name} (shape {tuple(param.shape)}, {param.dtype}, {param.device})"
    if not isinstance(value, Tensor):
        raise TypeError(f"{described} must be a tensor, got {shown(value)}")
    if value.shape != param.shape or value.layout != torch.strided:
        raise ValueError(f"{described} must be dense and of the parameter's shape, got {tuple(value.shape)}")
    if value.dtype not in dtypes:
        raise TypeError(
            f"{described} must be {' or '.join(map(str, dtypes))}, got {value.dtype}: the parameter was converted "
            "after its state was made, or the state is another's; convert the model before the first step, or make a "
            "new optimizer, or convert the state as well"
        )
    if value.device != param.device:
        raise ValueError(
            f"{described} must be on the parameter's device, got {value.device}: the parameter was moved after its "
            "state was made; move the state as well, or load it by load_state_dict(opt.state_dict())"
        )
    check_placed_as(param, value, described)
    if overlaps_itself(local_part(value)):
        raise ValueError(f"{described} has elements that share memory: strides {value.stride()}")


def check_apart(params: list[Tensor]) -> bool:
    """Raises for two parameters that share elements and both have gradients: each would undo the other's step.

    Returns whether there are some of which not both have gradients, as a module's parameter and the one that a
    parametrization has put in its place. Then it has to be asked again at the next step.
    """
    parts = [local_part(param) for param in params]
    spans = sorted(
        ((str(part.device), *span_of(part), i) for i, part in enumerate(parts) if has_elements(part)),
    )
    shared, open_spans = False, spans[:0]
    for device, begin, end, i in spans:
        open_spans = [span for span in open_spans if span[0] == device and span[2] > begin]
        for _, _, _, k in open_spans:
            if not shares_elements(parts[i], parts[k]):
                continue
            shared = True
            if params[i].grad is not None and params[k].grad is not None:
                shapes = f"{tuple(params[k].shape)} and {tuple(params[i].shape)}"
                raise ValueError(f"params of shapes {shapes} on {device} share memory, and both have gradients")
        open_spans.append((device, begin, end, i))
    return shared
