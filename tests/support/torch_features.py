"""What some releases of torch lack. A test that needs it is skipped there, with the reason."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.distributed as dist

if dist.is_available():
    import torch.distributed.fsdp as fsdp


def makes_sums_late() -> bool:
    """Whether torch's Adagrad makes a state at a step; before torch 2.13, its constructor alone did."""
    param = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adagrad([param])
    optimizer.state.clear()
    param.grad = torch.ones(1)
    try:
        optimizer.step()
    except KeyError:
        return False
    return True


DECOUPLED_ADAM = "decoupled_weight_decay" in inspect.signature(torch.optim.Adam).parameters  # since torch 2.7
FSDP2 = dist.is_available() and hasattr(fsdp, "fully_shard")  # public since torch 2.6
GRAD_DTYPE = hasattr(torch.Tensor, "grad_dtype")
NAMED_PARAMETERS = "param_names" in inspect.getsource(torch.optim.Optimizer.add_param_group)  # since torch 2.6
WITHOUT_GRAD_DTYPE = "in this torch, a gradient has the dtype of its parameter (Tensor has no grad_dtype)"

needs_export_of_steps = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="this torch cannot export operators that write to lists of tensors"
)
needs_grad_dtype = pytest.mark.skipif(not GRAD_DTYPE, reason=WITHOUT_GRAD_DTYPE)
needs_late_sums = pytest.mark.skipif(not makes_sums_late(), reason="this torch's Adagrad makes no state at a step")
needs_named_parameters = pytest.mark.skipif(not NAMED_PARAMETERS, reason="this torch.optim takes no named parameters")

# Files that import what FSDP2 needs.
NEED_FSDP2 = (
    "distributed",
    "support/dcp.py",
    "support/dcp_recipes.py",
    "support/dying.py",
    "support/sharding.py",
    "support/wrapped.py",
)
