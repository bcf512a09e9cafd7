"""Fused PyTorch optimizers whose learning-rate schedule runs on the device, inside the update."""

from . import schedules
from ._optimizer import Options
from .adam import FusedAdam, FusedAdamW
from .averages import EMA, refreshed_batch_norm
from .growing_batch import GrowingBatchSampler
from .hessian_free import HessianFreeLR, hessian_free_lr
from .range_test import LRFindResult, lr_find
from .sgd import FusedSGD
from .snapshots import SnapshotEnsemble

__version__ = "0.1.0"
__all__ = [
    "EMA",
    "FusedAdam",
    "FusedAdamW",
    "FusedSGD",
    "GrowingBatchSampler",
    "HessianFreeLR",
    "LRFindResult",
    "Options",
    "SnapshotEnsemble",
    "hessian_free_lr",
    "lr_find",
    "refreshed_batch_norm",
    "schedules",
]
