"""Models inside wrappers, such as those of torch.compile and DataParallel, which put a prefix before names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .._messages import shown
from .._wrapper_names import plain_name


def bare(model: nn.Module) -> nn.Module:
    """The model without its wrappers: functional_call on a wrapper may not use the tensors that it was given."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # without importing torch.compile's machinery
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def fitted(tensors: Mapping[str, Tensor], own: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """The tensors under the names of ``own``. Either may be of a wrapped model, with prefixes anywhere in its names.

    Raises:
        ValueError: naming the tensors that are missing, that are too many, and that have another shape.
    """
    names = {name: name for name in own}
    if set(tensors) != set(own):
        given, wanted = ({plain_name(name): name for name in each} for each in (tensors, own))
        if len(given) == len(tensors) and len(wanted) == len(own):  # else a name does not tell which it is
            names = {name: given.get(plain, name) for plain, name in wanted.items()}
    missing = [name for name, source in names.items() if source not in tensors]
    unexpected = sorted(set(tensors) - set(names.values()))
    shapes = [
        f"{name} {tuple(tensors[source].shape)} for {tuple(own[name].shape)}"
        for name, source in names.items()
        if source in tensors and tensors[source].shape != own[name].shape
    ]
    wrong = [
        f"{kind}: {_few(each)}"
        for kind, each in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if each
    ]
    if wrong:
        raise ValueError(f"{what} does not fit the model; {'; '.join(wrong)}")
    return {name: tensors[source] for name, source in names.items()}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name).strip("'") for name in names[:3]) + more
